"""Rows of a table, and codes, by an input of integers: embeddings, and masks as the data give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from sigmaquant.exported.nodes import writes
from sigmaquant.numerics import SCALE_FLOOR
from sigmaquant.operators.edge import Edge, encode
from sigmaquant.operators.fixed_point import factor
from sigmaquant.operators.integers import Derived
from sigmaquant.operators.layers import WeightCodes, Weighted
from sigmaquant.operators.meaning import (
    Builder,
    Extent,
    Meaning,
    Pending,
    Value,
    code_range,
    extent,
    known_in_float,
)
from sigmaquant.operators.movement import Returned, Steps, moved
from sigmaquant.operators.node import Operator, Reference, compute, written


@dataclass(frozen=True)
class Embedding(Weighted):
    """Rows of a table: ``clamp(z + factor[i] * code_w[i], low, high)`` for the input's integer i; the bias is zero.

    Codes are [rows, width], with a scale for each row; the output has one axis more than the input.
    """


@compute.register
def _(operator: Embedding, reference: Reference, integers: Tensor) -> Tensor:
    mantissa, shift = (
        torch.from_numpy(v)[integers].unsqueeze(-1) for v in (operator.factor.mantissa, operator.factor.shift)
    )
    codes = torch.from_numpy(operator.codes)[integers].to(torch.int64)
    half = torch.ones_like(shift) << (shift - 1)
    return written(codes.mul_(mantissa).add_(half).bitwise_right_shift_(shift), operator, reference)


@dataclass(frozen=True)
class Recode(Operator):
    """What each integer of the input stands for: ``table[i]``.

    Attributes:
        table: int8 [integers], codes of the output.
    """

    table: NDArray[np.int8]


@compute.register
def _(operator: Recode, reference: Reference, integers: Tensor) -> Tensor:
    return torch.from_numpy(operator.table)[integers]


# -- while it waits --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows(Pending):
    """Rows of a table, times a number."""

    name: str = ""
    edge: Edge | None = None
    weight: WeightCodes | None = None
    scale: float = 1.0

    def finish(self, edge: Edge, name: str) -> Operator:
        source, weight = self.edge, self.weight
        assert source is not None, "only the default lacks an edge"
        assert weight is not None, "only the default lacks a weight"
        scale = np.maximum(SCALE_FLOOR, weight.scale * self.scale).astype(np.float32)
        return Embedding(
            name, (source.name,), edge.name, weight.layer, weight.codes, weight.bits, weight.midrise, 1, scale,
            np.zeros(len(scale), np.int32), factor(scale.astype(np.float64) / edge.scale, f"layer {weight.layer!r}"),
            *code_range(self.clip, edge),
        )  # fmt: skip


@dataclass(frozen=True)
class Recoded(Pending):
    """Values by an input of integers.

    Attributes:
        edge: the input.
        values: float32 [integers].
    """

    edge: Edge | None = None
    values: Tensor | None = None

    def finish(self, edge: Edge, name: str) -> Operator:
        assert self.edge is not None, "only the default lacks an edge"
        assert self.values is not None, "only the default lacks values"
        table = encode(self.values.clamp(self.clip.low, self.clip.high), edge).numpy()
        return Recode(name, (self.edge.name,), edge.name, table)


# -- meanings --------------------------------------------------------------------------------------------------------


def truth_edge(input_: Edge, truth: NDArray[np.bool_], steps: Steps, to: Builder) -> Edge:
    """Truth values by an input of integers, moved: codes 0 and 1."""
    base = Edge(f"{input_.name}.truth", input_.shape, 8, 1.0, 0, input_.rows)

    def made() -> Edge:
        table = truth.astype(np.int8)
        return to.emit_on(lambda name, edge: Recode(name, (input_.name,), edge.name, table), base, "truth")

    key = (input_.name, truth.tobytes())
    whole = to.shared(key, made)
    moves = tuple((step.kind, step.fields, step.shape, step.rows) for step in steps.steps)
    return to.shared((*key, moves), lambda: moved(whole, steps, to))


@dataclass(frozen=True)
class RowsByIndex(Meaning):
    """An embedding.

    Attributes:
        node: the call.
        weight: the node of a functional table; None: the module's own.
        indices: what is looked up, as an input gives it.
        count: of integers that the input holds.
        steps: from the rows of the input's integers to those of the indices.
    """

    node: fx.Node = None  # type: ignore[assignment]
    weight: fx.Node | None = None
    indices: Derived = None  # type: ignore[assignment]
    count: int = 0

    producer: ClassVar[str] = "layer"
    clippable: ClassVar[bool] = True
    scalable: ClassVar[bool] = True

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        (edge,) = values
        weight = to.weight(self.node if self.weight is None else self.weight)
        if not isinstance(edge, Edge) or not edge.integers or weight is None or weight.axis != 0:
            return None
        looked_up = _by_integer(self.indices, edge.integers)
        assert looked_up is not None, "the meaning has looked at it"
        rows = looked_up.numpy()
        if not np.array_equal(rows, np.arange(len(weight.codes))):
            weight = replace(weight, codes=np.ascontiguousarray(weight.codes[rows]), scale=weight.scale[rows])
        name = str(self.node.target) if self.weight is None else weight.layer
        found = Rows(name=name, edge=edge, weight=weight)
        shape = (*edge.shape, weight.codes.shape[1])
        steps = _row_steps(self.indices, edge.shape, self.rows, self.shape)
        return Returned(inner=found, shape=shape, steps=tuple(steps.steps), rows=1) if steps.steps else found


def _row_steps(indices: Derived, shape: tuple[int, ...], rows: int, target: tuple[int, ...]) -> Steps:
    """The moves of whole rows that are the indices' own moves."""
    own = Steps(Extent(1, (*shape, target[-1])))
    for step in indices.steps(shape, rows, target[:-1]).steps:
        if step.fields and step.kind.__name__ == "Reshape":
            own.reshape((*step.shape, target[-1]), step.rows)
        elif step.kind.__name__ == "Slice":
            own.slice(*step.fields)
        else:
            own.take(*step.fields)
    for axis, (have, wanted) in enumerate(zip(own.shape, target, strict=True)):
        if have != wanted:
            own.take(axis, (0,) * wanted)
    return own


