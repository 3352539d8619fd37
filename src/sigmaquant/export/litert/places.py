"""Operators that only move codes, and the largest of a window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sigmaquant.export.litert.emission import emit, refusal
from sigmaquant.export.litert.geometry import lifted, padding_of, windows_of
from sigmaquant.export.litert.values import LOWEST, Values
from sigmaquant.lowering.model import MaxPool, Move

Sides = Sequence[tuple[int, int]]


@emit.register
def _(operator: MaxPool, values: Values) -> None:
    if len(operator.kernel) > 2 or any(step != 1 for step in operator.dilation):
        raise refusal(operator, "LiteRT's largest-of-a-window has one or two dimensions and no dilation")
    graph, (name,) = values.graph, operator.inputs
    kernel, stride, before = lifted(operator.kernel, 1), lifted(operator.stride, 1), lifted(operator.padding, 0)
    source, target = values.image(name), values.new(operator.output, "image")
    windows = windows_of(graph.shape(source)[1:3], graph.shape(target)[1:3], kernel, stride, (1, 1), before)
    padding, sides = padding_of(windows)
    fields = {
        "padding": getattr(graph.schema.Padding, padding),
        "strideH": stride[0],
        "strideW": stride[1],
        "filterHeight": kernel[0],
        "filterWidth": kernel[1],
    }
    source = padded(values, name, source, sides, LOWEST)  # which no maximum takes
    graph.operator("MAX_POOL_2D", (source,), target, 2, "Pool2DOptions", **fields)


@emit.register
def _(operator: Move, values: Values) -> None:
    (name,), graph = operator.inputs, values.graph
    rank, given = len(values.model.edges[name].shape), operator.parameters
    if operator.kind == "reshape":
        values.reshaped(values.flat(name), values.new(operator.output, "plain"))
    elif operator.kind == "permute":
        # In one step from wherever the input is: often it is already in the order asked for.
        layout = values.layout(name) if rank == 3 else "plain"
        order = (0, *(values.axis(layout, rank, axis) for axis in given["axes"]))
        values.put(operator.output, "plain", values.transposed(values.read(name, layout), order, operator.output))
    elif operator.kind == "slice":
        layout = values.layout(name)
        source, target = values.read(name, layout), values.new(operator.output, layout)
        axis, end = values.axis(layout, rank, given["axis"]), list(graph.shape(source))
        begin, strides = [0] * len(end), [1] * len(end)
        begin[axis], end[axis], strides[axis] = given["start"], given["stop"], given["step"]
        _slice(values, source, target, begin, end, strides)
    elif operator.kind == "pad":
        layout = values.layout(name)
        source, target = values.read(name, layout), values.new(operator.output, layout)
        pads = [(0, 0)] * len(graph.shape(source))
        for dim, pair in enumerate(zip(given["before"], given["after"], strict=True)):
            pads[values.axis(layout, rank, dim)] = pair
        _pad(values, source, target, pads, graph.grid(source).zero_point)
    else:
        raise refusal(operator, f"the operator {operator.kind!r} is not exported to LiteRT")


def padded(values: Values, name: str, source: int, sides: Sides, code: int | None = None) -> int:
    """An edge's image with padding by hand, of zeros or another code; itself where there is none."""
    if not any(map(any, sides)):
        return source
    graph = values.graph
    pads = ((0, 0), *sides, (0, 0))
    shape = [size + sum(pair) for size, pair in zip(graph.shape(source), pads, strict=True)]
    target = graph.tensor(f"{name}.padded", shape, "INT8", graph.grid(source))
    _pad(values, source, target, pads, graph.grid(source).zero_point if code is None else code)
    return target


def strided(values: Values, name: str, source: int, stride: tuple[int, int]) -> int:
    """The places of an edge's image that a 1x1 kernel with a stride reads."""
    if stride == (1, 1):
        return source
    end = values.graph.shape(source)
    shape = (1, -(-end[1] // stride[0]), -(-end[2] // stride[1]), end[3])
    target = values.graph.tensor(f"{name}.strided", shape, "INT8", values.graph.grid(source))
    _slice(values, source, target, (0, 0, 0, 0), end, (1, *stride, 1))
    return target


def _slice(
    values: Values, source: int, target: int, begin: Sequence[int], end: Sequence[int], strides: Sequence[int]
) -> None:
    graph = values.graph
    inputs = (source, graph.integers("begin", begin), graph.integers("end", end), graph.integers("strides", strides))
    fields = {"beginMask": 1, "endMask": 1}  # the whole batch, whatever its size
    graph.operator("STRIDED_SLICE", inputs, target, 2 if len(end) <= 4 else 4, "StridedSliceOptions", **fields)


def _pad(values: Values, source: int, target: int, pads: Sides, code: int) -> None:
    graph, version = values.graph, 2 if len(pads) <= 4 else 4
    constant = graph.tensor("pads", (len(pads), 2), "INT32", data=np.array(pads, dtype="<i4").tobytes())
    grid = graph.grid(target)
    if code == grid.zero_point:
        graph.operator("PAD", (source, constant), target, version, "PadOptions")
        return
    filling = graph.tensor("filling", (1,), "INT8", grid, np.array([code], dtype=np.int8).tobytes())
    graph.operator("PADV2", (source, constant, filling), target, version, "PadV2Options")
