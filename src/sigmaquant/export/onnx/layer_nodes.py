"""Convolutions, linear layers and embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from sigmaquant.export.onnx.translation import UNSIGNED, Translation, translate
from sigmaquant.operators import Convolution, Embedding, Linear, Recode


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
    view = (-1, *[1] * len(operator.stride))
    to.write(to.mapped(sums, scale.reshape(view), bias.reshape(view), operator.name), operator)


@translate.register
def _(operator: Linear, to: Translation) -> None:
    edge, builder, name = to.edge(operator), to.builder, operator.name
    many = len(edge.shape) > 1
    if many and not operator.bias.any():  # unlike Gemm, MatMul takes and gives any shape
        weight, scale = to.weight(operator), operator.scale / np.float32(operator.gain)
        turned = builder.node("Transpose", [weight.codes], hint=f"{name}.weight.turned", perm=(1, 0))
        zeros = to.zero_point(weight.zero_point, weight.kind, len(scale))
        columns = to.channels(turned, zeros, scale, f"{name}.weight", axis=1)
        to.write(builder.node("MatMul", [to.real(edge), columns], name=name, hint=f"{name}.real"), operator)
        return
    inputs = [to.real(edge, codes=to.vectors(edge)), *to.layer(operator)]
    value = builder.node("Gemm", inputs, name=name, hint=f"{name}.real", transB=1)
    to.write(value, operator, vectors=many)


@translate.register
def _(operator: Embedding, to: Translation) -> None:
    """Rows of codes and their scales, each gathered: so that a table is stored with its own bits."""
    builder, name = to.builder, operator.name
    indices, weight = to.codes[operator.inputs[0]], to.weight(operator)
    rows = builder.node("Gather", [weight.codes, indices], name=name, hint=f"{name}.rows", axis=0)
    value = builder.node("Cast", [rows], hint=f"{name}.wide", to=TensorProto.FLOAT)
    if weight.zero_point:
        zero = builder.constant(np.array(weight.zero_point, np.float32), "zero")
        value = builder.node("Sub", [value, zero], hint=f"{name}.relative")
    scales = builder.constant(operator.scale.reshape(-1, 1), f"{name}.scale")
    scale = builder.node("Gather", [scales, indices], hint=f"{name}.scales", axis=0)
    to.write(builder.node("Mul", [value, scale], hint=f"{name}.real"), operator)


@translate.register
def _(operator: Recode, to: Translation) -> None:
    codes = (operator.table.astype(np.int16) + UNSIGNED).astype(np.uint8)
    inputs = [to.builder.constant(codes, f"{operator.name}.table"), to.codes[operator.inputs[0]]]
    to.builder.node("Gather", inputs, to.codes[operator.output], name=operator.name, axis=0)
