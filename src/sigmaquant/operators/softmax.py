"""Softmax in integers, with constant masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from sigmaquant.exported.nodes import arguments, operator
from sigmaquant.operators.edge import Edge
from sigmaquant.operators.meaning import (
    Builder,
    Extent,
    Meaning,
    Pending,
    Value,
    code_range,
    constant_shape,
    constant_value,
    declares,
    extent,
    in_float,
    is_codes,
    is_constant,
    is_live,
    is_number,
)
from sigmaquant.operators.movement import Reshape, Returned, Step, Steps, expanded, moved
from sigmaquant.operators.node import Operator, Reference, centred, compute, written

EXPONENTIAL_BITS = 20
"""``2**20`` stands for exp(0) in the table."""
RATIO_BITS = 8
HARD_MASK = -50.0
"""What is added to a score, or less, so that it counts as nothing: exp(-50) is 2e-22, and the table ends at 2**-21."""


@dataclass(frozen=True)
class Softmax(Operator):
    """Along the last axis, exact in integers.

    With ``e = table[max(x) - x]`` and ``s = sum(e)``, the result is
    ``clamp(z + floor((2 * e * multiplier + 2**8 * s) / (2**9 * s)))``, which rounds half up. Where a mask is, only what
    it admits takes part; the rest is 0, and so is a row that it empties.
    The table's error is at most 2**-21 for each value, relative to the largest.

    Attributes:
        table: int32 [256], ``round(2**20 * exp(-d * input scale))`` for a distance of d codes.
        multiplier: 2**8 / output scale, rounded.
        mask: truth values that broadcast to an example, true where values take part; None: everywhere.
        low: smallest output code.
        high: largest output code.
    """

    table: NDArray[np.int32]
    multiplier: int
    mask: NDArray[np.bool_] | None
    low: int
    high: int


@compute.register
def _(operator: Softmax, reference: Reference, codes: Tensor) -> Tensor:
    x = centred(codes, reference.edges[operator.inputs[0]], torch.int64)
    admitted = None if operator.mask is None else torch.from_numpy(operator.mask).expand(x.shape)
    top = x if admitted is None else torch.where(admitted, x, torch.full_like(x, -512))
    distance = (top.amax(-1, keepdim=True) - x).clamp_(0, 255)
    exponentials = torch.from_numpy(operator.table).to(torch.int64)[distance]
    if admitted is not None:
        exponentials = exponentials * admitted
    total = exponentials.sum(-1, keepdim=True).clamp_(min=1)
    numerator = 2 * exponentials * operator.multiplier + (total << RATIO_BITS)
    return written(torch.div(numerator, total << (RATIO_BITS + 1), rounding_mode="floor"), operator, reference)


@dataclass(frozen=True)
class MaskedScores(Pending):
    """An edge of which some values do not take part.

    Attributes:
        edge: the scores.
        mask: true where values take part.
        steps: moves that the softmax waits for; they leave the last axis alone.
    """

    edge: Edge | None = None
    mask: NDArray[np.bool_] | None = None
    steps: tuple[Step, ...] = ()

    def moved(self, steps: tuple[Step, ...]) -> MaskedScores | None:
        assert self.edge is not None, "only the default lacks it"
        kept = all(step.kind is Reshape and step.shape[-1:] == self.edge.shape[-1:] for step in steps)
        return replace(self, steps=self.steps + steps) if kept else None


@dataclass(frozen=True)
class Shares(Pending):
    """The softmax of an edge along its last axis."""

    edge: Edge | None = None
    mask: NDArray[np.bool_] | None = None

    def finish(self, edge: Edge, name: str) -> Operator:
        source = self.edge
        assert source is not None, "only the default lacks an edge"
        distances = np.arange(256) * float(source.scale)
        table = np.rint(2.0**EXPONENTIAL_BITS * np.exp(-distances)).astype(np.int32)
        multiplier = round(2**RATIO_BITS / edge.scale)
        return Softmax(name, (source.name,), edge.name, table, multiplier, self.mask, *code_range(self.clip, edge))


@dataclass(frozen=True)
class Masking(Meaning):
    """A constant that is added to scores and is 0 or so negative that a softmax makes nothing of it.

    Attributes:
        mask: truth values against an example, true where the constant is 0.
    """

    mask: NDArray[np.bool_] | None = None

    producer: ClassVar[str] = "attention"
    movable: ClassVar[bool] = True

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        (edge,) = values
        return MaskedScores(edge=expanded(edge, self.shape, to), mask=self.mask) if is_codes(edge) else None


@dataclass(frozen=True)
class ToShares(Meaning):
    """A softmax.

    Attributes:
        axis: of an example.
    """

    axis: int = 0

    producer: ClassVar[str] = "attention"

    def extends(self, chain: Sequence[Meaning]) -> bool:
        return isinstance(chain[0], Masking) and self.axis == len(self.shape) - 1

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        (value,) = values
        if isinstance(value, MaskedScores):
            assert value.edge is not None, "only the default lacks it"
            shares = Shares(edge=value.edge, mask=value.mask)
            return Returned(inner=shares, shape=value.edge.shape, steps=value.steps) if value.steps else shares
        if not is_codes(value):
            return None
        if self.axis == len(value.shape) - 1:
            return Shares(edge=value)
        last = [a for a in range(len(value.shape)) if a != self.axis] + [self.axis]
        edge = moved(value, Steps(Extent(value.rows, value.shape)).permute(last), to)
        back = Steps(Extent(edge.rows, edge.shape)).permute([int(a) for a in np.argsort(last)])
        return Returned(inner=Shares(edge=edge), shape=edge.shape, steps=tuple(back.steps))


@declares("softmax", "_softmax", producer="attention")
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source, found = given["self"], extent(node, anywhere=True)
    if found is None or not is_live(source) or extent(source, anywhere=True) != found:
        return None
    if given.get("dtype") not in (None, torch.float32):
        return None
    axis = found.axis(given["dim"])
    return None if axis is None else ToShares((source,), found.rows, found.shape, axis)


def masking(node: fx.Node) -> Masking | None:
    """The meaning of a hard constant mask on scores; None for any other node."""
    name, given, found = operator(node).removesuffix("_"), arguments(node), extent(node, anywhere=True)
    if found is None or name not in ("add", "masked_fill"):
        return None
    if name == "masked_fill":
        source, constant, filling = given["self"], given["mask"], given["value"]
        if not is_number(filling) or filling > HARD_MASK or not isinstance(constant, fx.Node):
            return None
    else:
        first, second = given["self"], given["other"]
        source, constant = (first, second) if is_live(first) else (second, first)
        if given.get("alpha", 1) != 1 or not isinstance(constant, fx.Node):
            return None
    place = extent(source, anywhere=True) if is_live(source) else None
    if place is None or not is_constant(constant) or replace(place, shape=found.shape) != found:
        return None
    if len(place.shape) != len(found.shape):
        return None
    if constant_shape(constant, len(found.shape), found.batch_axis) is None:
        return None
    value = constant_value(constant)
    if value is None:
        return None
    admitted = ~value.bool() if name == "masked_fill" else value == 0
    if name == "add" and not bool((admitted | (value <= HARD_MASK)).all()):
        return None
    rank = len(found.shape) + 1
    whole = admitted.reshape((1,) * (rank - admitted.dim()) + tuple(admitted.shape)).select(found.batch_axis, 0)
    return Masking((source,), found.rows, found.shape, whole.numpy())


in_float("log_softmax", "scaled_dot_product_attention", producer="attention")
