"""Arithmetic: maps, sums, products, the larger or the chosen one of two, tables, unit lengths, and joining."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from sigmaquant.export.onnx.translation import UNSIGNED, Translation, translate
from sigmaquant.lowering.executor import IntegerExecutor
from sigmaquant.operators import (
    Affine,
    Concatenation,
    Extremum,
    Lookup,
    Operator,
    Product,
    Select,
    Slopes,
    Sum,
    UnitLength,
    compute,
)
from sigmaquant.operators.unit_length import ROOT_BITS


@translate.register
def _(operator: Affine, to: Translation) -> None:
    """In float. As a depthwise convolution it would take half the time, but an offset in the unit of int8 weights is
    too coarse: DenseNet-100 decided 1.2 % of images otherwise, and its file grew by a fifth (measured).
    """
    edge, output = to.edge(operator), to.model.edges[operator.output]
    unit = 2.0**-operator.shift * output.scale
    offset = operator.offset * unit + to.tie(operator.multiplier, operator.offset, operator.shift, operator)
    to.write(to.mapped(to.real(edge), operator.multiplier * unit / edge.scale, offset, operator.name), operator)


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


def _on_output_grid(operator: Concatenation | Extremum | Select, names: Sequence[str], to: Translation) -> list[str]:
    """Inputs as float values, each with its own factor to the output's grid.

    Where the two roundings differ (halves: one scale is twice the other), codes are brought to that grid by a table.
    """
    output, found = to.model.edges[operator.output], []
    codes = np.arange(-UNSIGNED, UNSIGNED)
    for name, multiplier, shift in zip(names, operator.multipliers, operator.shifts, strict=True):
        edge = to.model.edges[name]
        scale = multiplier * 2.0**-shift * output.scale
        relative = codes.clip(*edge.range) - edge.zero_point
        expected = (relative * multiplier + (1 << (shift - 1))) >> shift
        reals = relative.astype(np.float32) * np.float32(scale) / np.float32(output.scale)
        if np.array_equal(np.rint(reals), expected):
            found.append(to.real(edge, scale))
        else:
            table = (expected + output.zero_point).clip(operator.low, operator.high).astype(np.int8)
            flat = _looked_up(to.codes[name], table, f"{operator.name}.{name}", to)
            found.append(to.real(output, codes=to.reshaped(flat, edge.shape)))
    return found


@translate.register
def _(operator: Concatenation, to: Translation) -> None:
    inputs = _on_output_grid(operator, operator.inputs, to)
    value = to.builder.node("Concat", inputs, name=operator.name, hint=f"{operator.name}.real", axis=operator.axis + 1)
    to.write(value, operator)


@translate.register
def _(operator: Extremum, to: Translation) -> None:
    """Rounding keeps the order: the larger value's code is the larger code."""
    inputs = _on_output_grid(operator, operator.inputs, to)
    kind = "Max" if operator.largest else "Min"
    to.write(to.builder.node(kind, inputs, name=operator.name, hint=f"{operator.name}.real"), operator)


@translate.register
def _(operator: Select, to: Translation) -> None:
    condition = to.edge(operator)
    zero = to.zero_point(UNSIGNED)
    bits = to.builder.node("BitwiseXor", [to.codes[condition.name], zero], hint=f"{operator.name}.bits")
    chosen = to.builder.node("Cast", [bits], hint=f"{operator.name}.condition", to=TensorProto.BOOL)
    inputs = [chosen, *_on_output_grid(operator, operator.inputs[1:], to)]
    to.write(to.builder.node("Where", inputs, name=operator.name, hint=f"{operator.name}.real"), operator)


@translate.register
def _(operator: Slopes, to: Translation) -> None:
    edge, builder, name = to.edge(operator), to.builder, operator.name
    unit = 2.0**-operator.shift * to.model.edges[operator.output].scale
    view = (-1, *[1] * (len(edge.shape) - 1))
    relative = (operator.slopes / max(operator.multiplier, 1)).astype(np.float32).reshape(view)
    slopes = builder.constant(relative, f"{name}.slopes")
    if operator.multiplier:
        value = builder.node(
            "PRelu", [to.real(edge, operator.multiplier * unit), slopes], name=name, hint=f"{name}.real"
        )
    else:  # so small beside the slopes that it has vanished
        zero = builder.constant(np.array(0, np.float32), "zero")
        value = builder.node("Min", [to.real(edge, unit), zero], hint=f"{name}.negative")
        value = builder.node("Mul", [value, slopes], name=name, hint=f"{name}.real")
    to.write_rounded_up(value, operator)


@translate.register
def _(operator: UnitLength, to: Translation) -> None:
    """In integers that float32 holds, but for vectors so long that a unit is nothing; the root is cut off alike."""
    builder, name = to.builder, operator.name
    codes = to.real(to.edge(operator), 1.0)
    squares = builder.node("ReduceSumSquare", [codes, builder.integers(-1)], hint=f"{name}.squares", keepdims=1)
    least = builder.constant(np.array(operator.least, np.float32), f"{name}.least")
    places = builder.constant(np.array(2**ROOT_BITS, np.float32), f"{name}.places")
    length = builder.node("Sqrt", [builder.node("Max", [squares, least], hint=f"{name}.bounded")], hint=f"{name}.root")
    scaled = builder.node("Mul", [length, places], hint=f"{name}.scaled")
    root = builder.node("Floor", [scaled], hint=f"{name}.length")
    unit = np.array(operator.multiplier * to.model.edges[operator.output].scale, np.float32)
    value = builder.node("Div", [codes, root], name=name, hint=f"{name}.quotient")
    value = builder.node("Mul", [value, builder.constant(unit, f"{name}.factor")], hint=f"{name}.real")
    to.write_rounded_up(value, operator)


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
    edge, output = to.edge(operator), to.model.edges[operator.output]
    if to.in_vectors(edge):
        found = _looked_up(to.vectors(edge), table, operator.name, to)
        to.reshaped(found, edge.shape[-1:], to.as_vectors(output))
    else:
        found = _looked_up(to.codes[edge.name], table, operator.name, to)
        to.reshaped(found, edge.shape, to.codes[output.name])


def _looked_up(codes: str, table: NDArray[np.int8], name: str, to: Translation) -> str:
    """The table's entries of flat codes, by GatherElements: exact, and eight times as fast as Gather (measured)."""
    builder, values = to.builder, (table.astype(np.int16) + UNSIGNED).astype(np.uint8)[None]
    flat = builder.node("Reshape", [codes, builder.integers(1, -1)], hint=f"{name}.flat")
    index = builder.node("Cast", [flat], hint=f"{name}.index", to=TensorProto.INT32)
    inputs = [builder.constant(values, f"{name}.table"), index]
    return builder.node("GatherElements", inputs, name=name, hint=f"{name}.values", axis=1)
