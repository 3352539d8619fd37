"""Layers with weights, and what is written as one: channel-wise maps and averages over windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sigmaquant.export.litert.emission import emit, refusal
from sigmaquant.export.litert.flatbuffer import Grid
from sigmaquant.export.litert.form import Taps, container_bits, is_matrix_product
from sigmaquant.export.litert.geometry import lifted, padding_of, windows_of
from sigmaquant.export.litert.places import padded, strided
from sigmaquant.export.litert.values import Layout, Values, image_shape
from sigmaquant.lowering.model import Average, Convolution, Linear, Operator, Weighted

_CONTAINERS = {2: "INT2", 4: "INT4", 8: "INT8"}
_PRODUCT_VERSIONS = {2: 14, 4: 10, 8: 5}
_ONE = 64
"""The code of an average's weights: a large sum loses little where a kernel rounds it twice."""


def packed(values: NDArray[np.int8], bits: int) -> bytes:
    """Signed integers of 2, 4 or 8 bits as bytes, the first one in the lowest bits.

    Example:
        >>> packed(np.array([-1, 2, 7], dtype=np.int8), 4).hex()
        '2f07'
    """
    per_byte = 8 // bits
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8) & (2**bits - 1)
    rows = np.pad(flat, (0, -flat.size % per_byte)).reshape(-1, per_byte)
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    result: NDArray[np.uint8] = np.bitwise_or.reduce(rows << shifts, axis=1)
    return result.tobytes()


@emit.register
def _(operator: Linear, values: Values) -> None:
    _matrix_product(operator, values, values.plain(operator.inputs[0]), operator.codes, "plain")


@emit.register
def _(operator: Convolution, values: Values) -> None:
    if operator.transposed:
        raise refusal(operator, "transposed convolutions are not exported to LiteRT")
    if len(operator.stride) > 2:
        raise refusal(operator, "convolutions of three dimensions have no integer kernel in LiteRT")
    codes = operator.codes.reshape(*operator.codes.shape[:2], *lifted(operator.codes.shape[2:], 1))
    stride, dilation = lifted(operator.stride, 1), lifted(operator.dilation, 1)
    source = values.image(operator.inputs[0])
    bits = container_bits(operator, values.pack)
    if bits < 8 and is_matrix_product(operator):
        source = strided(values, operator.inputs[0], source, stride)
        _matrix_product(operator, values, source, codes[:, :, 0, 0], "image")
        return
    channels = values.graph.shape(source)[3]
    depthwise = operator.groups == channels > 1
    order, axis = ((1, 2, 3, 0), 3) if depthwise else ((0, 2, 3, 1), 0)  # [1, h, w, out] or [out, h, w, in / groups]
    weight = _weight(operator, values, codes.transpose(order), axis)
    version = 7 if bits == 4 else 6 if operator.groups > 1 and not depthwise else 3
    before = lifted([pair[0] for pair in operator.padding], 0)
    kernel = (codes.shape[2], codes.shape[3])
    inputs = (weight, _bias(operator, values))
    _convolution(operator, values, source, inputs, version, kernel, stride, dilation, before, depthwise)


@emit.register
def _(operator: Taps, values: Values) -> None:
    """As a depthwise convolution with one tap."""
    source, channels = values.image(operator.inputs[0]), len(operator.codes)
    codes = operator.codes.reshape(1, 1, 1, channels)
    inputs = _own_weight(operator, values, codes, operator.scale, operator.bias)
    _convolution(operator, values, source, inputs, 3, (1, 1), (1, 1), (1, 1), (0, 0), depthwise=True)


@emit.register
def _(operator: Average, values: Values) -> None:
    """Over whole dimensions as MEAN; over windows as a depthwise convolution, whose sums are rounded once."""
    name = operator.inputs[0]
    if not operator.kernel:
        _mean(operator, values)
        return
    if len(operator.kernel) > 2:
        raise refusal(operator, "averages over windows of three dimensions have no integer kernel in LiteRT")
    source, output = values.image(name), values.model.edges[operator.output]
    kernel, channels = lifted(operator.kernel, 1), image_shape(output)[2]
    share = float(operator.factor.value[0]) * output.scale / values.model.edges[name].scale
    codes = np.full((1, *kernel, channels), _ONE, dtype=np.int8)
    scale, bias = np.full(channels, share / _ONE, dtype=np.float32), np.zeros(channels, dtype=np.int32)
    inputs = _own_weight(operator, values, codes, scale, bias)
    stride, before = lifted(operator.stride, 1), lifted(operator.padding, 0)
    _convolution(operator, values, source, inputs, 3, kernel, stride, (1, 1), before, depthwise=True)


