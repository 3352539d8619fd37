"""Exact one-dimensional k-means by dynamic programming: deterministic, no seeds, no restarts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_BLOCK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class LineClusters:
    """Clusters on a line.

    Attributes:
        centroids: mean of each cluster, ascending; at most as many as asked for.
        boundaries: midpoints between neighbouring centroids, one fewer. A value on a boundary belongs to the cluster
            below it.
    """

    centroids: tuple[float, ...]
    boundaries: tuple[float, ...]

    def label(self, value: float) -> int:
        """Index of the value's cluster.

        Example:
            >>> LineClusters((0.0, 1.0), (0.5,)).label(0.5), LineClusters((0.0, 1.0), (0.5,)).label(0.6)
            (0, 1)
        """
        return sum(value > boundary for boundary in self.boundaries)


def kmeans_line(values: Sequence[float], k: int) -> LineClusters:
    """The partition of `values` into at most `k` clusters with the least sum of squared distances to the means.

    Dynamic programming over the sorted distinct values (H. Wang and M. Song, The R Journal 3(2), 2011): O(k n^2) time,
    vectorised, O(k n) memory. Where several partitions are equally good, the one whose upper clusters are largest.

    Args:
        values: at least one finite number, in any order; repeated values count as often as they occur.
        k: largest number of clusters; with fewer distinct values there are fewer clusters.

    Raises:
        ValueError: no value, one that is not finite, or k below 1.

    Example:
        >>> kmeans_line([7.0, 1.0, 2.0, 8.0], 2)
        LineClusters(centroids=(1.5, 7.5), boundaries=(4.5,))
    """
    if k < 1:
        raise ValueError(f"k is {k}; there must be at least one cluster.")
    if len(values) == 0 or not all(math.isfinite(value) for value in values):
        raise ValueError("k-means needs at least one value, and every value must be finite.")
    points, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    starts = _cluster_starts(points, counts.astype(np.float64), min(k, len(points)))
    ends = [*starts[1:], len(points)]
    centroids = tuple(float(np.average(points[a:b], weights=counts[a:b])) for a, b in zip(starts, ends, strict=True))
    boundaries = tuple(a + (b - a) / 2 for a, b in pairwise(centroids))
    return LineClusters(centroids, boundaries)


def _cluster_starts(points: NDArray[np.float64], counts: NDArray[np.float64], k: int) -> list[int]:
    """Index of the first of the sorted distinct points in each of k clusters."""
    n = len(points)
    # Centring and scaling first: the sums below lose digits when the mean is large compared with the spread, and
    # squares of tiny values would vanish.
    centred = points - np.average(points, weights=counts)
    centred = centred / (np.abs(centred).max() or 1.0)
    weight = np.concatenate(([0.0], np.cumsum(counts)))
    first = np.concatenate(([0.0], np.cumsum(counts * centred)))
    second = np.concatenate(([0.0], np.cumsum(counts * centred * centred)))

    def cost(start: NDArray[np.int_], end: NDArray[np.int_]) -> NDArray[np.float64]:
        """Squared error of the cluster [start, end) for every pair, [len(end), len(start)]; infinite where empty."""
        w = weight[end][:, None] - weight[start]
        s = first[end][:, None] - first[start]
        q = second[end][:, None] - second[start]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(w > 0, np.maximum(q - s * s / w, 0.0), np.inf)

    # best[e]: least error of the first e points in `clusters` clusters; choice: where the last of them starts.
    every = np.arange(n + 1)
    best = cost(np.array([0]), every)[:, 0]
    choices: list[NDArray[np.int_]] = []
    block = max(1, _BLOCK_ELEMENTS // (n + 1))
    for _ in range(1, k):
        updated = np.empty(n + 1)
        choice = np.empty(n + 1, dtype=np.int_)
        for begin in range(0, n + 1, block):
            ends = every[begin : begin + block]
            candidates = best + cost(every, ends)
            choice[ends] = candidates.argmin(1)
            updated[ends] = candidates[np.arange(len(ends)), choice[ends]]
        choices.append(choice)
        best = updated
    starts, end = [], n
    for choice in reversed(choices):
        end = int(choice[end])
        starts.append(end)
    return [0, *reversed(starts)]
