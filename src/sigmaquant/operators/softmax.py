"""Softmax in integers, with masks that are constant or computed from an input of integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from sigmaquant.exported.nodes import arguments, operator
from sigmaquant.operators.edge import Edge
from sigmaquant.operators.embedding import truth_edge
from sigmaquant.operators.integers import Derived, derived, is_computed
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
    extent_of,
    in_float,
    is_codes,
    is_constant,
    is_live,
    is_number,
)
from sigmaquant.operators.movement import Movement, Reshape, Returned, Step, Steps, expanded, moved
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
    it admits takes part; the rest is 0, and so is a row that it empties. A second input of truth values admits
    likewise. The table's error is at most 2**-21 for each value, relative to the largest.

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
def _(operator: Softmax, reference: Reference, codes: Tensor, *truth: Tensor) -> Tensor:
    x = centred(codes, reference.edges[operator.inputs[0]], torch.int64)
    admitted = None if operator.mask is None else torch.from_numpy(operator.mask).expand(x.shape)
    for given in truth:
        admitted = (given != 0).expand(x.shape) if admitted is None else admitted & (given != 0)
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
        truth: an edge that says the same of each example.
        steps: moves that the softmax waits for; they leave the last axis alone.
    """

    edge: Edge | None = None
    mask: NDArray[np.bool_] | None = None
    truth: Edge | None = None
    steps: tuple[Step, ...] = ()

    def joined(self, before: MaskedScores) -> MaskedScores | None:
        """With another mask of the same scores; None where both are computed, or moved otherwise."""
        if self.edge != before.edge or self.steps or (self.truth is not None and before.truth is not None):
            return None
        masks = [mask for mask in (self.mask, before.mask) if mask is not None]
        both = None if not masks else masks[0] if len(masks) == 1 else masks[0] & masks[1]
        return replace(self, mask=both, truth=self.truth or before.truth)

    def moved(self, steps: tuple[Step, ...]) -> MaskedScores | None:
        assert self.edge is not None, "only the default lacks it"
        kept = all(step.kind is Reshape and step.shape[-1:] == self.edge.shape[-1:] for step in steps)
        return replace(self, steps=self.steps + steps) if kept else None


@dataclass(frozen=True)
class Shares(Pending):
    """The softmax of an edge along its last axis."""

    edge: Edge | None = None
    mask: NDArray[np.bool_] | None = None
    truth: Edge | None = None

    def finish(self, edge: Edge, name: str) -> Operator:
        source = self.edge
        assert source is not None, "only the default lacks an edge"
        distances = np.arange(256) * float(source.scale)
        table = np.rint(2.0**EXPONENTIAL_BITS * np.exp(-distances)).astype(np.int32)
        multiplier = round(2**RATIO_BITS / edge.scale)
        inputs = (source.name,) if self.truth is None else (source.name, self.truth.name)
        return Softmax(name, inputs, edge.name, table, multiplier, self.mask, *code_range(self.clip, edge))


@dataclass(frozen=True)
class Masking(Meaning):
    """What sets scores so low that a softmax makes nothing of them.

    Attributes:
        mask: truth values against an example, true where scores take part; None: everywhere.
        by_row: whether the mask has an axis before the others, for the rows (windows) of an example.
        derived: of a mask that an input of integers decides, the second source: where it does.
        truth: by integer of that input, whether it admits.
    """

    mask: NDArray[np.bool_] | None = None
    by_row: bool = False
    derived: Derived | None = None
    truth: NDArray[np.bool_] | None = None

    producer: ClassVar[str] = "attention"
    movable: ClassVar[bool] = True

    def extends(self, chain: Sequence[Meaning]) -> bool:
        return all(isinstance(link, Masking | Movement) for link in chain)

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        edge = values[0]
        if isinstance(edge, MaskedScores):  # a second mask
            before = edge
            if before.edge is None or before.steps:
                return None
            own = self.build((before.edge, *values[1:]), to)
            return own.joined(before) if isinstance(own, MaskedScores) else None
        if not is_codes(edge):
            return None
        scores = expanded(edge, self.shape, to)
        if self.by_row:
            rows = Steps(Extent(scores.rows, scores.shape)).reshape((scores.rows, *scores.shape), 1)
            back = Steps(Extent(1, rows.shape)).reshape(scores.shape, scores.rows)
            return MaskedScores(edge=moved(scores, rows, to), mask=self.mask, steps=tuple(back.steps))
        if self.derived is None or self.truth is None:
            return MaskedScores(edge=scores, mask=self.mask)
        given = values[1]
        if not isinstance(given, Edge) or not given.integers:
            return None
        found = extent_of_mask(self.derived)
        steps = self.derived.steps(given.shape, found.rows, found.shape)
        return MaskedScores(edge=scores, mask=self.mask, truth=truth_edge(given, self.truth, steps, to))


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
            shares = Shares(edge=value.edge, mask=value.mask, truth=value.truth)
            if not value.steps:
                return shares
            return Returned(inner=shares, shape=value.edge.shape, steps=value.steps, rows=value.edge.rows)
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


