"""Attention: matrix products of two activations, and softmax with masks."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from sigmaquant.export.onnx.translation import SHARE_TIES, UNSIGNED, Translation, translate
from sigmaquant.operators import MatMul, Softmax

_NOTHING = -1e30
"""Added to a score that takes no part: its exponential is 0, whatever the others are."""


@translate.register
def _(operator: MatMul, to: Translation) -> None:
    left, right = to.edge(operator), to.edge(operator, 1)
    scale = float(operator.factor.value[0]) * to.model.edges[operator.output].scale / right.scale
    inputs = [to.real(left, scale), to.real(right)]
    to.write(to.builder.node("MatMul", inputs, name=operator.name, hint=f"{operator.name}.real"), operator)


@translate.register
def _(operator: Softmax, to: Translation) -> None:
    """In float, of codes without their zero-point: a softmax does not see it.

    Between DequantizeLinear and QuantizeLinear the runtime would put its integer kernel, which takes four times as long
    (measured) and rounds the reciprocal of the output's scale down to a whole number.
    """
    builder, edge, name = to.builder, to.edge(operator), operator.name
    wide = builder.node("Cast", [to.codes[edge.name]], hint=f"{name}.wide", to=TensorProto.FLOAT)
    value = builder.node("Mul", [wide, to.scale(edge.scale, edge.name)], hint=f"{name}.scores")
    empty = None
    if operator.mask is not None:
        added = np.where(operator.mask, 0, _NOTHING).astype(np.float32)
        value = builder.node("Add", [value, builder.constant(added, f"{name}.mask")], hint=f"{name}.masked")
        whole = np.broadcast_to(operator.mask, (*operator.mask.shape[:-1], edge.shape[-1]))
        empty = ~whole.any(-1, keepdims=True)
    given = None
    if len(operator.inputs) > 1:
        given = builder.node("Cast", [to.codes[operator.inputs[1]]], hint=f"{name}.given", to=TensorProto.FLOAT)
        one = builder.constant(np.array(UNSIGNED + 1, np.float32), "one")
        below = builder.node("Sub", [given, one], hint=f"{name}.below")  # 0, or -1 where nothing takes part
        huge = builder.constant(np.array(-_NOTHING, np.float32), "huge")
        value = builder.node("Add", [value, builder.node("Mul", [below, huge], hint=f"{name}.out")], hint=f"{name}.in")
        least = builder.node("ReduceMax", [given, builder.integers(-1)], hint=f"{name}.most", keepdims=1)
        zero = builder.constant(np.array(UNSIGNED, np.float32), "none")
        given = builder.node("Sub", [least, zero], hint=f"{name}.any")
    value = builder.node("Softmax", [value], name=name, hint=f"{name}.shares", axis=-1)
    if empty is not None and empty.any():
        kept = builder.constant((~empty).astype(np.float32), f"{name}.kept")
        value = builder.node("Mul", [value, kept], hint=f"{name}.real")
    if given is not None:  # of a row that the mask empties, nothing is left
        value = builder.node("Mul", [value, given], hint=f"{name}.kept")
    to.write(value, operator, relative=1 - SHARE_TIES)
