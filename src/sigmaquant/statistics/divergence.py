"""D_i(b): how much of the shape of a layer's weights is lost at b bits, in nats.

The Kullback-Leibler divergence from the float weight's histogram P to the histogram Q of its quantized version, where
the mass of every quantization level is spread evenly over the non-empty bins of P that round to it, as entropy
calibration does (Migacz, "8-bit inference with TensorRT", GTC 2017). Spreading in proportion to P would give P back,
and zero. Every non-empty bin of P has a positive Q, so no epsilon is needed; as the levels become as fine as the bins,
D tends to 0.

Exact zeros (pruned weights) are an event of their own: a mid-tread grid represents them exactly, so they contribute
nothing, and D is that of the other weights times their share. On a mid-rise grid they are weights like others. D
belongs to one weight's distribution: it is per weight, not per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sigmaquant.errors import ModelError
from sigmaquant.graph.specs import QuantGraph
from sigmaquant.numerics import weight_qmax
from sigmaquant.statistics.histogram import HALF_BINS, density, weight_histogram

Sensitivity = dict[str, dict[int, float]]
"""Harm of quantizing a layer (by name) to a bitwidth; what the search takes."""

_CLIP_RATIOS = np.linspace(0.06, 1.0, 48)


def divergences(graph: QuantGraph, bitwidths: Sequence[int], midrise_up_to: int = 0) -> Sensitivity:
    """D of every layer at every bitwidth, in nats per weight; weights of at most `midrise_up_to` bits are mid-rise.

    Raises:
        ModelError: a weight contains NaN or infinity.
        PlanError: a bitwidth outside 2..8.
    """
    table: Sensitivity = {}
    for spec in graph.layers:
        try:
            table[spec.name] = weight_divergence(graph.weight(spec.name), bitwidths, spec.channel_axis, midrise_up_to)
        except ModelError as error:
            raise ModelError(f"layer {spec.name!r}: {error}") from None
    return table


def weight_divergence(
    weight: Tensor, bitwidths: Sequence[int], axis: int = 0, midrise_up_to: int = 0
) -> dict[int, float]:
    """D of one weight at every bitwidth.

    One pass over the weight's memory whatever the number of bitwidths: the clipping that minimises the squared error
    and the divergence itself are computed on the histogram, which of a large weight counts a sample. Does not depend on
    the order of the weights in a channel of a weight that is counted in full, nor (up to float32 rounding at bin edges)
    on a positive factor of a channel.

    Args:
        weight: any shape, one scale per element of `axis`.
        bitwidths: each 2..8.
        axis: the channel axis.
        midrise_up_to: weights of at most so many bits lie on a mid-rise grid.

    Returns:
        Nats, not negative, by bitwidth.

    Raises:
        ModelError: the weight is empty or contains NaN or infinity.
        PlanError: a bitwidth outside 2..8.

    Example:
        >>> import torch
        >>> weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
        >>> d = weight_divergence(weight, (2, 4, 8))
        >>> d[2] > 10 * d[4] > 100 * d[8] > 0
        True
    """
    levels = {bits: positive_levels(bits, bits <= midrise_up_to) for bits in bitwidths}
    histogram = weight_histogram(weight, axis)
    rest = int(histogram.counts.sum())
    if rest == 0:
        return dict.fromkeys(levels, 0.0)
    found = {}
    for midrise in {bool(codes[0]) for codes in levels.values()}:
        counts = histogram.counts.copy()
        counts[HALF_BINS] += histogram.zeros * midrise
        share = 1.0 if midrise else rest / (rest + histogram.zeros)
        masses, powers = density(counts), power_sums(counts)
        for bits, codes in levels.items():
            if bool(codes[0]) == midrise:
                edges = level_edges(best_step(powers, codes), codes)
                found[bits] = share * expanded_divergence(masses, edges)
    return {bits: found[bits] for bits in levels}


def positive_levels(bits: int, midrise: bool) -> NDArray[np.int64]:
    """The codes that are not negative, ascending.

    Example:
        >>> positive_levels(3, midrise=False).tolist(), positive_levels(3, midrise=True).tolist()
        ([0, 1, 2, 3], [1, 3, 5, 7])
    """
    return np.arange(int(midrise), weight_qmax(bits, midrise) + 1, 1 + midrise)


def power_sums(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums over all bins nearer to the centre than bin k of ``count * k**power``: [3 powers, HALF_BINS + 2].

    Args:
        counts: [2 * HALF_BINS + 1]; the levels being symmetric, only the distance from the centre bin matters.
    """
    folded = counts[HALF_BINS:].astype(np.float64)
    folded[1:] += counts[HALF_BINS - 1 :: -1]
    distance = np.arange(HALF_BINS + 1, dtype=np.float64)
    sums = np.zeros((3, HALF_BINS + 2))
    for power in range(3):
        np.cumsum(folded, out=sums[power, 1:])
        folded *= distance
    return sums


