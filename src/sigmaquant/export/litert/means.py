"""Means over whole dimensions and over windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy, int64

from sigmaquant.export.litert.emission import emit, refusal
from sigmaquant.export.litert.flatbuffer import Grid
from sigmaquant.export.litert.form import SAME, Forming, formed, in_float
from sigmaquant.export.litert.geometry import lifted
from sigmaquant.export.litert.layer_operators import convolved
from sigmaquant.export.litert.taps import int32, own_weight
from sigmaquant.export.litert.values import Values, image_shape
from sigmaquant.operators import Average, Concatenation, Edge, Operator, Slice, compute
from sigmaquant.operators.fixed_point import Factor
from sigmaquant.operators.node import Reference, centred, written

_ONE = 64
"""The code of an average's weights: a large sum loses little where a kernel rounds it twice."""
_SMALL_MATRIX = 2**12
_LARGEST_MATRIX = 2**18
"""Most weights, in bytes, that a mean over windows takes as a matrix from places to places without need, and at all."""


@dataclass(frozen=True)
class PlaceMeans(Operator):
    """Means over windows of any sizes, as a matrix from the input's places to the output's.

    Attributes:
        members: bool [places, places of the input].
        scale: float32 [places], of weights that are 64 where a place has a value.
        factor: input scale x `scale` / output scale, [places].
        low: smallest output code.
        high: largest output code.
    """

    members: NDArray[np.bool_]
    scale: NDArray[np.float32]
    factor: Factor
    low: int
    high: int


@compute.register
def _(operator: PlaceMeans, reference: Reference, codes: Tensor) -> Tensor:
    target = reference.edges[operator.output]
    x = centred(codes, reference.edges[operator.inputs[0]], int64).flatten(2)
    sums = (x.double() @ from_numpy(operator.members).double().T * _ONE).to(int64)
    return written(operator.factor.apply_(sums, 2).reshape(len(codes), *target.shape), operator, reference)


@formed.register
def _(operator: Average, to: Forming) -> Sequence[Operator]:
    """Windows with the same number of values as they are; others as a matrix, or a matrix for each border."""
    source, output = to.edges[operator.inputs[0]], to.edges[operator.output]
    if not operator.windows:
        return (operator,)
    scale = _scale(operator, source, output)
    if operator.is_uniform and 0 < len(operator.kernel) <= 2:
        return (replace(operator, factor=in_float(source.scale, scale * _ONE, output.scale)),)
    size = math.prod(source.shape[1:]) * math.prod(output.shape[1:])
    if size > _SMALL_MATRIX and operator.kernel and not operator.is_uniform:
        for axis, windows in enumerate(operator.windows):
            if inner := _inner(windows, operator.kernel[axis]):
                return _in_parts(operator, axis, inner, to)
    if size > _LARGEST_MATRIX:
        return (operator,)
    members = np.ones((1, 1), dtype=bool)
    for count, windows in zip(source.shape[1:], operator.windows, strict=True):
        along = np.array([[first <= k < end for k in range(count)] for first, end in windows])
        members = np.kron(members, along)
    scale = np.broadcast_to(scale, (len(members),))
    real, ends = in_float(source.scale, scale, output.scale), (operator.low, operator.high)
    return (PlaceMeans(operator.name, operator.inputs, output.name, members, scale, real, *ends),)


def _scale(operator: Average, source: Edge, output: Edge) -> NDArray[np.float32]:
    """Of weights that are 64: one, or one for each place."""
    result: NDArray[np.float32] = (operator.factor.value * output.scale / source.scale / _ONE).astype(np.float32)
    return result


def _inner(windows: tuple[tuple[int, int], ...], kernel: int) -> tuple[int, int] | None:
    """The places with whole windows, the first and the one behind the last; None where all are, or none is."""
    whole = [place for place, (first, end) in enumerate(windows) if end - first == kernel]
    if not whole or len(whole) == len(windows) or whole[-1] - whole[0] + 1 != len(whole):
        return None
    return whole[0], whole[-1] + 1


def _in_parts(operator: Average, axis: int, inner: tuple[int, int], to: Forming) -> list[Operator]:
    """The places before, in and after the inner ones of an axis, each from the inputs that it reads, put together."""
    (source,), output, ends = operator.inputs, to.edges[operator.output], (operator.low, operator.high)
    found, names = list[Operator](), list[str]()
    grid = [part.reshape(output.shape[1:]) for part in (operator.factor.mantissa, operator.factor.shift)]
    for begin, end in ((0, inner[0]), inner, (inner[1], len(operator.windows[axis]))):
        if begin == end:
            continue
        windows = operator.windows[axis][begin:end]
        first, last = windows[0][0], windows[-1][1]
        shapes = [list(to.edges[source].shape), list(output.shape)]
        shapes[0][axis + 1], shapes[1][axis + 1] = last - first, end - begin
        cut = to.edge(source, "part", shapes[0])
        names.append(to.edge(output.name, "part", shapes[1]))
        found.append(Slice(to.name(operator, "part"), (source,), cut, axis + 1, first, last, 1))
        parts = [np.take(part, range(begin, end), axis).ravel() for part in grid]
        if all(len(np.unique(part)) == 1 for part in parts):
            parts = [part[:1] for part in parts]
        # of windows that the input's beginning cuts off, the part before it is padding
        before = operator.kernel[axis] - (windows[0][1] - first) if begin < inner[0] else 0
        given: dict[str, Any] = {
            "name": to.name(operator, "part"),
            "inputs": (cut,),
            "output": names[-1],
            "factor": Factor(*parts),
            "windows": _with(operator.windows, axis, tuple((f - first, e - first) for f, e in windows)),
            "padding": _with(operator.padding, axis, before),
        }
        found += formed(replace(operator, **given), to)
    same = ((SAME[0],) * len(names), (SAME[1],) * len(names))
    return [*found, Concatenation(operator.name, tuple(names), output.name, axis + 1, *same, *ends)]


