"""Convolutions and linear layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from sigmaquant.export.onnx.translation import Translation, translate
from sigmaquant.operators import Convolution, Linear


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
