"""What each operator of an `IntegerModel` is in ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from sigmaquant.export.onnx.moves import translate_move
from sigmaquant.export.onnx.translation import UNSIGNED, Translation
from sigmaquant.lowering.executor import IntegerExecutor, compute
from sigmaquant.lowering.model import (
    Affine,
    Average,
    Concatenation,
    Convolution,
    Edge,
    Linear,
    Lookup,
    MaxPool,
    Move,
    Operator,
    Product,
    Sum,
)


@singledispatch
def translate(operator: Operator, to: Translation) -> None:
    """Add one operator to the graph."""
    raise TypeError(f"the ONNX exporter does not know {type(operator).__name__}")


@translate.register
def _(operator: Convolution, to: Translation) -> None:
    before, after = zip(*operator.padding, strict=True)
    geometry: dict[str, Any] = {
        "kernel_shape": operator.codes.shape[2:],
        "strides": operator.stride,
        "pads": before + after,
        "dilations": operator.dilation,
        "group": operator.groups,
    }
    inputs, real = [to.real(to.edge(operator))], f"{operator.name}.real"
    if not operator.transposed:
        inputs += to.layer(operator)
        to.write(to.builder.node("Conv", inputs, name=operator.name, hint=real, **geometry), operator)
        return
    # The runtime has no integer kernel for it, and no one axis of the weight carries the channels of all groups:
    # the codes are convolved, then scaled.
    codes = to.weight(operator)
    one, zero = to.scale(1.0, "one"), to.zero_point(codes.zero_point, codes.kind)
    inputs.append(to.builder.node("DequantizeLinear", [codes.codes, one, zero], hint=f"{operator.name}.codes.real"))
    geometry["output_padding"] = operator.output_padding
    sums = to.builder.node("ConvTranspose", inputs, name=operator.name, hint=f"{operator.name}.sums", **geometry)
    scale = operator.scale / np.float32(operator.gain)
    bias = operator.bias * (scale.astype(np.float64) * to.edge(operator).scale)
    to.write(_mapped(sums, scale, bias, len(operator.stride), operator, to), operator)


def _mapped(
    value: str, factor: NDArray[Any], offset: NDArray[Any], trailing: int, operator: Operator, to: Translation
) -> str:
    """``factor * value + offset`` for each channel, which `trailing` dimensions follow."""
    for kind, vector in (("Mul", factor), ("Add", offset)):
        name = f"{operator.name}.{kind.lower()}"
        constant = to.builder.constant(vector.astype(np.float32).reshape(-1, *[1] * trailing), name)
        value = to.builder.node(kind, [value, constant], name=name, hint=f"{operator.name}.real")
    return value


@translate.register
def _(operator: Linear, to: Translation) -> None:
    edge, shape = to.edge(operator), to.model.edges[operator.output].shape
    flat = len(shape) == 1
    codes = "" if flat else to.reshaped(to.codes[edge.name], edge.shape[-1:])
    inputs = [to.real(edge, codes=codes), *to.layer(operator)]
    value = to.builder.node("Gemm", inputs, name=operator.name, hint=f"{operator.name}.real", transB=1)
    to.write(value, operator, () if flat else shape)


@translate.register
def _(operator: Affine, to: Translation) -> None:
    """In float. As a depthwise convolution it would take half the time, but an offset in the unit of int8 weights is
    too coarse: DenseNet-100 decided 1.2 % of images otherwise, and its file grew by a fifth (measured).
    """
    edge, output = to.edge(operator), to.model.edges[operator.output]
    unit = 2.0**-operator.shift * output.scale
    factor = operator.multiplier * unit / edge.scale
    # the reference rounds halves up, the runtime to even; half a unit more, and there are no halves
    offset = (operator.offset + 0.5) * unit
    value = _mapped(to.real(edge), factor, offset, len(edge.shape) - operator.axis - 1, operator, to)
    to.write(value, operator)


@translate.register
def _(operator: Sum, to: Translation) -> None:
    if len(operator.inputs) == 1:
        _by_table(operator, to)
        return
    unit = 2.0**-operator.shift * to.model.edges[operator.output].scale
    terms = []
    for index, multiplier in enumerate(operator.multipliers):
        edge = to.edge(operator, index)
        codes, zero_point = to.codes[edge.name], edge.zero_point + UNSIGNED
        if multiplier < 0:  # scales are positive; the complement, 255 - code, has the opposite sign
            codes, zero_point = to.builder.node("BitwiseNot", [codes], hint=f"{edge.name}.not"), 255 - zero_point
        terms.append(to.real(edge, abs(multiplier) * unit, codes, zero_point))
    if operator.offset:
        terms.append(to.builder.constant(np.array(operator.offset * unit, np.float32), f"{operator.name}.offset"))
    total, name = terms[0], operator.name
    for term in terms[1:]:
        total, name = to.builder.node("Add", [total, term], name=name, hint=f"{operator.name}.real"), ""
    to.write(total, operator)


@translate.register
def _(operator: Product, to: Translation) -> None:
    left, right = to.edge(operator), to.edge(operator, 1)
    scale = float(operator.factor.value[0]) * to.model.edges[operator.output].scale / right.scale
    inputs = [to.real(left, scale), to.real(right)]
    to.write(to.builder.node("Mul", inputs, name=operator.name, hint=f"{operator.name}.real"), operator)


@translate.register
def _(operator: Concatenation, to: Translation) -> None:
    output = to.model.edges[operator.output]
    inputs = [
        to.real(to.model.edges[name], multiplier * 2.0**-shift * output.scale)
        for name, multiplier, shift in zip(operator.inputs, operator.multipliers, operator.shifts, strict=True)
    ]
    value = to.builder.node("Concat", inputs, name=operator.name, hint=f"{operator.name}.real", axis=operator.axis + 1)
    to.write(value, operator)


@translate.register
def _(operator: Average, to: Translation) -> None:
    edge, output = to.edge(operator), to.model.edges[operator.output]
    unit = float(operator.factor.value[0]) * output.scale
    if operator.kernel:
        value = to.builder.node(
            "AveragePool",
            [to.real(edge, unit * prod(operator.kernel))],
            name=operator.name,
            hint=f"{operator.name}.real",
            kernel_shape=operator.kernel,
            strides=operator.stride,
            pads=operator.padding * 2,
            count_include_pad=1,
        )
        to.write(value, operator)
        return
    codes, shape = _averaged_last(edge, operator.dims, to)
    real = to.real(edge, unit * prod(edge.shape[d] for d in operator.dims), codes)
    # unlike ReduceMean, the runtime has an integer kernel for it
    value = to.builder.node("GlobalAveragePool", [real], name=operator.name, hint=f"{operator.name}.real")
    kept = (shape[0], *[1] * (len(shape) - 1))
    to.write(value, operator, () if output.shape == kept else output.shape)


def _averaged_last(edge: Edge, dims: Sequence[int], to: Translation) -> tuple[str, tuple[int, ...]]:
    """Codes with one dimension to keep before those that are averaged, and their shape."""
    codes, rank = to.codes[edge.name], len(edge.shape)
    if tuple(dims) == tuple(range(1, rank)):
        return codes, edge.shape
    kept = [d for d in range(rank) if d not in dims]
    order = [0, *(d + 1 for d in (*kept, *dims))]
    if order != sorted(order):
        codes = to.builder.node("Transpose", [codes], hint=f"{codes}.moved", perm=order)
    shape = (prod(edge.shape[d] for d in kept), prod(edge.shape[d] for d in dims))
    return to.reshaped(codes, shape), shape


@translate.register
def _(operator: MaxPool, to: Translation) -> None:
    edge, output = to.edge(operator), to.model.edges[operator.output]
    after = []
    geometry = zip(operator.kernel, operator.stride, operator.padding, operator.dilation, strict=True)
    for axis, (kernel, stride, padding, dilation) in enumerate(geometry, 1):
        # rounded up, the last window may reach beyond the padding: runtimes disagree on when, so it is padded instead
        reach = (output.shape[axis] - 1) * stride + dilation * (kernel - 1) + 1
        after.append(max(padding, reach - edge.shape[axis] - padding))
    to.builder.node(
        "MaxPool",
        [to.codes[edge.name]],
        to.codes[operator.output],
        name=operator.name,
        kernel_shape=operator.kernel,
        strides=operator.stride,
        pads=(*operator.padding, *after),
        dilations=operator.dilation,
    )


@translate.register
def _(operator: Lookup, to: Translation) -> None:
    _look_up(operator, operator.table, to)


def _by_table(operator: Operator, to: Translation) -> None:
    """A function of one code, as the reference computes it.

    Not DequantizeLinear and QuantizeLinear alone: the runtime merges two such pairs into one of another scale.
    """
    codes = torch.arange(-128, 128).to(torch.int8)
    _look_up(operator, compute(operator, IntegerExecutor(to.model), codes).numpy(), to)


def _look_up(operator: Operator, table: NDArray[np.int8], to: Translation) -> None:
    """GatherElements over flat codes: exact, and eight times as fast as Gather (measured)."""
    builder, shape = to.builder, to.edge(operator).shape
    values = (table.astype(np.int16) + UNSIGNED).astype(np.uint8)[None]
    flat = builder.node(
        "Reshape", [to.codes[operator.inputs[0]], builder.integers(1, -1)], hint=f"{operator.name}.flat"
    )
    index = builder.node("Cast", [flat], hint=f"{operator.name}.index", to=TensorProto.INT32)
    found = builder.node(
        "GatherElements",
        [builder.constant(values, f"{operator.name}.table"), index],
        name=operator.name,
        hint=f"{operator.name}.values",
        axis=1,
    )
    to.reshaped(found, shape, to.codes[operator.output])


@translate.register
def _(operator: Move, to: Translation) -> None:
    translate_move(operator, to)
