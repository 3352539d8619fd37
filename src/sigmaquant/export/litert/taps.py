"""Affine maps as LiteRT computes them: depthwise convolutions with one tap, along whatever axes they differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigmaquant.export.litert.emission import emit
from sigmaquant.export.litert.flatbuffer import Grid
from sigmaquant.export.litert.form import Forming, InFloat, RoundedAway, formed, in_float
from sigmaquant.export.litert.values import Layout, Values
from sigmaquant.operators import Affine, Operator, compute
from sigmaquant.operators.node import Reference

_FEWEST_CHANNELS = 64
"""One factor for all values is written for that many channels, so that the kernel has rows to work on."""


@dataclass(frozen=True)
class Taps(Operator):
    """An affine map as a depthwise convolution with one tap: ``clamp(z + factor * (code * (x - z_x) + bias))``.

    The arrays have one shape, which broadcasts to an example: 1 or the whole size along each of its axes.

    Attributes:
        codes: int8.
        scale: float32, of the codes.
        bias: int32, in units of input scale x `scale`.
        factor: input scale x `scale` / output scale, flat.
        low: smallest output code.
        high: largest output code.
    """

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.int32]
    factor: InFloat | RoundedAway
    low: int
    high: int


@formed.register
def _(operator: Affine, to: Forming) -> Sequence[Operator]:
    steps = 2.0 ** -operator.shift.astype(np.float64)
    ends = (operator.low, operator.high)
    return (taps(operator, operator.multiplier * steps, operator.offset * steps, ends, to),)


def taps(
    operator: Operator,
    slope: NDArray[np.floating[Any]],
    offset: NDArray[np.floating[Any]],
    ends: tuple[int, int],
    to: Forming,
) -> Taps:
    """A map of an operator's input, `slope` and `offset` in steps of the output, clamped to `ends`.

    Of the codes that stand for a factor, the one is taken with which its offset is nearest to a whole number.
    """
    source, target = to.edges[operator.inputs[0]], to.edges[operator.output]
    shape, slope, offset = slope.shape, slope.ravel(), offset.ravel()
    # Where the offset dwarfs the slope, the unit comes from the offset, which int32 must hold.
    units = np.maximum(np.abs(slope) / np.arange(64, 128)[:, None], np.maximum(np.abs(offset), 1.0) * 2.0**-30)
    errors = np.abs(offset / units - np.rint(offset / units)) * units
    unit = np.take_along_axis(units, errors.argmin(0)[None], 0)[0]
    scale = (unit * target.scale / source.scale).astype(np.float32)
    unit = scale.astype(np.float64) * source.scale / target.scale
    real = in_float(source.scale, scale, target.scale)
    codes, bias = np.rint(slope / unit).astype(np.int8), np.rint(offset / unit).astype(np.int32)
    codes, scale, bias = codes.reshape(shape), scale.reshape(shape), bias.reshape(shape)
    return Taps(operator.name, operator.inputs, operator.output, codes, scale, bias, real, *ends)


@compute.register
def _(operator: Taps, reference: Reference, codes: Tensor) -> Tensor:
    source, target = reference.edges[operator.inputs[0]], reference.edges[operator.output]
    x = codes.to(torch.int64).sub_(source.zero_point)
    x = x.mul_(torch.from_numpy(operator.codes)).add_(torch.from_numpy(operator.bias))
    relative = operator.factor.broadcast_(x, operator.codes.shape)
    return relative.add_(target.zero_point).clamp_(operator.low, operator.high).to(torch.int8)


@emit.register
def _(operator: Taps, values: Values) -> None:
    """The axes along which the map differs become the channels of an image: the last ones as they are, others moved."""
    name, graph = operator.inputs[0], values.graph
    layout = _layout(operator, values)
    shape = values.shape(name, layout)
    source, arrays = (
        values.read(name, layout),
        [_placed(a, layout) for a in (operator.codes, operator.scale, operator.bias)],
    )
    varying = [axis for axis, size in enumerate(arrays[0].shape) if size > 1]
    order = tuple(range(len(shape)))
    if not _are_last(varying, shape):
        order = (*(axis for axis in order if axis not in varying), *varying)
        source = values.transposed(source, order, name)
    sizes = graph.shape(source)
    channels = math.prod(shape[axis] for axis in varying) if varying else _channels(sizes)
    folded = (sizes[0], 1, math.prod(sizes[1:]) // channels, channels)
    codes, scale, bias = (np.broadcast_to(array.reshape(-1), (channels,)) for array in arrays)
    image = source
    if sizes != folded and not (len(sizes) == 4 and sizes[3] == channels):
        image = values.reshaped(source, values.like(name, folded, f"{name}.folded"))
    inputs = (image, *own_weight(operator, values, codes.reshape(1, 1, 1, channels), scale, bias))

    def write(target: int, activation: int) -> None:
        depthwise(values, inputs, target, activation)

    ends, output = (operator.low, operator.high), operator.output
    if order == tuple(range(len(shape))):
        values.clamped(output, ends, layout, write, shape=graph.shape(image))
        return
    target = values.like(output, graph.shape(image), f"{output}.folded")
    values.write_clamped(output, ends, target, write)
    if graph.shape(target) != sizes:
        target = values.reshaped(target, values.like(output, sizes, f"{output}.moved"))
    back = tuple(int(axis) for axis in np.argsort(order))
    values.put(output, layout, values.transposed(target, back, output))


def _layout(operator: Taps, values: Values) -> Layout:
    """The layout in which the map differs along the last axes alone, preferably the one that there is."""
    name = operator.inputs[0]
    first = values.layout(name)
    candidates: list[Layout] = [first]
    if len(values.model.edges[name].shape) <= 3:
        candidates.append("plain" if first == "image" else "image")
    for layout in candidates:
        placed = _placed(operator.codes, layout)
        if _are_last([axis for axis, size in enumerate(placed.shape) if size > 1], values.shape(name, layout)):
            return layout
    return "plain"


def _are_last(varying: list[int], shape: tuple[int, ...]) -> bool:
    """Whether all axes from the first varying one on vary, but for those of size one."""
    return not varying or all(axis in varying for axis in range(varying[0], len(shape)) if shape[axis] > 1)


def _placed(array: NDArray[np.generic], layout: Layout) -> NDArray[np.generic]:
    """An array against an example as one against a tensor of a layout."""
    if layout == "plain":
        return array[None]
    channels_last = np.moveaxis(array, 0, -1) if array.ndim else array.reshape(1)
    return channels_last.reshape((1,) * (4 - channels_last.ndim) + channels_last.shape)


def _channels(sizes: tuple[int, ...]) -> int:
    """How many channels values that are all mapped alike are written as: those of the last axes."""
    channels = 1
    for size in reversed(sizes[1:]):
        channels *= size
        if channels >= _FEWEST_CHANNELS:
            break
    return channels


def depthwise(values: Values, inputs: Sequence[int], target: int, activation: int) -> None:
    """A depthwise convolution with one tap: input, weight and bias."""
    graph = values.graph
    fields = {"padding": graph.schema.Padding.VALID, "strideH": 1, "strideW": 1, "depthMultiplier": 1}
    fields |= {"dilationHFactor": 1, "dilationWFactor": 1, "fusedActivationFunction": activation}
    graph.operator("DEPTHWISE_CONV_2D", inputs, target, 3, "DepthwiseConv2DOptions", **fields)


def own_weight(
    operator: Operator,
    values: Values,
    codes: NDArray[np.int8],
    scale: NDArray[np.float32],
    bias: NDArray[np.int32],
) -> tuple[int, int]:
    """Weight [1, h, w, C] and bias of a depthwise convolution that the network does not have."""
    grid = Grid(tuple(scale.tolist()), 0, 3)
    data = np.ascontiguousarray(codes).tobytes()
    weight = values.graph.tensor(f"{operator.name}.weight", codes.shape, "INT8", grid, data)
    unit = scale.astype(np.float64) * values.model.edges[operator.inputs[0]].scale
    return weight, int32(values, f"{operator.name}.bias", bias, unit.tolist())


def int32(values: Values, name: str, numbers: NDArray[np.int32], scales: Sequence[float]) -> int:
    """A constant of int32 numbers, as biases are."""
    return values.graph.tensor(name, numbers.shape, "INT32", Grid(tuple(scales)), numbers.astype("<i4").tobytes())
