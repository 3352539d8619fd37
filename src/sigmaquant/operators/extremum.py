"""The larger, the smaller, or the chosen one of two edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from sigmaquant.exported.nodes import operator
from sigmaquant.operators.clip import clipping
from sigmaquant.operators.edge import Edge
from sigmaquant.operators.fixed_point import common_multipliers
from sigmaquant.operators.meaning import (
    Builder,
    Meaning,
    Pending,
    Value,
    code_range,
    declares,
    extent,
    is_live,
)
from sigmaquant.operators.movement import broadcasting
from sigmaquant.operators.node import Operator, Reference, centred, compute, rounded_shift_, written
from sigmaquant.operators.roles import Role, plays


@dataclass(frozen=True)
class Extremum(Operator):
    """The larger or smaller of two inputs, each brought to the output's grid first; they broadcast.

    ``clamp(z + max_k((x_k - z_k) * multiplier_k + 2**(shift_k-1)) >> shift_k, low, high)``, in 32 bits.

    Attributes:
        largest: whether the larger one is taken.
        multipliers: by input.
        shifts: by input.
        low: smallest output code.
        high: largest output code.
    """

    largest: bool
    multipliers: tuple[int, ...]
    shifts: tuple[int, ...]
    low: int
    high: int


@compute.register
def _(operator: Extremum, reference: Reference, *inputs: Tensor) -> Tensor:
    first, second = (
        rounded_shift_(centred(codes, reference.edges[name], torch.int32).mul_(multiplier), shift)
        for name, codes, multiplier, shift in zip(
            operator.inputs, inputs, operator.multipliers, operator.shifts, strict=True
        )
    )
    found = torch.maximum(first, second) if operator.largest else torch.minimum(first, second)
    return written(found, operator, reference)


@dataclass(frozen=True)
class Extreme(Pending):
    """The larger or smaller of two edges."""

    edges: tuple[Edge, ...] = ()
    largest: bool = True

    def finish(self, edge: Edge, name: str) -> Operator:
        found = [common_multipliers([source.scale / edge.scale], 0.0, 21, name) for source in self.edges]
        multipliers, shifts = tuple(m[0] for m, _, _ in found), tuple(shift for _, _, shift in found)
        names = tuple(source.name for source in self.edges)
        return Extremum(name, names, edge.name, self.largest, multipliers, shifts, *code_range(self.clip, edge))


@dataclass(frozen=True)
class Comparison(Meaning):
    """``maximum`` or ``minimum`` of two edges that broadcast."""

    largest: bool = True

    producer: ClassVar[str] = "maximum"
    clippable: ClassVar[bool] = True

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        edges = broadcasting(values, self.rows, len(self.shape), to)
        return None if edges is None else Extreme(edges=edges, largest=self.largest)


plays(Role.MEASURES, "maximum")


@declares("maximum", "minimum", "fmax", "fmin", producer="maximum")
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    return extreme_of_two(node, given["self"], given["other"], "max" in operator(node))


def extreme_of_two(node: fx.Node, first: object, second: object, largest: bool) -> Meaning | None:
    """Of two edges; with a number or a constant of one element it is a clipping."""
    found = extent(node)
    live = [operand for operand in (first, second) if is_live(operand)]
    if found is None or not live:
        return None
    if len(live) == 1:
        bound = second if live[0] is first else first
        return clipping(node, live[0], bound if largest else None, None if largest else bound)
    places = [extent(operand) for operand in live]
    if not all(p is not None and p.rows == found.rows and len(p.shape) == len(found.shape) for p in places):
        return None
    return Comparison(tuple(live), found.rows, found.shape, largest)