def _mean(operator: Average, values: Values) -> None:
    name = operator.inputs[0]
    rank, layout = len(values.model.edges[name].shape), values.layout(name)
    whole = set(operator.dims) == set(range(1, rank))
    if not whole and not operator.keepdim:
        layout = "plain"  # what stays is no image
    axes = [1, 2] if whole and layout == "image" else [values.axis(layout, rank, dim) for dim in operator.dims]
    inputs = (values.read(name, layout), values.graph.integers("axes", axes))

    def write(target: int, activation: int) -> None:
        values.graph.operator("MEAN", inputs, target, 2, "ReducerOptions", keepDims=operator.keepdim)

    values.clamped(operator, layout if operator.keepdim else "plain", write, fuse=False)


def _matrix_product(operator: Weighted, values: Values, source: int, codes: NDArray[np.int8], layout: Layout) -> None:
    graph = values.graph
    inputs = (source, _weight(operator, values, codes, 0), _bias(operator, values))
    version = _PRODUCT_VERSIONS[container_bits(operator, values.pack)]

    def write(target: int, activation: int) -> None:
        fields = {"keepNumDims": len(graph.shape(target)) > 2, "fusedActivationFunction": activation}
        graph.operator("FULLY_CONNECTED", inputs, target, version, "FullyConnectedOptions", **fields)

    values.clamped(operator, layout, write)


def _convolution(
    operator: Operator,
    values: Values,
    source: int,
    weights: tuple[int, int],
    version: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    before: tuple[int, int],
    depthwise: bool,
) -> None:
    """A convolution of an image; `weights` are the tensors of weight and bias, `before` the padding before."""
    graph = values.graph
    sizes, places = graph.shape(source)[1:3], image_shape(values.model.edges[operator.output])
    padding, sides = padding_of(windows_of(sizes, places[:2], kernel, stride, dilation, before))
    fields = {
        "padding": getattr(graph.schema.Padding, padding),
        "strideH": stride[0],
        "strideW": stride[1],
        "dilationHFactor": dilation[0],
        "dilationWFactor": dilation[1],
    }
    code, options = "CONV_2D", "Conv2DOptions"
    if depthwise:
        code, options = "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions"
        fields["depthMultiplier"] = places[2] // graph.shape(source)[3]
    inputs = (padded(values, operator.inputs[0], source, sides), *weights)

    def write(target: int, activation: int) -> None:
        graph.operator(code, inputs, target, version, options, fusedActivationFunction=activation, **fields)

    values.clamped(operator, "image", write)


def _weight(operator: Weighted, values: Values, codes: NDArray[np.int8], axis: int) -> int:
    """A layer's weight in its container; `axis` is that of its output channels."""
    bits = container_bits(operator, values.pack)
    grid = Grid(tuple((operator.scale / np.float32(operator.gain)).tolist()), 0, axis)
    data = packed(codes * np.int8(operator.gain), bits)
    return values.graph.tensor(f"{operator.layer}.weight", codes.shape, _CONTAINERS[bits], grid, data)


def _bias(operator: Weighted, values: Values) -> int:
    unit = operator.scale.astype(np.float64) * values.model.edges[operator.inputs[0]].scale / operator.gain
    return _int32(values, f"{operator.name}.bias", operator.bias, unit.tolist())


def _own_weight(
    operator: Operator,
    values: Values,
    codes: NDArray[np.int8],
    scale: NDArray[np.float32],
    bias: NDArray[np.int32],
) -> tuple[int, int]:
    """Weight [1, h, w, C] and bias of a depthwise convolution that the network does not have."""
    grid = Grid(tuple(scale.tolist()), 0, 3)
    weight = values.graph.tensor(f"{operator.name}.weight", codes.shape, "INT8", grid, packed(codes, 8))
    unit = scale.astype(np.float64) * values.model.edges[operator.inputs[0]].scale
    return weight, _int32(values, f"{operator.name}.bias", bias, unit.tolist())


def _int32(values: Values, name: str, numbers: NDArray[np.int32], scales: Sequence[float]) -> int:
    return values.graph.tensor(name, numbers.shape, "INT32", Grid(tuple(scales)), numbers.astype("<i4").tobytes())
