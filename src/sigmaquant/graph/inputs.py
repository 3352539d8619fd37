"""What a model is called with: a tensor, several, or a dict of them, as deep as the user nests them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from sigmaquant.errors import ModelError

ExampleInputs = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
"""A tensor; a tuple or list of positional arguments; or a dict of keyword arguments. Arguments may be nested."""


@dataclass(frozen=True)
class Arguments:
    """The arguments of one call of a model.

    Attributes:
        args: positional ones.
        kwargs: keyword arguments, in the order of the model's signature.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor, in the order in which the graph takes them."""
        return [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    def map(self, change: Callable[[Tensor], Any]) -> Arguments:
        """The same with every tensor changed."""
        args, kwargs = pytree.tree_map_only(Tensor, change, (self.args, self.kwargs))
        return Arguments(args, kwargs)

    def describe(self) -> str:
        """Shapes, for messages."""
        shapes = pytree.tree_map_only(Tensor, lambda x: tuple(x.shape), [*self.args, *self.kwargs.values()])
        return str(shapes)


def read_arguments(model: nn.Module, example: object) -> Arguments:
    """An example as arguments of the model's forward.

    A dict holds keyword arguments; where the model knows no such keywords and takes one argument, the dict is that.
    Of a tuple, what is left when the model takes no more positional arguments goes to its keyword-only ones, in order.

    Raises:
        ModelError: no tensor, or something that no graph can take.
    """
    signature = inspect.signature(model.forward)
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example, Tensor):
        args, kwargs = _positional(signature, (example,))
    elif isinstance(example, Mapping):
        kwargs = {str(key): _plain(value) for key, value in example.items()}
        if not _binds(signature, (), kwargs) and _binds(signature, (kwargs,), {}):
            args, kwargs = (kwargs,), {}
        else:
            order = [name for name in signature.parameters if name in kwargs]
            kwargs = {name: kwargs[name] for name in (*order, *(name for name in kwargs if name not in order))}
    elif isinstance(example, list | tuple):
        args, kwargs = _positional(signature, tuple(_plain(item) for item in example))
    found = Arguments(args, kwargs)
    leaves = pytree.tree_leaves((args, kwargs))
    unknown = [leaf for leaf in leaves if not isinstance(leaf, Tensor | int | float | str | None)]
    if not found.tensors or unknown:
        what = f"; it holds a {type(unknown[0]).__name__}" if unknown else ""
        raise ModelError(
            "the example must be a tensor, a tuple of tensors (the model's positional inputs), or a dict of tensors "
            f"(its inputs by name){what}. These may be nested in tuples, lists and dicts."
        )
    for tensor in found.tensors:
        if tensor.layout != torch.strided:
            layout = str(tensor.layout).removeprefix("torch.")
            raise ModelError(f"the example holds a {layout} tensor, which no graph takes. Give its to_dense().")
    return found


def argument_names(model: nn.Module) -> tuple[str, ...]:
    """The names of the arguments of a model's forward, in their order."""
    parameters = inspect.signature(model.forward).parameters.values()
    various = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(p.name for p in parameters if p.kind not in (*various, inspect.Parameter.POSITIONAL_ONLY))


def name_keywords_(model: nn.Module, given: Arguments) -> None:
    """Let the signature of the model's forward name what its ``**kwargs`` are given; `torch.export` needs that.

    Args:
        model: gets a ``forward`` of its own where there is such a thing; whoever calls this takes it away again.
        given: the arguments.
    """
    forward = model.forward
    signature = inspect.signature(forward)
    kept = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    extra = [name for name in given.kwargs if name not in signature.parameters]
    if not extra:
        return

    @functools.wraps(forward)
    def named(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in extra]
    named.__signature__ = signature.replace(parameters=[*kept, *more])  # type: ignore[attr-defined]
    model.forward = named


def map_tensors(example: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An example with every tensor changed."""
    if isinstance(example, Mapping):
        return {key: map_tensors(value, change) for key, value in example.items()}
    if type(example) in (list, tuple):
        return type(example)(map_tensors(value, change) for value in example)
    return pytree.tree_map_only(Tensor, change, example)


def _positional(signature: inspect.Signature, given: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    kinds = [(name, parameter.kind) for name, parameter in signature.parameters.items()]
    takes = sum(
        kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for _, kind in kinds
    )
    names = [name for name, kind in kinds if kind is inspect.Parameter.KEYWORD_ONLY]
    if any(kind is inspect.Parameter.VAR_POSITIONAL for _, kind in kinds) or len(given) > takes + len(names):
        return given, {}
    return given[:takes], dict(zip(names, given[takes:], strict=False))


def _plain(value: Any) -> Any:
    """Mappings of other classes (a tokenizer's) as dicts: torch knows no others."""
    if isinstance(value, Mapping) and type(value) is not dict:
        return {key: _plain(item) for key, item in value.items()}
    return value


def _binds(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True
