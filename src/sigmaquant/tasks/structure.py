"""Outputs as networks return them: one tensor, or tuples, lists and dicts of tensors, however deep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from sigmaquant.errors import DataError

Outputs = Any
"""What counts of what a network returns: a tensor [N, ...], or containers of such tensors."""


def leaves(outputs: Outputs) -> list[Tensor]:
    """The tensors, in the order in which the containers hold them."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def map_outputs(change: Callable[[Tensor], Tensor], outputs: Outputs) -> Outputs:
    """The same containers with every tensor changed."""
    return pytree.tree_map_only(Tensor, change, outputs)


def as_float32(outputs: Outputs) -> Outputs:
    """Floating-point tensors in float32; integers, such as indices, as they are."""
    return map_outputs(lambda x: x.float() if x.is_floating_point() else x, outputs)


def joined(parts: Sequence[Outputs], what: str) -> Outputs:
    """The outputs of all batches as those of one.

    Raises:
        DataError: containers, or shapes beyond the number of examples, that differ.
    """
    first, form = pytree.tree_flatten(parts[0])
    rows = [first]
    for part in parts[1:]:
        row, other = pytree.tree_flatten(part)
        if other != form:
            raise DataError(f"the {what} of one batch are {describe(parts[0])}, of another {describe(part)}.")
        rows.append(row)
    return pytree.tree_unflatten([_joined_column(column, what) for column in zip(*rows, strict=True)], form)


def _joined_column(column: Sequence[Any], what: str) -> Any:
    if not isinstance(column[0], Tensor):
        return column[0]
    shapes = dict.fromkeys(tuple(part.shape[1:]) for part in column)
    if len(shapes) > 1:
        one, other = list(shapes)[:2]
        raise DataError(
            f"the {what} of an example have the shape {one} in one batch and {other} in another, and a metric sees "
            "those of all examples at once. Give examples of one shape."
        )
    return torch.cat(list(column))


def describe(outputs: Outputs) -> str:
    """Shapes in their containers, for messages."""
    if isinstance(outputs, Tensor):
        return str(tuple(outputs.shape))
    return str(pytree.tree_map_only(Tensor, lambda x: tuple(x.shape), outputs))


def picked(returned: Any, place: int | str) -> Any:
    """One of the outputs that a network returns.

    Args:
        returned: by the network.
        place: a position, a key or an attribute; a text with dots goes deeper: ``"heads.0"``.

    Raises:
        DataError: there is none at that place.

    Example:
        >>> picked({"heads": (1, 2)}, "heads.1")
        2
    """
    found = returned
    for part in str(place).split("."):
        try:
            if isinstance(found, Mapping):
                found = found[part]
            elif part.lstrip("-").isdigit() and isinstance(found, tuple | list):
                found = found[int(part)]
            else:
                found = getattr(found, part)
        except (KeyError, IndexError, AttributeError):
            raise DataError(f"the network's outputs, {describe(returned)}, have nothing at {place!r}.") from None
    return found


def check_examples(outputs: Outputs) -> Outputs:
    """What counts, once it is known to have a row for each example.

    Raises:
        DataError: no tensor, or one without a batch dimension, or of another number of examples.
    """
    found = leaves(outputs)
    if not found:
        raise DataError(f"nothing that counts is a tensor: the task's outputs are {type(outputs).__name__}.")
    if any(x.dim() == 0 or len(x) != len(found[0]) for x in found):
        raise DataError(
            f"the outputs that count, {describe(outputs)}, must have a row for each example. Let the task's outputs() "
            "leave out what has not, such as a loss."
        )
    return outputs
