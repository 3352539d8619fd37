"""Clipping: ReLU and its kin merge into the requantization of the producer before them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from sigmaquant.operators.meaning import (
    Builder,
    Meaning,
    Pending,
    Value,
    constant_shape,
    declares,
    extent,
    is_codes,
    is_constant,
    is_live,
    is_number,
)
from sigmaquant.operators.roles import Role, plays

Bound = float | fx.Node
"""A number, or a constant tensor with one element."""


@dataclass(frozen=True)
class Clipping(Meaning):
    """``clamp(x, low, high)``; in the order of torch: where the bounds cross, `high` wins."""

    low: Bound = -math.inf
    high: Bound = math.inf

    def extends(self, chain: Sequence[Meaning]) -> bool:
        return chain[-1].clippable

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        from sigmaquant.operators.affine import Mapped  # an affine map with a clipping and nothing else

        (value,) = values
        low, high = (float(to.constant(b)) if isinstance(b, fx.Node) else b for b in (self.low, self.high))
        if math.isnan(low) or math.isnan(high):
            return None
        if isinstance(value, Pending):
            return value.clipped(low, high)
        return Mapped(edge=value).clipped(low, high) if is_codes(value) else None


def _bound(value: object, default: float) -> Bound | None:
    """A bound that is a number or has one constant element; None for any other."""
    if value is None:
        return default
    if is_number(value):
        return float(value)
    return value if isinstance(value, fx.Node) and is_constant(value) and _single(value) else None


def _single(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and constant_shape(node, value.dim()) == ()


def clipping(node: fx.Node, source: object, low: object, high: object) -> Clipping | None:
    """The meaning of a clipping; None where a bound is no single number."""
    found, place = extent(node, anywhere=True), extent(source, anywhere=True)
    lowest, highest = _bound(low, -math.inf), _bound(high, math.inf)
    if found is None or found != place or not is_live(source) or lowest is None or highest is None:
        return None
    return Clipping((source,), found.rows, found.shape, lowest, highest)


plays(Role.MEASURES, "clamp", "clamp_min")


@declares("relu", producer="activation", clips=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    return clipping(node, given["self"], 0.0, None)


@declares("relu6", producer="activation", clips=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    return clipping(node, given["self"], 0.0, 6.0)


@declares("hardtanh", producer="activation", clips=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    return clipping(node, given["self"], given["min_val"], given["max_val"])


@declares("clamp", "clip", "clamp_min", "clamp_max", producer="activation", clips=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    return clipping(node, given["self"], given.get("min"), given.get("max"))