def masking(node: fx.Node, count: Callable[[fx.Node], int] = lambda _: 0) -> Masking | None:
    """The meaning of a hard mask on scores; None for any other node.

    Args:
        node: adds to scores or fills them.
        count: how many different integers an input holds; 0 where it holds no such.
    """
    found, parsed = extent(node, anywhere=True), _operands(node)
    if found is None or parsed is None:
        return None
    source, mask, admits = parsed
    place = extent(source, anywhere=True) if is_live(source) else None
    if place is None or replace(place, shape=found.shape) != found or len(place.shape) != len(found.shape):
        return None
    if not is_constant(mask):
        return _computed(found, source, mask, admits, count)
    value = constant_value(mask)
    admitted = None if value is None else admits(value)
    if value is None or admitted is None:
        return None
    if constant_shape(mask, len(found.shape), found.batch_axis) is None:
        own = extent_of(mask.meta["val"])
        alike = own is not None and own.rows == found.rows > 1 and len(own.shape) == len(found.shape)
        if not alike or found.batch_axis or place != found:
            return None
        return Masking((source,), found.rows, found.shape, admitted.numpy(), by_row=True)
    rank = len(found.shape) + 1
    whole = admitted.reshape((1,) * (rank - admitted.dim()) + tuple(admitted.shape)).select(found.batch_axis, 0)
    return Masking((source,), found.rows, found.shape, whole.numpy())


Admits = Callable[[Tensor], "Tensor | None"]
"""From a mask's values to where scores take part; None where that is not all that it does."""


def _operands(node: fx.Node) -> tuple[Any, fx.Node, Admits] | None:
    """Scores and mask of a node that joins them, and how the mask's values are read."""
    name, given = operator(node).removesuffix("_"), arguments(node)
    if name == "masked_fill":
        source, mask, hard = given["self"], given["mask"], _is_hard(given["value"])
        return (source, mask, torch.logical_not) if hard and isinstance(mask, fx.Node) else None
    if name == "where":
        source, mask, hard = given["self"], given["condition"], _is_hard(given["other"])
        return (source, mask, Tensor.bool) if hard and isinstance(mask, fx.Node) else None
    if name != "add" or given.get("alpha", 1) != 1:
        return None
    first, second = given["self"], given["other"]
    source, mask = (first, second) if is_live(first) and not is_computed(first) else (second, first)
    return (source, mask, _added) if isinstance(mask, fx.Node) else None


def _is_hard(filling: object) -> bool:
    """Whether a score of this value counts as nothing."""
    if isinstance(filling, fx.Node):
        value = constant_value(filling) if is_constant(filling) else None
        return value is not None and value.numel() > 0 and bool((value <= HARD_MASK).all())
    return is_number(filling) and filling <= HARD_MASK


def _added(value: Tensor) -> Tensor | None:
    admitted = value == 0
    return admitted if bool((admitted | (value <= HARD_MASK)).all()) else None


def _computed(
    found: Extent, source: fx.Node, mask: fx.Node, admits: Admits, count: Callable[[fx.Node], int]
) -> Masking | None:
    """A mask that an input of integers decides."""
    while operator(mask) == "logical_not":  # so that layers share what is found
        (inner,) = mask.all_input_nodes
        mask, admits = inner, _negated(admits)
    said = derived(mask)
    if said is None or said.batch_axis != found.batch_axis:
        return None
    place, integers = extent_of_mask(said), count(said.source)
    if place.rows != found.rows or len(place.shape) != len(found.shape) or not integers:
        return None
    admitted = _admitted(said, integers, admits)
    if admitted is None or (integers == 2 and not _is_zero_or_one(said, admits, admitted)):
        return None
    each = admitted.flatten(1)
    whole, truth = each.any(0), each.any(1)
    if not torch.equal(each, whole & truth.unsqueeze(1)) or bool(truth.all()) or not bool(truth.any()):
        return None
    rows = admitted.any(0)
    if not torch.equal(rows, rows[:1].expand_as(rows)):
        return None
    mask_value = None if bool(rows.all()) else rows[0].numpy()
    return Masking((source, said.source), found.rows, found.shape, mask_value, False, said, truth.numpy())


def _negated(admits: Admits) -> Admits:
    return lambda value: admits(value.logical_not())


def extent_of_mask(said: Derived) -> Extent:
    """Rows and shape of a computed mask."""
    rows, *shape = said.places.shape
    return Extent(rows, tuple(shape), said.batch_axis)


def _admitted(said: Derived, integers: int, admits: Admits) -> Tensor | None:
    """Where scores take part, by integer: [integers, rows, *shape]."""
    return admits(said.values(integers))


def _is_zero_or_one(said: Derived, admits: Admits, admitted: Tensor) -> bool:
    """Whether an input of whatever integers is a mask of 0 and 1: no larger one admits more than these do."""
    source = said.source.meta["val"]
    if source.dtype == torch.bool:
        return True
    larger = said.values(4)[2:]
    for value in larger:
        more = admits(value)
        if more is not None and bool((more & ~admitted.any(0)).any()):
            return False
    return True


in_float("log_softmax", "scaled_dot_product_attention", producer="attention")
