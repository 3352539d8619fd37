"""Matrix products of two activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sigmaquant.export.litert.emission import emit, refusal
from sigmaquant.export.litert.flatbuffer import Grid
from sigmaquant.export.litert.form import Forming, RoundedAway, formed
from sigmaquant.export.litert.values import Values
from sigmaquant.operators import MatMul, Operator

_NO_FACTOR = 1e-6
_LARGEST_RANK = 5
"""Dimensions that the kernel takes, the batch among them."""


@formed.register
def _(operator: MatMul, to: Forming) -> Sequence[Operator]:
    return (replace(operator, factor=RoundedAway(operator.factor.mantissa, operator.factor.shift)),)


@emit.register
def _(operator: MatMul, values: Values) -> None:
    inputs = [values.plain(name) for name in operator.inputs]
    if max(len(values.graph.shape(tensor)) for tensor in inputs) > _LARGEST_RANK:
        raise refusal(
            operator,
            f"LiteRT's product of matrices takes {_LARGEST_RANK} dimensions",
            "Reshape its inputs to fewer dimensions, or export this network to another format",
        )

    edges, output = values.model.edges, operator.output
    first, second = (edges[name].scale for name in operator.inputs)
    scale = first * second / float(operator.factor.value[0])
    factored = abs(scale / edges[output].scale - 1) > _NO_FACTOR

    def write(target: int, activation: int) -> None:
        graph, product = values.graph, target
        if factored:  # the same codes on a grid with another scale
            grid = Grid((scale,), values.zero(output))
            product = graph.tensor(f"{output}.product", graph.shape(target), "INT8", grid)
        graph.operator("BATCH_MATMUL", inputs, product, 2, "BatchMatMulOptions")
        if factored:
            number = values.number(edges[output].scale / scale)
            graph.operator("MUL", (product, number), target, 2, "MulOptions")

    values.clamped(output, (operator.low, operator.high), "plain", write, fuse=False)
