"""What the inputs of a batch are in: a tensor, or tuples and mappings of tensors, as the model's arguments are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sigmaquant.data.tensors import as_tensor, describe, is_array
from sigmaquant.errors import DataError

Structure = Any
"""A tensor; or a tuple or a dict of such structures."""


@dataclass(frozen=True)
class Keys:
    """What the entries of batches that are mappings mean.

    Attributes:
        arguments: the names of the model's arguments in their order; None: not known.
        target: the key of the targets.
    """

    arguments: tuple[str, ...] | None = None
    target: str = "labels"

    def chosen(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The entries that the model takes, in the order of its arguments; of a model that names none of them, all.

        What a model takes by ``**kwargs`` besides named arguments is left out: it is more often a column of the data
        that nobody needs than an input.
        """
        named = [name for name in self.arguments or () if name in inputs]
        return {name: inputs[name] for name in named or sorted(inputs)}

    def split(self, batch: Mapping[Any, Any], where: str) -> tuple[dict[str, Any], Any]:
        """Inputs and targets of a batch that is a mapping; entries that hold no arrays, such as texts, are left out.

        Raises:
            DataError: there are no targets, or nothing besides.
        """
        if self.target not in batch:
            raise DataError(
                f"{where} is a {describe(batch)} with the keys {[str(key) for key in batch][:8]}, but without targets "
                f"{self.target!r}. Give them under this key, or name theirs: the attribute `target` of a task."
            )
        inputs = {str(key): value for key, value in batch.items() if key != self.target and _holds_arrays(value)}
        if not inputs:
            raise DataError(f"{where} is a {describe(batch)} without inputs: besides {self.target!r} it has no array.")
        return inputs, batch[self.target]


def _holds_arrays(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_arrays(item) for item in value.values())
    return is_array(value) or (isinstance(value, tuple | list) and any(_holds_arrays(item) for item in value))


def all_arrays(value: Any) -> bool:
    """Whether a value is an array, or nothing but arrays in tuples, lists and mappings."""
    if isinstance(value, Mapping):
        return bool(value) and all(map(all_arrays, value.values()))
    return is_array(value) or (isinstance(value, tuple | list) and bool(value) and all(map(all_arrays, value)))


def read_structure(value: Any, where: str) -> Structure:
    """Inputs as tensors, in tuples and dicts.

    Raises:
        DataError: something else, or no batch dimension, or batch dimensions that differ.
    """
    structure = _read(value, f"{where}: the input", where)
    tensors = list(leaves(structure))
    if any(tensor.ndim == 0 for tensor in tensors):
        raise DataError(f"{where}: an input has no batch dimension. Give batches of shape [batch, …].")
    if len({len(tensor) for tensor in tensors}) > 1:
        raise DataError(f"{where}: the inputs have {[len(t) for t in tensors]} examples. They must have equally many.")
    return structure


def _read(value: Any, what: str, where: str) -> Structure:
    if isinstance(value, Mapping) and value:
        return {str(key): _read(item, f"{where}: input {str(key)!r}", where) for key, item in value.items()}
    if isinstance(value, tuple | list) and value:
        return tuple(_read(item, f"{where}: input {index}", where) for index, item in enumerate(value))
    return as_tensor(value, what)


def leaves(structure: Structure) -> Iterator[Tensor]:
    """The tensors; of a dict within the arguments by the order of its keys."""
    if isinstance(structure, Tensor):
        yield structure
    else:
        for item in structure.values() if isinstance(structure, Mapping) else structure:
            yield from leaves(item)


def mapped(structure: Structure, change: Callable[[Tensor], Tensor]) -> Structure:
    """The same with every tensor changed."""
    if isinstance(structure, Tensor):
        return change(structure)
    if isinstance(structure, Mapping):
        return {key: mapped(item, change) for key, item in structure.items()}
    return tuple(mapped(item, change) for item in structure)


def ordered(structure: Structure, keys: Keys) -> Structure:
    """What the model is called with: its own arguments of a mapping, in their order."""
    if isinstance(structure, Mapping):
        structure = keys.chosen(structure)
        return {key: _sorted(item) for key, item in structure.items()}
    return _sorted(structure)


def _sorted(structure: Structure) -> Structure:
    """Dicts within arguments in the order of their keys: batches may come with any."""
    if isinstance(structure, Mapping):
        return {key: _sorted(structure[key]) for key in sorted(structure)}
    return tuple(map(_sorted, structure)) if isinstance(structure, tuple) else structure


def outline(structure: Structure) -> Any:
    """What tells two structures apart: containers and keys, without the tensors."""
    if isinstance(structure, Tensor):
        return "tensor"
    if isinstance(structure, Mapping):
        return {key: outline(item) for key, item in structure.items()}
    return tuple(map(outline, structure))


def flat(structure: Structure) -> Tensor | tuple[Tensor, ...]:
    """The tensors as batches give them: one, or a tuple of them."""
    return structure if isinstance(structure, Tensor) else tuple(leaves(structure))