def _with(values: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*values[:place], value, *values[place + 1 :])


@emit.register
def _(operator: PlaceMeans, values: Values) -> None:
    name, graph = operator.inputs[0], values.graph
    rows, channels, *space = values.shape(name, "plain")
    places, sizes = operator.members.shape
    source = values.plain(name)
    if len(space) != 1:
        source = values.reshaped(source, values.like(name, (rows, channels, sizes), f"{name}.places"))
    codes, grid = (operator.members * _ONE).astype(np.int8), Grid(tuple(operator.scale.tolist()), 0, 0)
    weight = graph.tensor(f"{operator.name}.weight", codes.shape, "INT8", grid, codes.tobytes())
    unit = operator.scale.astype(np.float64) * values.model.edges[name].scale
    bias = int32(values, f"{operator.name}.bias", np.zeros(places, dtype=np.int32), unit.tolist())

    def write(target: int, activation: int) -> None:
        fields = {"keepNumDims": True, "fusedActivationFunction": activation}
        graph.operator("FULLY_CONNECTED", (source, weight, bias), target, 5, "FullyConnectedOptions", **fields)

    ends = (operator.low, operator.high)
    values.clamped(operator.output, ends, "plain", write, shape=(rows, channels, places))


@emit.register
def _(operator: Average, values: Values) -> None:
    """Over whole dimensions as MEAN; over windows as a depthwise convolution, whose sums are rounded once."""
    name = operator.inputs[0]
    if not operator.windows:
        _mean(operator, values)
        return
    if len(operator.windows) > 2 and operator.is_uniform and operator.kernel:
        raise refusal(
            operator,
            "means over windows of three dimensions have no kernel in LiteRT",
            "Reshape its input for avg_pool2d and then for avg_pool1d, or export this network to another format",
        )
    if not operator.is_uniform or not operator.kernel:
        raise refusal(
            operator,
            "its windows hold different numbers of values, and LiteRT's pool has none that lie there",
            "Count the padding (count_include_pad=True) or average to a size that divides the input's, or export this "
            "network to another format",
        )
    source, output = values.image(name), values.model.edges[operator.output]
    kernel, channels = lifted(operator.kernel, 1), image_shape(output)[2]
    share = float(operator.factor.value[0]) * output.scale / values.model.edges[name].scale
    codes = np.full((1, *kernel, channels), _ONE, dtype=np.int8)
    scale, bias = np.full(channels, share / _ONE, dtype=np.float32), np.zeros(channels, dtype=np.int32)
    inputs = own_weight(operator, values, codes, scale, bias)
    stride, before = lifted(operator.stride, 1), lifted(operator.padding, 0)
    ends = (operator.low, operator.high)
    convolved(operator, ends, values, source, inputs, 3, kernel, stride, (1, 1), before, depthwise=True)


def _mean(operator: Average, values: Values) -> None:
    """A sum is the mean on a grid with a smaller scale."""
    name, graph = operator.inputs[0], values.graph
    source_edge, output = values.model.edges[name], values.model.edges[operator.output]
    rank, layout = len(source_edge.shape), values.layout(name)
    whole = set(operator.dims) == set(range(1, rank))
    if not whole and not operator.keepdim:
        layout = "plain"  # what stays is no image
    axes = [1, 2] if whole and layout == "image" else [values.axis(layout, rank, dim) for dim in operator.dims]
    inputs = (values.read(name, layout), graph.integers("axes", axes))
    count = math.prod(source_edge.shape[dim] for dim in operator.dims)
    share = float(operator.factor.value[0]) * output.scale / source_edge.scale * count  # 1: a mean

    def write(target: int, activation: int) -> None:
        fields = {"keepDims": operator.keepdim}
        if abs(share - 1) < 1e-6:
            graph.operator("MEAN", inputs, target, 2, "ReducerOptions", **fields)
            return
        grid = Grid((output.scale / share,), values.zero(operator.output))
        mean = graph.tensor(f"{operator.output}.mean", graph.shape(target), "INT8", grid)
        graph.operator("MEAN", inputs, mean, 2, "ReducerOptions", **fields)
        graph.operator("MUL", (mean, values.number(share)), target, 2, "MulOptions")

    where = layout if operator.keepdim else "plain"
    values.clamped(operator.output, (operator.low, operator.high), where, write, fuse=False)
