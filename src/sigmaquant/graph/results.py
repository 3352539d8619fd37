"""What a model returns: objects that torch does not know become known to it, caches for a next call are left out."""

from __future__ import annotations

import dataclasses
import functools
import logging
import sys
from collections.abc import Callable
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, nn

_log = logging.getLogger(__name__)


def make_returnable_(model: nn.Module, outputs: object) -> None:
    """Let `torch.export` take what the model returns.

    A class of the user's, such as a dataclass, is registered with torch (`torch.utils._pytree`): its tensors are
    outputs, and the graph gives such an object again. The cache that a language model of ``transformers`` returns is a
    state for its next call and no output: the graph gives None in its place.

    Args:
        model: gets a ``forward`` of its own where a cache is left out; whoever calls this takes it away again.
        outputs: of a call of the model.
    """
    _register(outputs)
    if any(map(_is_cache, pytree.tree_leaves(outputs, is_leaf=_is_cache))):
        _log.info("the cache that the model returns for its next call is no output of the graph")
        model.forward = _without_caches(model.forward)


def _register(outputs: object) -> None:
    for leaf in pytree.tree_leaves(outputs, is_leaf=_is_cache):
        if isinstance(leaf, Tensor | int | float | str | None) or _is_cache(leaf):
            continue
        if _holds_tensors(leaf):
            pytree.register_pytree_node(type(leaf), _fields, functools.partial(_rebuilt, type(leaf)))
            _register(_fields(leaf)[0])


def _holds_tensors(value: object) -> bool:
    """Whether an object keeps tensors among its attributes, and is no module or function."""
    if isinstance(value, nn.Module | type) or callable(value):
        return False
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(_fields(value)[0]))


def _fields(value: Any) -> tuple[list[Any], Any]:
    if dataclasses.is_dataclass(value):
        names = tuple(field.name for field in dataclasses.fields(value))
    else:
        names = tuple(getattr(value, "__dict__", ()))
    return [getattr(value, name) for name in names], names


def _rebuilt(kind: type, values: Any, names: Any) -> Any:
    made: Any = object.__new__(kind)
    for name, value in zip(names, values, strict=True):
        object.__setattr__(made, name, value)  # as in a frozen dataclass
    return made


def _is_cache(value: object) -> bool:
    caches = sys.modules.get("transformers.cache_utils")  # whoever returns one has imported it
    kind = getattr(caches, "Cache", None)
    return kind is not None and isinstance(value, kind)


def _without_caches(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def changed(*args: Any, **kwargs: Any) -> Any:
        outputs = forward(*args, **kwargs)
        return pytree.tree_map(lambda leaf: None if _is_cache(leaf) else leaf, outputs, is_leaf=_is_cache)

    return changed
