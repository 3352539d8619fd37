"""Sums: with and without factors, of two edges that broadcast, and of an edge and a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sigmaquant.export.litert.emission import emit
from sigmaquant.export.litert.flatbuffer import Grid
from sigmaquant.export.litert.form import Forming, Scaled, formed
from sigmaquant.export.litert.taps import taps
from sigmaquant.export.litert.values import HIGHEST, Layout, Values
from sigmaquant.export.litert.wide import Wide
from sigmaquant.operators import Edge, Operator, Sum

_SUM_BITS = 21
_RATIOS = (2.0**-10, 2.0**8)
"""Of a term's scale and the sum's: what the default kernel takes. It leaves others to one that rounds twice."""


@formed.register
def _(operator: Sum, to: Forming) -> Sequence[Operator]:
    """Two edges with the runtime's multipliers, which have one bit more than lowering's; one edge as it needs it."""
    if len(operator.inputs) == 1:
        return (_of_one(operator, to),)
    if in_32_bits(operator):
        return (operator,)
    signs = [1 if multiplier > 0 else -1 for multiplier in operator.multipliers]
    output = np.float32(to.edges[operator.output].scale)
    ratios = [float(np.float32(scale) / output) for scale in term_scales(operator, to.edges)]
    shift = _SUM_BITS - math.frexp(max(ratios))[1]
    if not 1 <= shift <= 30:
        return (operator,)
    multipliers = tuple(sign * round(ratio * 2.0**shift) for sign, ratio in zip(signs, ratios, strict=True))
    return (replace(operator, multipliers=multipliers, shift=shift),)


def _of_one(operator: Sum, to: Forming) -> Operator:
    """Times a number, plus a number, or both, which is a map with one factor and one offset."""
    signs, step, ends = _unit_signs(operator, to.edges), 2.0**-operator.shift, (operator.low, operator.high)
    (multiplier,), (name,), offset = operator.multipliers, operator.inputs, operator.offset
    if signs and offset and _RATIOS[0] <= abs(offset) * step / HIGHEST < _RATIOS[1]:
        return operator
    if multiplier and not offset:
        real = signs[0] if signs else multiplier * step * to.edges[operator.output].scale / to.edges[name].scale
        return Scaled(operator.name, operator.inputs, operator.output, float(real), *ends)
    whole = (1,) * len(to.edges[name].shape)
    return taps(operator, np.full(whole, multiplier * step), np.full(whole, offset * step), ends, to)


def in_32_bits(operator: Sum) -> bool:
    """Whether a sum of two edges is none that a kernel for 8 bits computes."""
    ratios = [abs(multiplier) * 2.0**-operator.shift for multiplier in operator.multipliers]
    taken = all(_RATIOS[0] <= ratio < _RATIOS[1] for ratio in ratios)
    return bool(operator.offset) or max(operator.multipliers) <= 0 or not taken


def _unit_signs(operator: Sum, edges: dict[str, Edge]) -> list[int] | None:
    """The signs of a sum whose terms have no factors; None for any other."""
    step = 2.0**operator.shift / edges[operator.output].scale
    signs = [1 if multiplier > 0 else -1 for multiplier in operator.multipliers]
    units = (sign * edges[name].scale * step for sign, name in zip(signs, operator.inputs, strict=True))
    near = all(abs(m - unit) <= 1 for m, unit in zip(operator.multipliers, units, strict=True))
    return signs if near else None


def term_scales(operator: Sum, edges: dict[str, Edge]) -> list[float]:
    """By term, the scale of its input times its factor's magnitude."""
    if _unit_signs(operator, edges):
        return [edges[name].scale for name in operator.inputs]
    step = 2.0**-operator.shift * edges[operator.output].scale
    own = [abs(multiplier) * step for multiplier in operator.multipliers]
    return [
        edges[name].scale if abs(scale / edges[name].scale - 1) < 2.0**-15 else scale
        for scale, name in zip(own, operator.inputs, strict=True)
    ]


@emit.register
def _(operator: Sum, values: Values) -> None:
    layout = values.layout(*operator.inputs)
    if len(operator.inputs) == 1:
        _with_number(operator, values, layout)
    elif in_32_bits(operator):
        _exactly(operator, values, layout)
    else:
        _of_two(operator, values, layout)


def _with_number(operator: Sum, values: Values, layout: Layout) -> None:
    """Plus a number, or taken from one."""
    source, number = values.read(operator.inputs[0], layout), operator.offset * 2.0**-operator.shift
    constant = values.number(number * values.model.edges[operator.output].scale, HIGHEST)
    positive = operator.multipliers[0] > 0
    _write(
        operator, values, layout, "ADD" if positive else "SUB", (source, constant) if positive else (constant, source)
    )


@emit.register
def _(operator: Scaled, values: Values) -> None:
    (name,), output = operator.inputs, operator.output
    layout = values.layout(name)
    source, number = values.read(name, layout), values.number(operator.real)

    def write(target: int, activation: int) -> None:
        values.graph.operator("MUL", (source, number), target, 2, "MulOptions", fusedActivationFunction=activation)

    values.clamped(output, (operator.low, operator.high), layout, write)


def _of_two(operator: Sum, values: Values, layout: Layout) -> None:
    """As a sum or difference; a term with a factor is the same codes on a grid with another scale."""
    terms = []
    for name, scale in zip(operator.inputs, term_scales(operator, dict(values.model.edges)), strict=True):
        source, own = values.read(name, layout), values.model.edges[name].scale
        if scale != own:
            source = values.multiplied(source, scale / own, Grid((scale,), values.zero(name)))
        terms.append(source)
    first, second = operator.multipliers
    if first < 0:  # the second is positive
        terms.reverse()
    _write(operator, values, layout, "ADD" if min(first, second) > 0 else "SUB", terms)


def _write(operator: Sum, values: Values, layout: Layout, code: str, arguments: Sequence[int]) -> None:
    graph = values.graph
    shapes = [graph.shape(argument) for argument in arguments]
    version = 3 if code == "SUB" and shapes[0] != shapes[1] and max(map(len, shapes)) > 4 else 2

    def write(target: int, activation: int) -> None:
        options = f"{code.capitalize()}Options"
        graph.operator(code, arguments, target, version, options, fusedActivationFunction=activation)

    values.clamped(operator.output, (operator.low, operator.high), layout, write)


def _exactly(operator: Sum, values: Values, layout: Layout) -> None:
    """In 32 bits, as the reference does."""
    wide = Wide(values, operator.name)
    first, second = (
        wide("MUL", wide.relative(name, layout), multiplier)
        for name, multiplier in zip(operator.inputs, operator.multipliers, strict=True)
    )
    total = wide("ADD", first, second, tensor=True)
    total = wide("ADD", total, operator.offset) if operator.offset else total
    wide.write(wide.shifted(total, operator.shift), operator.output, (operator.low, operator.high), layout)
