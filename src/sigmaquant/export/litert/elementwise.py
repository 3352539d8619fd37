"""Operators on each value but sums: products, tables, the larger, the chosen, slopes, and concatenations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sigmaquant.export.litert.emission import emit
from sigmaquant.export.litert.form import SAME, Forming, Scaled, formed, in_float
from sigmaquant.export.litert.taps import taps
from sigmaquant.export.litert.values import Values
from sigmaquant.export.litert.wide import Wide
from sigmaquant.operators import Concatenation, Extremum, Lookup, Operator, Product, Select, Slopes


@formed.register
def _(operator: Product, to: Forming) -> Sequence[Operator]:
    scales = [to.edges[name].scale for name in (*operator.inputs, operator.output)]
    return (replace(operator, factor=in_float(*scales)),)


@formed.register(Concatenation)
@formed.register(Extremum)
def _(operator: Concatenation | Extremum, to: Forming) -> Sequence[Operator]:
    """Of edges that are on the output's grid."""
    found, inputs = to.alike(operator, operator.inputs)
    same: dict[str, Any] = {"multipliers": (SAME[0],) * len(inputs), "shifts": (SAME[1],) * len(inputs)}
    return (*found, replace(operator, inputs=inputs, **same))


@formed.register
def _(operator: Select, to: Forming) -> Sequence[Operator]:
    found, inputs = to.alike(operator, operator.inputs[1:])
    return (
        *found,
        replace(operator, inputs=(operator.inputs[0], *inputs), multipliers=(SAME[0],) * 2, shifts=(SAME[1],) * 2),
    )


@emit.register
def _(operator: Product, values: Values) -> None:
    layout = values.layout(*operator.inputs)
    inputs = [values.read(name, layout) for name in operator.inputs]

    def write(target: int, activation: int) -> None:
        values.graph.operator("MUL", inputs, target, 2, "MulOptions", fusedActivationFunction=activation)

    values.clamped(operator.output, (operator.low, operator.high), layout, write)


@emit.register
def _(operator: Concatenation, values: Values) -> None:
    layout = values.layout(*operator.inputs)
    inputs = [values.read(name, layout) for name in operator.inputs]
    axis = values.axis(layout, len(values.model.edges[operator.output].shape), operator.axis)

    def write(target: int, activation: int) -> None:
        values.graph.operator("CONCATENATION", inputs, target, 2, "ConcatenationOptions", axis=axis)

    values.clamped(operator.output, (operator.low, operator.high), layout, write, fuse=False)


@emit.register
def _(operator: Extremum, values: Values) -> None:
    layout, graph = values.layout(*operator.inputs), values.graph
    inputs = [values.read(name, layout) for name in operator.inputs]
    code = "MAXIMUM" if operator.largest else "MINIMUM"
    shapes = [graph.shape(tensor) for tensor in inputs]
    version = 3 if shapes[0] != shapes[1] and len(shapes[0]) > 4 else 2

    def write(target: int, activation: int) -> None:
        graph.operator(code, inputs, target, version, "MaximumMinimumOptions")

    values.clamped(operator.output, (operator.low, operator.high), layout, write, fuse=False)


@emit.register
def _(operator: Select, values: Values) -> None:
    condition, *others = operator.inputs
    layout, graph = values.layout(*operator.inputs), values.graph
    inputs = [values.read(name, layout) for name in others]
    flags, kinds = values.read(condition, layout), graph.schema.TensorType
    truth = graph.tensor(f"{condition}.truth", graph.shape(flags), "BOOL")  # all integers but zero are true
    graph.operator("CAST", (flags,), truth, 3, "CastOptions", inDataType=kinds.INT8, outDataType=kinds.BOOL)

    def write(target: int, activation: int) -> None:
        graph.operator("SELECT_V2", (truth, *inputs), target, 1, "SelectV2Options")

    values.clamped(operator.output, (operator.low, operator.high), layout, write, fuse=False)


@emit.register
def _(operator: Lookup, values: Values) -> None:
    """As a gather from the table: exact, whatever the function."""
    graph, (name,) = values.graph, operator.inputs
    layout, kinds = values.layout(name), graph.schema.TensorType
    source = values.read(name, layout)
    stored = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.int64)  # of the indices 0..255
    entries = operator.table[(stored - values.shift(name) + 128).clip(0, 255)] + values.shift(operator.output)
    shape, data = graph.shape(source), entries.astype(np.int8).tobytes()
    table = graph.tensor(f"{operator.name}.table", (256,), "INT8", values.grid(operator.output), data)
    unsigned, indices = graph.tensor(f"{name}.unsigned", shape, "UINT8"), graph.tensor(f"{name}.index", shape, "INT32")
    for code, source_kind, target, target_kind in (
        (source, kinds.INT8, unsigned, kinds.UINT8),
        (unsigned, kinds.UINT8, indices, kinds.INT32),
    ):
        graph.operator("CAST", (code,), target, 3, "CastOptions", inDataType=source_kind, outDataType=target_kind)
    graph.operator("GATHER", (table, indices), values.new(operator.output, layout), 2, "GatherOptions")


@formed.register
def _(operator: Slopes, to: Forming) -> Sequence[Operator]:
    """Where no slope is above that of positive values, or none below: the larger, or smaller, of two straight lines."""
    above = operator.slopes >= operator.multiplier
    if above.any() and not above.all():
        return (operator,)
    lines = [to.edge(operator.output, what) for what in ("positive", "negative")]
    ends, names = (operator.low, operator.high), [to.name(operator, what) for what in ("positive", "negative")]
    first = Scaled(names[0], operator.inputs, lines[0], 1.0, *ends)
    slope = (operator.slopes * 2.0**-operator.shift).reshape(-1, *[1] * (len(to.edges[operator.output].shape) - 1))
    second = taps(Operator(names[1], operator.inputs, lines[1]), slope, np.zeros_like(slope), ends, to)
    same = ((SAME[0],) * 2, (SAME[1],) * 2)
    chosen = Extremum(operator.name, (lines[0], lines[1]), operator.output, not above.any(), *same, *ends)
    return (first, second, chosen)


@emit.register
def _(operator: Slopes, values: Values) -> None:
    """Slopes on both sides of that of positive values: in 32 bits, as the reference does."""
    (name,) = operator.inputs
    layout = values.layout(name)
    wide, rank = Wide(values, operator.name), len(values.model.edges[name].shape)
    x = wide.relative(name, layout)
    view = [1] * (rank + 1 if layout == "plain" else 4)
    view[values.axis(layout, rank, 0)] = -1
    positive = wide("MUL", wide("MAXIMUM", x, 0), operator.multiplier)
    negative = wide("MUL", wide("MINIMUM", x, 0), operator.slopes.reshape(view))
    total = wide("ADD", positive, negative, tensor=True)
    wide.write(wide.shifted(total, operator.shift), operator.output, (operator.low, operator.high), layout)
