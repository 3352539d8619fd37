"""Vectors of unit length: ``x / max(||x||, eps)``, as `torch.nn.functional.normalize` and by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, fx

from sigmaquant.exported.nodes import arguments, operator
from sigmaquant.operators.edge import Edge
from sigmaquant.operators.meaning import (
    Builder,
    Extent,
    Meaning,
    Pending,
    Value,
    axes,
    code_range,
    extent,
    is_codes,
    is_live,
    is_number,
)
from sigmaquant.operators.movement import Returned, Steps, moved
from sigmaquant.operators.node import Operator, Reference, centred, compute, written

ROOT_BITS = 8
"""Binary places of the integer square root."""


@dataclass(frozen=True)
class UnitLength(Operator):
    """The last axis as vectors of unit length, exact in integers.

    With ``q = x - z_x``, ``s = max(sum q**2, least)`` and ``r = isqrt(s << 16)``, which is the length in 2**-8:
    ``clamp(z + floor((2 * q * multiplier + r) / (2 * r)), low, high)``: rounded half up.

    Attributes:
        multiplier: 2**8 / output scale, rounded.
        least: smallest sum of squares: what `eps` is in codes, at least 1.
        low: smallest output code.
        high: largest output code.
    """

    multiplier: int
    least: int
    low: int
    high: int


@compute.register
def _(operator: UnitLength, reference: Reference, codes: Tensor) -> Tensor:
    q = centred(codes, reference.edges[operator.inputs[0]], torch.int64)
    squares = (q * q).sum(-1, keepdim=True).clamp_(min=operator.least)
    root = integer_square_root(squares << (2 * ROOT_BITS))
    quotient = torch.div(2 * q * operator.multiplier + root, 2 * root, rounding_mode="floor")
    return written(quotient, operator, reference)


def integer_square_root(values: Tensor) -> Tensor:
    """The largest integers whose squares are not above the values: int64, below 2**52.

    Example:
        >>> integer_square_root(torch.tensor([0, 15, 16, 17])).tolist()
        [0, 3, 4, 4]
    """
    root = values.double().sqrt().floor().to(torch.int64)
    root -= (root * root > values).to(torch.int64)
    root += ((root + 1) * (root + 1) <= values).to(torch.int64)
    return root


@dataclass(frozen=True)
class Normalized(Pending):
    """An edge whose last axis is brought to unit length."""

    edge: Edge | None = None
    eps: float = 0.0

    def finish(self, edge: Edge, name: str) -> Operator:
        source = self.edge
        assert source is not None, "only the default lacks an edge"
        multiplier = round(2**ROOT_BITS / edge.scale)
        least = max(1, math.ceil((self.eps / source.scale) ** 2))
        return UnitLength(name, (source.name,), edge.name, multiplier, least, *code_range(self.clip, edge))


@dataclass(frozen=True)
class ToUnitLength(Meaning):
    """``x / max(||x||, eps)``.

    Attributes:
        axis: of the vectors.
        eps: smallest length.
    """

    axis: int = 0
    eps: float = 0.0

    producer: ClassVar[str] = "norm"

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        (edge,) = values
        if not is_codes(edge):
            return None
        if self.axis == len(edge.shape) - 1:
            return Normalized(edge=edge, eps=self.eps)
        last = [a for a in range(len(edge.shape)) if a != self.axis] + [self.axis]
        edge = moved(edge, Steps(Extent(edge.rows, edge.shape)).permute(last), to)
        back = Steps(Extent(edge.rows, edge.shape)).permute([int(a) for a in np.argsort(last)])
        return Returned(inner=Normalized(edge=edge, eps=self.eps), shape=edge.shape, steps=tuple(back.steps))


def unit_length(node: fx.Node) -> tuple[ToUnitLength, tuple[fx.Node, ...]] | None:
    """The meaning of a division by a length, and the nodes that compute the length; None for any other node."""
    if operator(node) not in ("div", "divide", "true_divide"):
        return None
    bound = arguments(node)
    source, divisor, found = bound["self"], bound["other"], extent(node)
    if found is None or bound.get("rounding_mode") is not None or not is_live(source) or not is_live(divisor):
        return None
    if extent(source) != found:
        return None
    inner: list[fx.Node] = []
    eps = 0.0
    current: Any = divisor
    while isinstance(current, fx.Node):
        name, given = operator(current), arguments(current)
        inner.append(current)
        if name in ("expand", "expand_as"):
            current = given["self"]
        elif name in ("clamp_min", "clamp") and is_number(given["min"]) and given.get("max") is None:
            eps, current = float(given["min"]), given["self"]
        elif name == "linalg_vector_norm" and given["self"] is source:
            if given["ord"] != 2 or not given["keepdim"] or given["dim"] is None:
                return None
            return _along(source, found, given["dim"], eps, tuple(inner))
        elif name == "norm" and given["self"] is source and given.get("p") in (None, 2, 2.0) and given.get("keepdim"):
            return _along(source, found, given.get("dim"), eps, tuple(inner))
        else:
            return None
    return None


def _along(
    source: fx.Node, found: Extent, dim: Any, eps: float, inner: tuple[fx.Node, ...]
) -> tuple[ToUnitLength, tuple[fx.Node, ...]] | None:
    over = None if dim is None else axes(dim, len(found.shape))
    if over is None or len(over) != 1:
        return None
    return ToUnitLength((source,), found.rows, found.shape, over[0], eps), inner
