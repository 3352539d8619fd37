"""Sizes for one example: every size of an exported graph is an expression of the batch size, taken at batch size 1."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from sigmaquant.exported.nodes import tensor_value


def size_at(size: int | torch.SymInt, batch: int) -> int:
    """A size at a batch size (sizes that depend on the data count as that too)."""
    if isinstance(size, int):
        return size
    return _at(size.node.expr, batch)


@lru_cache(maxsize=4096)
def _at(expression: Any, batch: int) -> int:
    return int(expression.subs(dict.fromkeys(expression.free_symbols, batch)))


def size_at_one(size: int | torch.SymInt) -> int:
    """A size at batch size 1."""
    return size_at(size, 1)


def shape_at_one(value: Tensor) -> tuple[int, ...]:
    """Shape at batch size 1, batch dimension included."""
    return tuple(size_at_one(size) for size in value.shape)


def example_shape(value: Tensor | None) -> tuple[int, ...]:
    """Shape of one example: without the batch dimension, which need not be the first one.

    The batch dimension is the first symbolic one that is 1 at batch size 1; where the batch is folded into another
    dimension (windows of an image, ``[batch * 49, 96]``), that dimension stays with its size for one example. A tensor
    that does not depend on the batch keeps its whole shape. No tensor has the shape ``()``.
    """
    if value is None:
        return ()
    shape = shape_at_one(value)
    sizes: Sequence[Any] = value.shape  # symbolic sizes are typed as int
    for axis, size in enumerate(sizes):
        if not isinstance(size, int) and shape[axis] == 1:
            return shape[:axis] + shape[axis + 1 :]
    return shape


def count(node: fx.Node) -> int:
    """Number of elements of a node's value for one example."""
    value = tensor_value(node)
    return 0 if value is None else prod(shape_at_one(value))


def length(node: fx.Node, axis: int) -> int:
    """One size of a node's value at batch size 1."""
    value = tensor_value(node)
    return 1 if value is None else size_at_one(value.shape[axis])
