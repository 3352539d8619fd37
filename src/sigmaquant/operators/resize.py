"""Bilinear resizing of images, linear resizing of sequences. Nearest resizing is a movement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from sigmaquant.operators.edge import Edge
from sigmaquant.operators.fixed_point import Factor, factor
from sigmaquant.operators.meaning import (
    Builder,
    Meaning,
    Pending,
    Value,
    code_range,
    declares,
    extent,
    in_float,
    is_codes,
    is_live,
)
from sigmaquant.operators.node import Operator, Reference, centred, compute, written

WEIGHT_BITS = 11
"""Of a weight between two neighbours; 2**11 stands for one, as in TensorFlow's and OpenCV's fixed-point kernels."""


@dataclass(frozen=True)
class Resize(Operator):
    """Linear interpolation along the axes after the channels.

    Along each axis an output place lies between input places `lower` and `lower + 1`, and weighs the second with
    ``weight / 2**11`` (0 where the place is the lower one). With one such axis after the other, in int64:
    ``clamp(z + factor * sum, low, high)``, `factor` holding the powers of two.

    Attributes:
        lower: by axis, the lower input place of each output place.
        weights: by axis, 0..2**11 - 1.
        scales: by axis, input places from one output place to the next (for runtimes that compute places themselves).
        align_corners: how places were found: corners on corners, else pixel centres on the grid of centres.
        factor: one.
        low: smallest output code.
        high: largest output code.
    """

    lower: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[int, ...], ...]
    scales: tuple[float, ...]
    align_corners: bool
    factor: Factor
    low: int
    high: int


@compute.register
def _(operator: Resize, reference: Reference, codes: Tensor) -> Tensor:
    x = centred(codes, reference.edges[operator.inputs[0]], torch.int64)
    for axis, (lower, weights) in enumerate(zip(operator.lower, operator.weights, strict=True), 2):
        first = torch.tensor(lower)
        second, weight = (first + 1).clamp_max(x.shape[axis] - 1), torch.tensor(weights)
        view = (-1, *[1] * (x.dim() - axis - 1))
        weight = weight.view(view)
        x = x.index_select(axis, first) * ((1 << WEIGHT_BITS) - weight) + x.index_select(axis, second) * weight
    return written(operator.factor.apply_(x.contiguous(), 0), operator, reference)


@dataclass(frozen=True)
class Resized(Pending):
    """An edge that is resized."""

    edge: Edge | None = None
    form: Any = ()

    def finish(self, edge: Edge, name: str) -> Operator:
        source = self.edge
        assert source is not None, "only the default lacks an edge"
        scale = factor(source.scale / edge.scale * 2.0 ** (-WEIGHT_BITS * len(self.form[0])), name)
        form: tuple[Any, Any, Any, bool] = self.form
        return Resize(name, (source.name,), edge.name, *form, scale, *code_range(self.clip, edge))


@dataclass(frozen=True)
class Interpolation(Meaning):
    """Linear interpolation.

    Attributes:
        form: lower, weights, scales and align_corners, as in `Resize`.
    """

    form: tuple[Any, ...] = ()

    producer: ClassVar[str] = "pool"
    clippable: ClassVar[bool] = True

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        (edge,) = values
        return Resized(edge=edge, form=self.form) if is_codes(edge) else None


def places(size: int, wanted: int, align_corners: bool, scale: float | None) -> tuple[list[int], list[int], float]:
    """Lower places, weights of the places after them, and the step: torch's rule in double precision."""
    if align_corners:
        step = (size - 1) / (wanted - 1) if wanted > 1 else 0.0
        exact = [k * step for k in range(wanted)]
    else:
        step = 1.0 / scale if scale else size / wanted
        exact = [max(0.0, (k + 0.5) * step - 0.5) for k in range(wanted)]
    one, lower, weights = 1 << WEIGHT_BITS, [], []
    for place in exact:
        below = min(math.floor(place), size - 1)
        weight = round((place - below) * one) if below + 1 < size else 0
        below, weight = (below + 1, 0) if weight == one else (below, weight)
        lower.append(below)
        weights.append(weight)
    return lower, weights, step


def _interpolation(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source = given.get("self", given.get("input"))
    place, found = extent(source) if is_live(source) else None, extent(node)
    if place is None or found is None or len(place.shape) not in (2, 3) or place.rows != found.rows:
        return None
    factors = given.get("scale_factors")
    named = [given[key] for key in ("scales", "scales_h", "scales_w") if key in given]
    known = [float(s) for s in (factors if factors is not None else named) if isinstance(s, int | float)]
    space, corners = len(place.shape) - 1, bool(given["align_corners"])
    rows = [
        places(place.shape[axis + 1], found.shape[axis + 1], corners, known[axis] if len(known) == space else None)
        for axis in range(space)
    ]
    form = (tuple(tuple(r[0]) for r in rows), tuple(tuple(r[1]) for r in rows), tuple(r[2] for r in rows), corners)
    return Interpolation((source,), found.rows, found.shape, form)


declares("upsample_linear1d", "upsample_bilinear2d", producer="pool")(_interpolation)


in_float(
    "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", producer="pool"
)
