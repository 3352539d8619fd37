"""How a layer's weights lie on its quantization levels, in units of the distance between two levels.

Every weight is divided by its channel's step, so that all channels share one axis and one set of levels: integers on a
mid-tread grid, halves of odd integers on a mid-rise grid.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from sigmaquant.numerics import channel_view, weight_qmax

MARGIN = 1.5
"""Steps shown beyond the outermost levels; what lies further out is in the last bin, and counted as clipped."""

_FINE = 6
"""Bins for a step double with each bit below so many, so that each layer has about a hundred."""

_CHUNK = 1 << 22


class Histogram(BaseModel):
    """Counts of weights.

    Attributes:
        first: left edge of the first bin, in steps.
        width: width of a bin, in steps.
        float_weights: the float network's weights in each bin.
        trained: the trained network's weights before they are rounded; None where they lie on the levels already,
            or are the float network's.
        first_level: the lowest level, in steps; the others follow one step apart.
        levels: weights on each level.
        clipped: weights of the float network more than half a step beyond the outermost levels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: float
    width: float
    float_weights: tuple[int, ...]
    trained: tuple[int, ...] | None
    first_level: float
    levels: tuple[int, ...]
    clipped: int


def bins_per_step(bits: int) -> int:
    """How finely a step is divided.

    Example:
        >>> bins_per_step(2), bins_per_step(4), bins_per_step(8)
        (16, 4, 1)
    """
    return 1 << max(0, _FINE - bits)


def weight_histograms(
    float_weight: Tensor,
    trained_weight: Tensor,
    codes: Tensor,
    scale: Tensor,
    *,
    bits: int,
    axis: int = 0,
    midrise: bool = False,
) -> Histogram:
    """Both networks' weights on the trained network's levels.

    Args:
        float_weight: of the float network.
        trained_weight: of the trained one, same shape.
        codes: integer codes of the latter, same shape.
        scale: [C] of a code, C = size of `axis`.
        bits: 2..8.
        axis: the channel axis.
        midrise: which grid.

    Example:
        >>> weight = torch.tensor([[-1.0, 0.0, 0.1, 1.0, 5.0]])
        >>> codes = torch.tensor([[-1, 0, 0, 1, 1]])
        >>> found = weight_histograms(weight, weight, codes, torch.ones(1), bits=2)
        >>> found.levels, found.first_level, sum(found.float_weights), found.clipped
        ((1, 2, 2), -1.0, 5, 1)
    """
    spacing = 1 + midrise
    outermost = weight_qmax(bits, midrise) / spacing
    levels = round(2 * outermost) + 1
    on_level = torch.zeros(levels, dtype=torch.int64)
    edge, per_step = outermost + MARGIN, bins_per_step(bits)
    bins = round(2 * edge * per_step)
    counts = torch.zeros(2, bins, dtype=torch.int64)
    clipped, rounded, untrained = 0, True, True
    step = scale.detach().float().cpu() * spacing
    pieces = max(1, -(-float_weight.numel() // _CHUNK))
    parts = zip(
        *(t.detach().cpu().movedim(axis, 0).chunk(pieces) for t in (float_weight, trained_weight, codes)),
        step.chunk(pieces),
        strict=True,
    )
    for float_part, trained_part, code_part, step_part in parts:
        untrained &= torch.equal(float_part, trained_part)
        place = code_part.to(torch.int64).add_(weight_qmax(bits, midrise)).div_(spacing, rounding_mode="floor")
        on_level += torch.bincount(place.flatten(), minlength=levels)
        view = channel_view(step_part, float_part.dim(), 0)
        for row, part in enumerate((float_part, trained_part)):
            ratio = part.float() / view
            index = ((ratio + edge) * per_step).floor_().clamp_(0, bins - 1).to(torch.int64)
            counts[row] += torch.bincount(index.flatten(), minlength=bins)
            if row == 0:
                clipped += int((ratio.abs() > outermost + 0.5).sum())
            else:
                rounded &= bool((ratio - code_part.float() / spacing).abs().max() < 1e-3)
    return Histogram(
        first=-edge,
        width=1 / per_step,
        float_weights=tuple(counts[0].tolist()),
        trained=None if rounded or untrained else tuple(counts[1].tolist()),
        first_level=-outermost,
        levels=tuple(on_level.tolist()),
        clipped=clipped,
    )
