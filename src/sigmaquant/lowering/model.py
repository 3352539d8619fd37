"""`IntegerModel`: a quantized network in integers alone, the one source of every exported file.

Values flow along edges. An edge is an int8 tensor of codes with one scale and one zero-point, ``x = (code - z) * s``.
Every operator reads edges, computes with integers, and writes one edge (`sigmaquant.operators`). What has no integer
form stays a `FloatOperator`, which exporters refuse by name; nothing is ever silently computed in float. Only functions
such as a softmax at the network's very end stay in float on purpose, as `FloatFunction`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sigmaquant.operators.edge import Edge
from sigmaquant.operators.floats import FloatFunction
from sigmaquant.operators.layers import Weighted
from sigmaquant.operators.movement import Move
from sigmaquant.operators.node import Operator
from sigmaquant.operators.recurrent import Matrix, Recurrent
from sigmaquant.plan import BitwidthPlan


@dataclass(frozen=True)
class FloatOperator(Operator):
    """An operator without an integer form; its edges are float.

    Attributes:
        operator: ``"scope: operator"``.
        line: the user's line; empty where it is not known.
        apply: the operator on the float inputs.
    """

    operator: str
    line: str = ""
    apply: Callable[..., Any] = field(repr=False, default=lambda *_: None)


@dataclass(frozen=True)
class Quantize(Operator):
    """From a float edge to codes: ``clamp(round_half_even(x / s) + z)``."""


@dataclass(frozen=True)
class Dequantize(Operator):
    """From codes to a float edge: ``(code - z) * s``."""


@dataclass(frozen=True)
class IntegerModel:
    """A whole network.

    Attributes:
        operators: in an order in which every input is written before it is read.
        edges: by name.
        inputs: edges that the caller gives, in the order of the network's inputs, on their grids (float where the
            network reads none of it in integers).
        outputs: edges that are the result, in the order in which the network's nested outputs are walked.
        plan: the bitwidths.
    """

    operators: tuple[Operator, ...]
    edges: Mapping[str, Edge]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    plan: BitwidthPlan

    @property
    def float_operators(self) -> tuple[str, ...]:
        """Operators without an integer form."""
        return tuple(op.operator for op in self.operators if isinstance(op, FloatOperator))

    @property
    def weighted(self) -> tuple[Weighted, ...]:
        """The layers with weights, in order; a weight that is used twice is here twice, with the same codes."""
        return tuple(op for op in self.operators if isinstance(op, Weighted))

    @property
    def weights(self) -> tuple[Weighted | Matrix, ...]:
        """The same with the matrices of recurrent layers."""
        found: list[Weighted | Matrix] = []
        for operator in self.operators:
            if isinstance(operator, Weighted):
                found.append(operator)
            elif isinstance(operator, Recurrent):
                found += (operator.input_matrix, operator.hidden_matrix)
        return tuple(found)

    @property
    def endings(self) -> tuple[FloatFunction, ...]:
        """What stands in float behind the last integers."""
        return tuple(op for op in self.operators if isinstance(op, FloatFunction))

    def without_endings(self) -> IntegerModel:
        """The same network up to the last integers: its outputs are what the endings would read (logits)."""
        writers = {operator.output: operator for operator in self.operators}
        outputs, left_out = [], set[str]()
        for name in self.outputs:
            edge = name
            while isinstance(writer := writers.get(edge), FloatFunction | Dequantize):
                left_out.add(edge)
                (edge,) = writer.inputs
            outputs.append(edge)
        kept = tuple(operator for operator in self.operators if operator.output not in left_out)
        edges = {name: edge for name, edge in self.edges.items() if name not in left_out}
        return replace(self, operators=kept, edges=edges, outputs=tuple(outputs))


__all__ = ["Dequantize", "Edge", "FloatOperator", "IntegerModel", "Move", "Operator", "Quantize", "Weighted"]
