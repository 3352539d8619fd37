"""A copy of a module, also of one that keeps results of its last call."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from torch import Tensor, nn

from sigmaquant.errors import ModelError

M = TypeVar("M", bound=nn.Module)


def copied(module: M) -> M:
    """A deep copy. What a module keeps of a computation (an activation, a normalised weight) is copied as a constant.

    Raises:
        ModelError: an attribute that cannot be copied; names it.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> layer.last = layer.weight * 2
        >>> copied(layer).last.requires_grad
        False
    """
    # torch refuses to copy what has a history: a copy would have to belong to the same one
    memo: dict[int, Any] = {id(tensor): tensor.detach().clone() for tensor in _computed(module.modules())}
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # a user's object may refuse in any way
        raise ModelError(
            f"the model cannot be copied{_culprit(module)}: {type(error).__name__}: {error}. The user's model is never "
            "changed, so a copy is needed: keep such objects out of the modules, or give their class a __deepcopy__."
        ) from error


def _computed(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    for module in modules:
        yield from (tensor for tensor in _tensors(vars(module)) if not tensor.is_leaf)


def _tensors(value: Any) -> Iterator[Tensor]:
    stack, seen = [value], set()
    while stack:
        item = stack.pop()
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, dict | list | tuple | set) and id(item) not in seen:  # it may hold itself
            seen.add(id(item))
            stack.extend(item.values() if isinstance(item, dict) else item)


def _culprit(module: nn.Module) -> str:
    """Which attribute cannot be copied, for the user."""
    for path, inner in module.named_modules():
        for name, value in vars(inner).items():
            if value is inner._modules:
                continue
            try:
                copy.deepcopy(value, {id(tensor): tensor for tensor in _tensors(value)})
            except Exception:
                return f" because of its attribute {f'{path}.{name}'.removeprefix('.')!r}"
    return ""
