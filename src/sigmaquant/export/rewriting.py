"""Rewrites of an `IntegerModel` into operators that a form has: exactly the same codes come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sigmaquant.lowering import IntegerModel
from sigmaquant.operators import Convolution, Edge, Move, Operator, Pad, Reshape, Slice
from sigmaquant.operators.node import free_name


def without_transposed(model: IntegerModel) -> IntegerModel:
    """The same network with an ordinary convolution for every transposed one.

    A transposed convolution is one of the input with ``stride - 1`` zeros behind each of its values, by the kernel
    turned round. The zeros come from three moves: axes of size one, a pad of those, and a reshape; what is
    too much at the borders is cut by slices. Names, scales, biases and factors of the layers stay.

    Example:
        >>> from sigmaquant.plan import BitwidthPlan
        >>> empty = IntegerModel((), {}, (), (), BitwidthPlan({}))
        >>> without_transposed(empty) is empty
        True
    """
    if not any(isinstance(operator, Convolution) and operator.transposed for operator in model.operators):
        return model
    edges, operators = dict(model.edges), list[Operator]()
    names = {operator.name for operator in model.operators}
    for operator in model.operators:
        if isinstance(operator, Convolution) and operator.transposed:
            operators += _ordinary(operator, edges, names)
        else:
            operators.append(operator)
    return replace(model, operators=tuple(operators), edges=edges)


def _ordinary(operator: Convolution, edges: dict[str, Edge], names: set[str]) -> list[Operator]:
    source, found = edges[operator.inputs[0]], list[Operator]()

    def move(kind: type[Move], shape: Sequence[int], what: str, *fields: Any) -> None:
        nonlocal source
        edge = replace(source, name=free_name(f"{operator.output}.{what}", edges), shape=tuple(shape))
        edges[edge.name] = edge
        name = free_name(f"{operator.name}.{what}", names)
        names.add(name)
        found.append(kind(name, (source.name,), edge.name, *fields))
        source = edge

    if max(operator.stride) > 1:
        shape, behind, merged = [source.shape[0]], [0], [source.shape[0]]
        for size, stride in zip(source.shape[1:], operator.stride, strict=True):
            shape += [size, 1] if stride > 1 else [size]
            behind += [0, stride - 1] if stride > 1 else [0]
            merged.append(size * stride)
        padded = [size + more for size, more in zip(shape, behind, strict=True)]
        move(Reshape, shape, "spread", tuple(shape))
        move(Pad, padded, "stuffed", (0,) * len(shape), tuple(behind))
        move(Reshape, merged, "merged", tuple(merged))
    padding = []
    for axis, more in enumerate(operator.output_padding or (0,) * len(operator.stride), 1):
        before = operator.dilation[axis - 1] * (operator.codes.shape[axis + 1] - 1) - operator.padding[axis - 1][0]
        after = before + more - (operator.stride[axis - 1] - 1)  # that many zeros are there already
        padding.append((max(0, before), max(0, after)))
        if min(before, after) < 0:
            start, stop = max(0, -before), source.shape[axis] - max(0, -after)
            cut = (*source.shape[:axis], stop - start, *source.shape[axis + 1 :])
            move(Slice, cut, "cut", axis, start, stop, 1)
    ordinary: dict[str, Any] = {
        "inputs": (source.name,),
        "codes": _turned(operator.codes, operator.groups),
        "stride": (1,) * len(operator.stride),
        "padding": tuple(padding),
        "transposed": False,
        "output_padding": (),
    }
    return [*found, replace(operator, **ordinary)]


def _turned(codes: NDArray[np.int8], groups: int) -> NDArray[np.int8]:
    """[in, out/groups, *kernel] to [out, in/groups, *kernel], the kernel turned round."""
    flipped = np.flip(codes, axis=tuple(range(2, codes.ndim)))
    by_group = flipped.reshape(groups, -1, *codes.shape[1:]).swapaxes(1, 2)
    return np.ascontiguousarray(by_group.reshape(-1, codes.shape[0] // groups, *codes.shape[2:]))
