"""What stands in float behind the last integer, and vectors of unit length."""

from __future__ import annotations

import math
import struct

from sigmaquant.export.litert.emission import emit, refusal
from sigmaquant.export.litert.values import Values
from sigmaquant.export.litert.wide import Wide
from sigmaquant.lowering.model import Dequantize
from sigmaquant.operators import FloatFunction, UnitLength
from sigmaquant.operators.unit_length import ROOT_BITS

_FUNCTIONS = {"softmax": ("SOFTMAX", "SoftmaxOptions"), "log_softmax": ("LOG_SOFTMAX", "LogSoftmaxOptions"),
              "sigmoid": ("LOGISTIC", "")}  # fmt: skip


@emit.register
def _(operator: Dequantize, values: Values) -> None:
    (name,) = operator.inputs
    layout = values.layout(name)
    source, target = values.read(name, layout), values.new(operator.output, layout)
    values.graph.operator("DEQUANTIZE", (source,), target, 2, "DequantizeOptions")


@emit.register
def _(operator: FloatFunction, values: Values) -> None:
    """The runtime's softmax is one over the last axis."""
    code, options = _FUNCTIONS[operator.function]
    (name,), output = operator.inputs, operator.output
    layout, rank = values.layout(name), len(values.model.edges[name].shape)
    source = values.read(name, layout)
    axis, last = values.axis(layout, rank, operator.axis % rank) if rank else 0, len(values.graph.shape(source)) - 1
    fields = {"beta": 1.0} if operator.function == "softmax" else {}
    if operator.function == "sigmoid" or axis == last:
        values.graph.operator(code, (source,), values.new(output, layout), 1, options, **fields)
        return
    order = [axis if place == last else last if place == axis else place for place in range(last + 1)]
    turned = values.transposed(source, tuple(order), name)
    result = values.like(output, values.graph.shape(turned), f"{output}.turned")
    values.graph.operator(code, (turned,), result, 1, options, **fields)
    values.put(output, layout, values.transposed(result, tuple(order), output))


@emit.register
def _(operator: UnitLength, values: Values) -> None:
    """In 32 bits, as the reference does, but for the square root, which is the runtime's in float32."""
    (name,) = operator.inputs
    edge = values.model.edges[name]
    length = edge.shape[-1]
    largest = max(length * 255**2, operator.least)
    reach = 2 * 255 * operator.multiplier + 2 * math.isqrt(largest << 2 * ROOT_BITS)
    if max(largest, reach) >= 2**31:
        raise refusal(
            operator,
            f"its vectors of {length} values do not fit into arithmetic in 32 bits",
            "Leave the normalization out of the network and divide by the length behind it",
        )
    wide = Wide(values, operator.name)
    x = wide.relative(name, "plain")
    squares = wide.reduced(wide("MUL", x, x, tensor=True), len(edge.shape))
    squares = wide("MAXIMUM", squares, operator.least)
    shape, graph = values.graph.shape(squares), values.graph
    floats = wide.cast(squares, "INT32", "FLOAT32")
    root = graph.tensor(f"{operator.name}.root", shape, "FLOAT32")
    graph.operator("SQRT", (floats,), root, 1)
    scaled = graph.tensor(f"{operator.name}.root", shape, "FLOAT32")
    factor = graph.tensor(f"{operator.name}.number", (1,), "FLOAT32", data=struct.pack("<f", 2.0**ROOT_BITS))
    graph.operator("MUL", (root, factor), scaled, 1, "MulOptions")
    length_codes = wide.cast(scaled, "FLOAT32", "INT32")
    dividend = wide("ADD", wide("MUL", x, 2 * operator.multiplier), length_codes, tensor=True)
    divisor = wide("ADD", length_codes, length_codes, tensor=True)
    quotient = wide("FLOOR_DIV", dividend, divisor, tensor=True)
    wide.write(quotient, operator.output, (operator.low, operator.high), "plain")
