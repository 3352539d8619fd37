"""Operators that only move codes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sigmaquant.export.litert.emission import emit
from sigmaquant.export.litert.spreading import DepthToSpace
from sigmaquant.export.litert.values import Values
from sigmaquant.operators import Pad, Permute, Reshape, Slice, Take

Sides = Sequence[tuple[int, int]]
_LARGEST_PAD_RANK = 5


@emit.register
def _(operator: Reshape, values: Values) -> None:
    values.reshaped(values.flat(operator.inputs[0]), values.new(operator.output, "plain"))


@emit.register
def _(operator: Permute, values: Values) -> None:
    """In one step from wherever the input is: often it is already in the order asked for."""
    (name,) = operator.inputs
    rank = len(values.model.edges[name].shape)
    layout = values.layout(name) if rank == 3 else "plain"
    order = (0, *(values.axis(layout, rank, axis) for axis in operator.axes))
    values.put(operator.output, "plain", values.transposed(values.read(name, layout), order, operator.output))


@emit.register
def _(operator: Slice, values: Values) -> None:
    (name,) = operator.inputs
    layout, rank = values.layout(name), len(values.model.edges[name].shape)
    source, target = values.read(name, layout), values.new(operator.output, layout)
    axis, end = values.axis(layout, rank, operator.axis), list(values.graph.shape(source))
    begin, strides = [0] * len(end), [1] * len(end)
    begin[axis], end[axis], strides[axis] = operator.start, operator.stop, operator.step
    _slice(values, source, target, begin, end, strides)


@emit.register
def _(operator: Take, values: Values) -> None:
    (name,) = operator.inputs
    layout, rank = values.layout(name), len(values.model.edges[name].shape)
    source, target = values.read(name, layout), values.new(operator.output, layout)
    inputs = (source, values.graph.integers("indices", operator.indices))
    axis = values.axis(layout, rank, operator.axis)
    values.graph.operator("GATHER", inputs, target, values.version(name), "GatherOptions", axis=axis)


@emit.register
def _(operator: Pad, values: Values) -> None:
    (name,) = operator.inputs
    layout, rank = values.layout(name), len(values.model.edges[name].shape)
    source = values.read(name, layout)
    pads = [(0, 0)] * len(values.graph.shape(source))
    for dim, pair in enumerate(zip(operator.before, operator.after, strict=True)):
        pads[values.axis(layout, rank, dim)] = pair
    if len(pads) <= _LARGEST_PAD_RANK:
        _pad(values, source, values.new(operator.output, layout), pads, name)
        return
    for axis, pair in enumerate(pads):  # one after the other, between what is before and what is after
        if any(pair):
            shape = list(values.graph.shape(source))
            folded = values.reshaped(source, values.like(name, _around(shape, axis), f"{name}.folded"))
            shape[axis] += sum(pair)
            padded_ = values.like(name, _around(shape, axis), f"{name}.padded")
            _pad(values, folded, padded_, ((0, 0), (0, 0), pair, (0, 0)), name)
            source = values.reshaped(padded_, values.like(name, shape, f"{name}.padded"))
    values.put(operator.output, layout, source)


def _around(shape: Sequence[int], axis: int) -> tuple[int, int, int, int]:
    """The batch, all before an axis, the axis, and all after it."""
    return shape[0], math.prod(shape[1:axis]), shape[axis], math.prod(shape[axis + 1 :])


@emit.register
def _(operator: DepthToSpace, values: Values) -> None:
    """Of a sequence only its shape: an image of height one has its channels last."""
    source, target = values.image(operator.inputs[0]), values.new(operator.output, "image")
    if len(values.model.edges[operator.output].shape) < 3:
        values.reshaped(source, target)
    else:
        values.graph.operator("DEPTH_TO_SPACE", (source,), target, 2, "DepthToSpaceOptions", blockSize=operator.block)


def padded(values: Values, name: str, source: int, sides: Sides, code: int | None = None) -> int:
    """An edge's image with padding by hand, of zeros or another code; itself where there is none."""
    if not any(map(any, sides)):
        return source
    pads = ((0, 0), *sides, (0, 0))
    shape = [size + sum(pair) for size, pair in zip(values.graph.shape(source), pads, strict=True)]
    target = values.like(name, shape, f"{name}.padded")
    _pad(values, source, target, pads, name, code)
    return target


def strided(values: Values, name: str, source: int, stride: tuple[int, int]) -> int:
    """The places of an edge's image that a 1x1 kernel with a stride reads."""
    if stride == (1, 1):
        return source
    end = values.graph.shape(source)
    shape = (end[0], -(-end[1] // stride[0]), -(-end[2] // stride[1]), end[3])
    target = values.like(name, shape, f"{name}.strided")
    _slice(values, source, target, (0, 0, 0, 0), end, (1, *stride, 1))
    return target


def _slice(
    values: Values, source: int, target: int, begin: Sequence[int], end: Sequence[int], strides: Sequence[int]
) -> None:
    graph = values.graph
    inputs = (source, graph.integers("begin", begin), graph.integers("end", end), graph.integers("strides", strides))
    fields = {"beginMask": 1, "endMask": 1}  # the whole batch, whatever its size
    graph.operator("STRIDED_SLICE", inputs, target, 2 if len(end) <= 4 else 4, "StridedSliceOptions", **fields)


def _pad(values: Values, source: int, target: int, pads: Sides, name: str, code: int | None = None) -> None:
    """Zeros around a tensor of an edge, or another code."""
    graph, version = values.graph, values.version(name) if len(pads) <= 4 else 4
    constant = graph.tensor("pads", (len(pads), 2), "INT32", data=np.array(pads, dtype="<i4").tobytes())
    if code is None or code == values.zero(name):
        graph.operator("PAD", (source, constant), target, version, "PadOptions")
        return
    filling = graph.tensor("filling", (1,), "INT8", graph.grid(target), np.array([code], dtype=np.int8).tobytes())
    graph.operator("PADV2", (source, constant, filling), target, version, "PadV2Options")
