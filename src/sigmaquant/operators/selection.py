"""`torch.where` and masks: one of two values, by a condition on an activation or by a constant mask."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, fx

from sigmaquant.exported.nodes import operator
from sigmaquant.operators.affine import AffineMap
from sigmaquant.operators.edge import Edge
from sigmaquant.operators.fixed_point import common_multipliers
from sigmaquant.operators.lookup import Lookup, function_of, judged_by, table_of
from sigmaquant.operators.meaning import (
    Builder,
    Meaning,
    Pending,
    Value,
    Vector,
    code_range,
    constant_shape,
    declares,
    extent,
    is_codes,
    is_constant,
    is_live,
    is_number,
)
from sigmaquant.operators.movement import expanded
from sigmaquant.operators.node import Operator, Reference, centred, compute, rounded_shift_, written


@dataclass(frozen=True)
class Select(Operator):
    """Where the first input's value is not zero the second input, else the third, each brought to the output's grid.

    ``clamp(z + ((x_k - z_k) * multiplier_k + 2**(shift_k-1)) >> shift_k, low, high)``. All three have the output's
    shape. The condition's edge has the scale 1, the zero-point 0, and the codes 0 and 1.

    Attributes:
        multipliers: of the second and the third input.
        shifts: of the second and the third input.
        low: smallest output code.
        high: largest output code.
    """

    multipliers: tuple[int, int]
    shifts: tuple[int, int]
    low: int
    high: int


@compute.register
def _(operator: Select, reference: Reference, condition: Tensor, *inputs: Tensor) -> Tensor:
    first, second = (
        rounded_shift_(centred(codes, reference.edges[name], torch.int32).mul_(multiplier), shift)
        for name, codes, multiplier, shift in zip(
            operator.inputs[1:], inputs, operator.multipliers, operator.shifts, strict=True
        )
    )
    return written(torch.where(condition != 0, first, second), operator, reference)


@dataclass(frozen=True)
class Chosen(Pending):
    """One of two edges for each value."""

    condition: Edge | None = None
    edges: tuple[Edge, ...] = ()

    def finish(self, edge: Edge, name: str) -> Operator:
        assert self.condition is not None, "only the default lacks one"
        found = [common_multipliers([source.scale / edge.scale], 0.0, 21, name) for source in self.edges]
        first, second = found
        names = (self.condition.name, *(source.name for source in self.edges))
        multipliers, shifts = (first[0][0], second[0][0]), (first[2], second[2])
        return Select(name, names, edge.name, multipliers, shifts, *code_range(self.clip, edge))


@dataclass(frozen=True)
class Choice(Meaning):
    """``where(condition(x), a, b)`` with two edges and a condition on the values of a third, which may be one of them.

    Attributes:
        condition: the node of the truth values.
    """

    condition: fx.Node = None  # type: ignore[assignment]

    producer: ClassVar[str] = "maximum"
    clippable: ClassVar[bool] = True

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        edges = []
        for value in values:
            if not is_codes(value) or value.rows != self.rows:
                return None
            edges.append(value)
        judged, *rest = edges
        truth = function_of(self.condition, self.sources[0], to)
        flag = Edge("", judged.shape, 8, 1.0, 0, judged.rows)

        def make(name: str, output: Edge) -> Operator:
            table = table_of(lambda x: truth(x).float(), judged, flag, 0.0, 1.0)
            return Lookup(name, (judged.name,), output.name, operator(self.condition), table)

        condition = to.emit_on(make, flag, "condition")
        flags, first, second = (expanded(edge, self.shape, to) for edge in (condition, *rest))
        return Chosen(condition=flags, edges=(first, second))


@dataclass(frozen=True)
class Masked(AffineMap):
    """A number or constant where a constant mask is true (or false), the source elsewhere: factors of zero and one.

    Attributes:
        mask: the node of the truth values.
        filling: the number, or a constant tensor's node.
        where: at which truth value the filling stands.
    """

    mask: fx.Node = None  # type: ignore[assignment]
    filling: float | fx.Node = 0.0
    where: bool = True

    def coefficients(self, to: Builder) -> tuple[Vector, Vector]:
        mask = to.constant(self.mask).detach().cpu().numpy().astype(bool) == self.where
        filling = self.filling
        given = (
            to.constant(filling).detach().double().cpu().numpy()
            if isinstance(filling, fx.Node)
            else np.array(float(filling))
        )
        rank = len(self.shape)
        mask, given = (
            a.reshape((1,) * (rank + 1 - a.ndim) + a.shape)[0] if a.size > 1 else a.reshape(()) for a in (mask, given)
        )
        with np.errstate(invalid="ignore"):
            return np.where(mask, 0.0, 1.0), np.where(mask, given, 0.0)


def masked(node: fx.Node, source: object, mask: object, filling: object, where: bool) -> Meaning | None:
    """The meaning of a source with a filling where a constant mask has a truth value."""
    found = extent(node)
    place = extent(source) if is_live(source) else None
    if found is None or place is None or place.rows != found.rows or len(place.shape) != len(found.shape):
        return None
    if not isinstance(mask, fx.Node) or not is_constant(mask):
        return None
    if is_number(filling):
        if not math.isfinite(filling):
            return None
    elif not isinstance(filling, fx.Node) or not is_constant(filling):
        return None
    shapes = [constant_shape(item, len(found.shape)) for item in (mask, filling)]
    if None in shapes:
        return None
    varies = tuple(int(n) for n in np.broadcast_shapes(*(shape or () for shape in shapes)))
    return Masked((source,), found.rows, found.shape, varies, mask, filling, where)  # type: ignore[arg-type]


@declares("where", producer="maximum")
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    condition, first, second = given["condition"], given.get("self"), given.get("other")
    if isinstance(condition, fx.Node) and is_constant(condition):
        if not is_live(second):
            return masked(node, first, condition, second, where=False)
        return masked(node, second, condition, first, where=True) if not is_live(first) else None
    return choice(node, condition, first, second)


def choice(node: fx.Node, condition: object, first: object, second: object) -> Meaning | None:
    """The meaning of a condition on one activation between two others."""
    found = extent(node)
    judged = judged_by(condition) if isinstance(condition, fx.Node) else None
    if found is None or judged is None or not is_live(first) or not is_live(second):
        return None
    sources = (judged, first, second)
    places = [extent(source) for source in sources]
    if not all(p is not None and p.rows == found.rows and len(p.shape) == len(found.shape) for p in places):
        return None
    return Choice(sources, found.rows, found.shape, condition)  # type: ignore[arg-type]


@declares("masked_fill", carries=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    return masked(node, given["self"], given["mask"], given["value"], where=True)