def best_step(powers: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
    """Distance of two integers, in bins, that minimises the squared quantization error of a histogram.

    Args:
        powers: `power_sums` of the histogram. They turn each level's error, ``sum c (x - level)²``, into a few
            look-ups: the cost of a candidate is the number of its levels, not of the bins.
        codes: `positive_levels`.
    """
    steps, edges, level = _candidates(codes.tobytes())
    mass, first, second = np.diff(powers[:, edges])
    error = second - 2 * level * first + level**2 * mass
    return float(steps[error.sum(1).argmin(), 0])


@cache
def _candidates(codes: bytes) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Steps [candidates, 1], edges of their levels [candidates, levels + 1] and the levels, of int64 codes."""
    levels = np.frombuffer(codes, dtype=np.int64)
    steps = _CLIP_RATIOS[:, None] * (HALF_BINS / levels[-1])
    edges = np.full((len(steps), len(levels) + 1), HALF_BINS + 1)
    edges[:, 0] = 0
    edges[:, 1:-1] = (steps * _between(levels)).astype(np.int64) + 1
    return steps, edges, steps * levels


def _between(codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Where one level ends and the next begins, in units of a code."""
    return (codes[1:] + codes[:-1]) / 2


def level_edges(step: float, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """First bin of every level and the end of the last: [levels + 1].

    Symmetric about the centre; the centre bin itself, which a mid-rise grid would split, belongs to its upper half.

    Example:
        >>> (level_edges(HALF_BINS, np.array([0, 1])) - HALF_BINS).tolist()
        [-2048, -1024, 1025, 2049]
    """
    inner = (step * _between(codes)).astype(np.int64)
    middle = [HALF_BINS] if codes[0] else []
    ends = [0], HALF_BINS - inner[::-1], middle, HALF_BINS + 1 + inner, [2 * HALF_BINS + 1]
    return np.concatenate(ends).astype(np.int64)


def expanded_divergence(masses: NDArray[np.float64], edges: NDArray[np.int64]) -> float:
    """KL(P || Q) in nats, Q being each level's mass spread evenly over P's non-empty bins of that level.

    With level masses M and numbers of non-empty bins k this is ``sum P ln P - sum M ln(M / k)``.

    Args:
        masses: P, [bins], sums to 1.
        edges: [levels + 1] ascending: the first bin of every level and the end of the last.

    Example:
        Two levels of two bins: (1/2, 1/4) becomes (3/8, 3/8), the empty bin stays empty.

        >>> round(expanded_divergence(np.array([0.5, 0.25, 0.25, 0.0]), np.array([0, 2, 4])), 6)
        0.042475
        >>> round(float(0.5 * np.log(4 / 3) + 0.25 * np.log(2 / 3)), 6)
        0.042475
    """
    present = masses[masses > 0]
    # Summed level by level: differences of running sums would round a sparse level's mass away, and its logarithm.
    level_mass = np.add.reduceat(masses, edges[:-1])
    level_bins = np.add.reduceat((masses > 0).astype(np.int64), edges[:-1])
    # reduceat gives a level without bins its neighbour's first bin.
    used = (np.diff(edges) > 0) & (level_bins > 0)
    spread = level_mass[used] @ np.log(level_mass[used] / level_bins[used])
    return max(0.0, float(present @ np.log(present) - spread))