@dataclass(frozen=True)
class FromIntegers(Meaning):
    """Float values that an input of integers decides one by one (a mask as a factor).

    Attributes:
        values: of the node.
    """

    values: Derived = None  # type: ignore[assignment]

    producer: ClassVar[str] = "input"

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        (edge,) = values
        if not isinstance(edge, Edge) or not edge.integers:
            return None
        table = _by_integer(self.values, edge.integers)
        assert table is not None, "the meaning has looked at it"
        steps = self.values.steps(edge.shape, self.rows, self.shape)
        for axis, (have, wanted) in enumerate(zip(steps.shape, self.shape, strict=True)):
            if have != wanted:
                steps.take(axis, (0,) * wanted)
        found = Recoded(edge=edge, values=table.float())
        return Returned(inner=found, shape=edge.shape, steps=tuple(steps.steps), rows=1) if steps.steps else found


def _by_integer(found: Derived, count: int) -> Tensor | None:
    """What each integer becomes, wherever it stands; None where that depends on the place."""
    values = found.values(count).reshape(count, -1)
    first = values[:, :1]
    return first[:, 0] if torch.equal(values, first.expand_as(values)) else None


def embedding(node: fx.Node, count: int, indices: Derived, weight: fx.Node | None) -> RowsByIndex | None:
    """The meaning of an embedding of what an input of `count` integers says; None where rows depend on the place.

    Nor has it one where the weight is written on the way, as with `max_norm`.
    """
    found = extent(node, anywhere=True)
    if weight is not None and _is_written(weight):
        return None
    if found is None or found.batch_axis == len(found.shape) or _by_integer(indices, count) is None:
        return None
    return RowsByIndex((indices.source,), found.rows, found.shape, node, weight, indices, count)


def _is_written(weight: fx.Node) -> bool:
    """Whether an operator writes into a weight, or into a view of it."""
    stack, seen = [weight], {weight}
    while stack:
        for user in stack.pop().users:
            if writes(user):
                return True
            if user not in seen and known_in_float(user).view:
                seen.add(user)
                stack.append(user)
    return False


def from_integers(node: fx.Node, count: int, values: Derived) -> FromIntegers | None:
    """The meaning of floats that an input of `count` integers decides."""
    found = extent(node, anywhere=True)
    table = None if found is None else _by_integer(values, count)
    if found is None or table is None or not bool(table.float().isfinite().all()):
        return None
    return FromIntegers((values.source,), found.rows, found.shape, values)


def rows_of(module: nn.Module | None, given: Mapping[str, Any]) -> int | None:
    """How many rows a table has: of a module, or of a functional embedding's arguments."""
    if isinstance(module, nn.Embedding):
        return int(module.num_embeddings)
    weight = given.get("weight")
    value = weight.meta.get("val") if isinstance(weight, fx.Node) else None
    return int(value.shape[0]) if isinstance(value, Tensor) else None


def admissible(indices: Derived, rows: int) -> int:
    """How many integers from 0 on an input may hold, so that all of them look up a row."""
    found = _by_integer(indices, rows)
    if found is None:
        return 0
    outside = ((found < 0) | (found >= rows)).nonzero()
    return int(outside[0]) if len(outside) else rows
