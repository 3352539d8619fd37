"""One histogram per layer for weights with one scale per channel, fine enough for 8 bits, smooth for small layers.

Each weight is divided by its channel's largest magnitude: the quantizer's scale is a clipping ratio times that
magnitude, so in the normalised domain one clipping ratio and one set of levels serve all channels, and multiplying a
channel by a positive number changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigmaquant.statistics.moments import channel_maxima

HALF_BINS = 2048
"""Bins on each side of the centre bin. At 8 bits and no clipping a level spans 16 bins, and the counts fit in a
processor's first-level cache, which decides how fast they are made."""

SAMPLED = 1 << 16
"""Weights of a large layer that are counted; then all large layers' densities are smoothed alike."""

_COUNTED = 4 * SAMPLED
"""Up to so many all are counted."""

_RUN = 16  # weights that are read together: a cache line holds so many

_LATTICE_COUNT = 16  # weights per occupied bin; with fewer, the divergence would measure the noise of the counts


@dataclass(frozen=True)
class WeightHistogram:
    """Counts of ``weight / largest magnitude of its channel``.

    Attributes:
        counts: [2 * HALF_BINS + 1] int64; bin ``k`` holds the values that round to ``(k - HALF_BINS) / HALF_BINS``.
        zeros: exact zeros that were taken out of the centre bin; 0 when that bin is no larger than its neighbours.

    Of a large weight a regular sample is counted.
    """

    counts: NDArray[np.int64]
    zeros: int = 0


def weight_histogram(weight: Tensor, axis: int = 0) -> WeightHistogram:
    """Histogram of a weight: one pass over memory for the channels' maxima, then the counts of at most a sample.

    Args:
        weight: any shape, C channels along `axis`.
        axis: the channel axis.

    Raises:
        ModelError: the weight is empty or contains NaN or infinity.

    Example:
        >>> histogram = weight_histogram(torch.tensor([[-2.0, 1.0], [0.1, 0.05]]))
        >>> [(int(k) - HALF_BINS, int(histogram.counts[k])) for k in histogram.counts.nonzero()[0]]
        [(-2048, 1), (1024, 2), (2048, 1)]
    """
    bins = 2 * HALF_BINS + 1
    factors = HALF_BINS / channel_maxima(weight, axis).double()
    factors = factors.nan_to_num(posinf=0.0).clamp_max_(torch.finfo(torch.float32).max).float()
    values, channels = _sample(weight.detach(), axis)
    # Adding half a bin makes truncation a rounding to the nearest bin, and keeps both ends inside the range whatever
    # float32 does to the product. bincount on int32 is several times faster than torch.histc here.
    scaled = torch.mul(values.float(), factors[channels]).add_(HALF_BINS + 0.5)
    table = torch.bincount(scaled.int().reshape(-1), minlength=bins).cpu().numpy()
    zeros = 0
    if table[HALF_BINS] > table[HALF_BINS - 1] + table[HALF_BINS + 1]:
        # Only a centre bin that stands out can hold pruned weights; only then is another pass worth it.
        zeros = values.numel() - int(torch.count_nonzero(values))
        table[HALF_BINS] -= zeros
    return WeightHistogram(table, zeros)


def _sample(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Runs of weights [runs, length], and the channel of each weight; all of a small weight, as [channels, weights].

    The runs begin at equal distances, which share no factor with the usual shapes: they visit all channels and, over
    the channels, all positions.
    """
    rows = weight.movedim(axis, 0)
    count = weight.numel() // len(rows)
    if weight.numel() <= _COUNTED or count < _RUN:
        return rows.reshape(len(rows), -1), torch.arange(len(rows), device=weight.device)[:, None]
    starts = torch.arange(0, weight.numel(), (weight.numel() * _RUN // SAMPLED) | 1, device=weight.device)
    channels = starts // count
    starts = torch.minimum(starts, (channels + 1) * count - _RUN)  # no run goes over into the next channel
    positions = starts[:, None] + torch.arange(_RUN, device=weight.device)
    if rows.is_contiguous():
        return rows.reshape(-1).take(positions), channels[:, None]
    return rows[torch.unravel_index(positions, rows.shape)], channels[:, None]


def density(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probability of each bin: a histogram whose bin width adapts to the number of weights.

    The counts are averaged over all shifts of a coarser grid (Scott's averaged shifted histogram, Annals of Statistics
    13, 1985), whose width follows the normal reference rule 2.58 min(σ, IQR / 1.349) n^(-1/5). A plain histogram of 432
    weights would leave at most one weight in a bin: the expanded histogram equals it, and the divergence says 0.
    Weights on a coarse lattice (binary, ternary, already quantized) are taken as they are: their bins are few, full,
    and leave most of the smoothed density's bins empty.

    Args:
        counts: [bins], not negative.

    Returns:
        [bins], sums to 1; zeros when there are no counts.
    """
    total = int(counts.sum())
    if total == 0:
        return np.zeros(len(counts))
    plain = counts / total
    width = min(_reference_width(plain, total), len(counts) // 2)
    if width <= 1:
        return plain
    # Two running means of integers are a triangle exactly; reflection at the ends keeps all the mass in range.
    padded = np.pad(counts, width - 1, mode="symmetric")
    for _ in range(2):
        padded = _running_sum(padded, width)
    smooth = padded / (float(total) * width * width)
    occupied = np.count_nonzero(counts)
    expected = -np.expm1(-total * smooth).sum()
    lattice = occupied < expected / 2 and total >= _LATTICE_COUNT * occupied
    return plain if lattice else smooth


def _running_sum(values: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Sums over `width` neighbours: [n] -> [n - width + 1]."""
    sums = np.concatenate([[0], np.cumsum(values)])
    difference: NDArray[np.int64] = sums[width:] - sums[:-width]
    return difference


def _reference_width(plain: NDArray[np.float64], total: int) -> int:
    """Half-width of the triangle, in bins."""
    position = np.arange(len(plain))
    mean = plain @ position
    spread = float(np.sqrt(plain @ (position - mean) ** 2))
    low, high = np.searchsorted(np.cumsum(plain), (0.25, 0.75))
    quartiles = float(high - low) / 1.349
    scale: float = min(spread, quartiles) if quartiles > 0 else spread
    return round(2.58 * scale * math.pow(total, -0.2))
