"""Operators on each value: sums, products, tables, and concatenations, which bring their inputs to one grid."""

from __future__ import annotations

import numpy as np

from sigmaquant.export.litert.emission import emit, refusal
from sigmaquant.export.litert.flatbuffer import Grid
from sigmaquant.export.litert.form import unit_signs
from sigmaquant.export.litert.values import HIGHEST, Layout, Values
from sigmaquant.lowering.model import Concatenation, Lookup, Product, Sum


@emit.register
def _(operator: Sum, values: Values) -> None:
    layout, edges = values.layout(*operator.inputs), values.model.edges
    inputs = [values.read(name, layout) for name in operator.inputs]
    signs = unit_signs(operator, values.model)
    step = 2.0**-operator.shift * edges[operator.output].scale
    offset = operator.offset * step
    if len(inputs) == 1 and not offset:
        real = signs[0] if signs else operator.multipliers[0] * step / edges[operator.inputs[0]].scale
        code, arguments = "MUL", (inputs[0], _number(values, inputs[0], real, 1))
    elif len(inputs) == 1 and signs:
        number = _number(values, inputs[0], offset, HIGHEST)
        code, arguments = ("ADD", (inputs[0], number)) if signs[0] > 0 else ("SUB", (number, inputs[0]))
    elif len(inputs) == 2 and not offset and signs in ([1, 1], [1, -1]):
        code, arguments = ("ADD" if signs == [1, 1] else "SUB"), (inputs[0], inputs[1])
    else:
        raise refusal(operator, "LiteRT adds and subtracts two tensors, or a tensor and a number, without factors")

    def write(target: int, activation: int) -> None:
        options = f"{code.capitalize()}Options"
        values.graph.operator(code, arguments, target, 2, options, fusedActivationFunction=activation)

    values.clamped(operator, layout, write)


def _number(values: Values, like: int, real: float, code: int) -> int:
    """A real number as a constant that broadcasts to a tensor; `code` is its magnitude, the scale does the rest."""
    shape, sign = (1,) * len(values.graph.shape(like)), -1 if real < 0 else 1
    data = np.array([sign * code], dtype=np.int8).tobytes()
    return values.graph.tensor("number", shape, "INT8", Grid((abs(real) / code,)), data)


@emit.register
def _(operator: Product, values: Values) -> None:
    left, right = (len(values.model.edges[name].shape) for name in operator.inputs)
    if left != right:
        raise refusal(operator, "its factors have different numbers of dimensions")
    layout = values.layout(*operator.inputs)
    inputs = [values.read(name, layout) for name in operator.inputs]

    def write(target: int, activation: int) -> None:
        values.graph.operator("MUL", inputs, target, 2, "MulOptions", fusedActivationFunction=activation)

    values.clamped(operator, layout, write)


@emit.register
def _(operator: Concatenation, values: Values) -> None:
    layout = values.layout(*operator.inputs)
    inputs = [_on_grid_of(values, name, operator.output, layout) for name in operator.inputs]
    axis = values.axis(layout, len(values.model.edges[operator.output].shape), operator.axis)

    def write(target: int, activation: int) -> None:
        values.graph.operator("CONCATENATION", inputs, target, 2, "ConcatenationOptions", axis=axis)

    values.clamped(operator, layout, write, fuse=False)


def _on_grid_of(values: Values, name: str, other: str, layout: Layout) -> int:
    """An edge on another edge's grid: as a product with one, since the default runtime's QUANTIZE has 8-bit factors."""
    source, grid = values.read(name, layout), values.grid(other)
    if grid == values.grid(name):
        return source
    target = values.graph.tensor(f"{name}.regridded", values.graph.shape(source), "INT8", grid)
    values.graph.operator("MUL", (source, _number(values, source, 1.0, 1)), target, 2, "MulOptions")
    return target


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
