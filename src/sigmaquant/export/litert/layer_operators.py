"""Layers with weights."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sigmaquant.export.litert.emission import ELSEWHERE, emit, refusal
from sigmaquant.export.litert.flatbuffer import Grid
from sigmaquant.export.litert.form import container_bits, is_matrix_product
from sigmaquant.export.litert.geometry import lifted, padding_of, windows_of
from sigmaquant.export.litert.movement import padded, strided
from sigmaquant.export.litert.taps import int32
from sigmaquant.export.litert.values import Layout, Values, image_shape
from sigmaquant.export.packing import pack_bits
from sigmaquant.lowering.executor import IntegerExecutor
from sigmaquant.operators import Convolution, Embedding, Linear, Operator, Recode, Weighted, compute

_CONTAINERS = {2: "INT2", 4: "INT4", 8: "INT8"}
_PRODUCT_VERSIONS = {2: 14, 4: 10, 8: 5}


@emit.register
def _(operator: Linear, values: Values) -> None:
    _matrix_product(operator, values, values.plain(operator.inputs[0]), operator.codes, "plain")


@emit.register
def _(operator: Embedding, values: Values) -> None:
    """A gather of rows that are on the output's grid already, so that no runtime rounds them otherwise."""
    everything = torch.arange(len(operator.codes))
    _gathered(operator, values, compute(operator, IntegerExecutor(values.model), everything).numpy())


@emit.register
def _(operator: Recode, values: Values) -> None:
    _gathered(operator, values, operator.table)


def _gathered(operator: Embedding | Recode, values: Values, rows: NDArray[np.int8]) -> None:
    graph, name = values.graph, operator.output
    codes = (rows.astype(np.int16) + values.shift(name)).astype(np.int8)
    table = graph.tensor(f"{operator.name}.table", codes.shape, "INT8", values.grid(name), codes.tobytes())
    inputs = (table, values.plain(operator.inputs[0]))
    graph.operator("GATHER", inputs, values.new(name, "plain"), 2, "GatherOptions", axis=0)


@emit.register
def _(operator: Convolution, values: Values) -> None:
    if len(operator.stride) > 2:
        raise refusal(operator, "convolutions of three dimensions have no integer kernel in LiteRT", ELSEWHERE)
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
    ends = (operator.low, operator.high)
    convolved(operator, ends, values, source, inputs, version, kernel, stride, dilation, before, depthwise)


def _matrix_product(operator: Weighted, values: Values, source: int, codes: NDArray[np.int8], layout: Layout) -> None:
    graph = values.graph
    inputs = (source, _weight(operator, values, codes, 0), _bias(operator, values))
    version = _PRODUCT_VERSIONS[container_bits(operator, values.pack)]

    def write(target: int, activation: int) -> None:
        fields = {"keepNumDims": len(graph.shape(target)) > 2, "fusedActivationFunction": activation}
        graph.operator("FULLY_CONNECTED", inputs, target, version, "FullyConnectedOptions", **fields)

    values.clamped(operator.output, (operator.low, operator.high), layout, write)


def convolved(
    operator: Operator,
    ends: tuple[int, int],
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
    """Write a convolution of an image.

    Args:
        operator: whose input and output these are.
        ends: smallest and largest output code.
        values: of the file.
        source: the image.
        weights: the tensors of weight and bias.
        version: of the runtime's operator.
        kernel: sizes.
        stride: by dimension.
        dilation: by dimension.
        before: the padding before the input, by dimension.
        depthwise: whether each output channel reads one input channel alone.
    """
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

    values.clamped(operator.output, ends, "image", write)


def _weight(operator: Weighted, values: Values, codes: NDArray[np.int8], axis: int) -> int:
    """A layer's weight in its container; `axis` is that of its output channels."""
    bits = container_bits(operator, values.pack)
    grid = Grid(tuple((operator.scale / np.float32(operator.gain)).tolist()), 0, axis)
    data = pack_bits((codes * np.int8(operator.gain)).reshape(-1), bits).tobytes()
    return values.graph.tensor(f"{operator.layer}.weight", codes.shape, _CONTAINERS[bits], grid, data)


def _bias(operator: Weighted, values: Values) -> int:
    unit = operator.scale.astype(np.float64) * values.model.edges[operator.inputs[0]].scale / operator.gain
    return int32(values, f"{operator.name}.bias", operator.bias, unit.tolist())
