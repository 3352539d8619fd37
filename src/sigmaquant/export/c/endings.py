"""What stands in float behind the last integer: left out of the network, as functions of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sigmaquant.export.c.translate import refuse
from sigmaquant.lowering import IntegerModel
from sigmaquant.lowering.model import Dequantize, FloatOperator, Quantize
from sigmaquant.operators import Edge, FloatFunction, Reshape

FUNCTIONS = frozenset({"softmax", "log_softmax", "sigmoid"})
"""That there are in C: ``sq_ending.c``."""


@dataclass(frozen=True)
class CEnding:
    """A function of an output's float values, [outer, size, inner].

    Attributes:
        function: ``"softmax"``, ``"log_softmax"`` or ``"sigmoid"``.
        outer: how many lines there are before the dimension.
        size: of the dimension along which it goes.
        inner: how many lines there are behind it.
    """

    function: str
    outer: int
    size: int
    inner: int


Endings = tuple[tuple[CEnding, ...], ...]
"""For each output the functions that are applied to its values, in order."""


def in_integers(model: IntegerModel) -> tuple[IntegerModel, Endings]:
    """The network up to its last integers, and what stands behind them.

    Raises:
        ExportError: an operator in float that is no such function.
    """
    _refuse_floats(model)
    writers = {operator.output: operator for operator in model.operators}
    outputs, endings = [], []
    for name in model.outputs:
        found: list[CEnding] = []
        while model.edges[name].is_float and (writer := writers.get(name)) is not None:
            if isinstance(writer, FloatFunction):
                found.insert(0, _ending(writer, model.edges[name]))
            elif not isinstance(writer, (Dequantize, Reshape)):  # the same values in the same order
                raise refuse(
                    writer.name,
                    f"it moves the values of {writer.inputs[0]!r}, which are floats, and C code has no such moves",
                    "Move them before the function that makes them float (a softmax, a sigmoid).",
                )
            (name,) = writer.inputs
        outputs.append(name)
        endings.append(tuple(found))
    kept = tuple(operator for operator in model.operators if not model.edges[operator.output].is_float)
    used = {edge for operator in kept for edge in (*operator.inputs, operator.output)}
    edges = {name: edge for name, edge in model.edges.items() if name in used.union(model.inputs, outputs)}
    return replace(model, operators=kept, edges=edges, outputs=tuple(outputs)), tuple(endings)


def _ending(operator: FloatFunction, edge: Edge) -> CEnding:
    count = edge.rows * math.prod(edge.shape)
    if operator.function == "sigmoid":
        return CEnding(operator.function, 1, count, 1)
    axis = operator.axis % len(edge.shape)
    size, inner = edge.shape[axis], math.prod(edge.shape[axis + 1 :])
    return CEnding(operator.function, count // (size * inner), size, inner)


def _refuse_floats(model: IntegerModel) -> None:
    floating = [operator for operator in model.operators if isinstance(operator, FloatOperator)]
    if floating:
        shown = ", ".join(map(_label, floating[:3]))
        more = f" and {len(floating) - 3} more" if len(floating) > 3 else ""
        raise refuse(
            floating[0].operator,
            f"it has no integer form, and the C code computes with integers alone (float operators: {shown}{more})",
            "Replace it by an operator that has one, or leave it out of the network that is exported.",
        )
    for operator in model.operators:
        if isinstance(operator, Quantize):
            raise refuse(
                operator.name,
                f"it reads {operator.inputs[0]!r}, which is float, and the C code computes with integers alone",
                "Leave what makes these floats out of the network that is exported, or put it at its very end.",
            )


def _label(operator: FloatOperator) -> str:
    return f"{operator.operator!r}" + (f" at {operator.line}" if operator.line else "")
