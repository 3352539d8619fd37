"""Phase 1, adaptive clustering: standard deviations of the weights -> bitwidths near the limit, without any training.

The layers' sigmas are clustered on a line; cluster order gives bitwidth order, small sigma -> few bits. One shift tau
of all cluster boundaries then trades bits for cost: each layer falls below each boundary at one known tau, so the plans
that a shift can reach are enumerated exactly instead of searched for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sigmaquant.errors import ModelError, PlanError
from sigmaquant.plan import check_names
from sigmaquant.search.clustering import LineClusters, kmeans_line
from sigmaquant.search.problem import SearchProblem

BUFFER = 0.15
"""Width of the buffer zone above the limit, as a part of the limit: phase 2 comes down from there."""

_ROUNDING = 1e-9

Landing = Literal["inside", "below", "above", "unlimited"]


@dataclass(frozen=True)
class Clustering:
    """What phase 1 decided.

    Attributes:
        bits: bitwidth by layer.
        tau: shift of all boundaries, in units of sigma; above zero means fewer bits.
        centroids: unshifted means of the clusters, ascending.
        boundaries: unshifted, one fewer than there are bitwidths; ascending.
        ratio: cost/limit of the binding resource, 0 when nothing is limited.
        landing: where `ratio` lies: ``"inside"`` the buffer zone [1, 1 + buffer], ``"below"`` the limit (fits),
            ``"above"`` the zone, or ``"unlimited"``.
    """

    bits: dict[str, int]
    tau: float
    centroids: tuple[float, ...]
    boundaries: tuple[float, ...]
    ratio: float
    landing: Landing


def cluster_to_budget(sigma: Mapping[str, float], problem: SearchProblem, buffer: float = BUFFER) -> Clustering:
    """Bitwidths from the sigmas, moved by the least shift that brings the binding cost into its buffer zone.

    The zone reaches from the limit to limit x (1 + buffer): phase 1 ends at or slightly above the limit on purpose, so
    that phase 2 removes bits by measured sensitivity instead of adding them blindly. Where no shift lands inside, the
    plan whose binding ratio is nearest to the zone is taken, on a tie the one that fits; `Clustering.landing` says
    which. When nothing is limited the shift is zero.

    All layers are clustered, the pinned ones too, so that a pin changes no other layer's cluster. A layer takes the
    allowed bitwidth nearest to its cluster's, the higher one on a tie.

    With fewer distinct sigmas than bitwidths the clusters take the highest bitwidths: nothing is made coarser than the
    sigmas give reason to. The missing boundaries lie below the others at their mean distance, so that a shift still
    reaches every bitwidth. Equal sigmas, or a single layer, thus begin at the highest and move together.

    Args:
        sigma: standard deviation of every layer's weights, on any one scale (raw, BatchNorm-folded, logarithms).
        problem: choices, costs and limits.
        buffer: width of the zone as a part of the limit.

    Raises:
        UnknownLayerError: a sigma for a layer that the problem does not have.
        PlanError: a layer without a sigma.
        ModelError: a sigma that is not finite.

    Example:
        >>> size = {name: {2: 2.0, 4: 4.0, 8: 8.0} for name in "abc"}
        >>> choices = {name: (2, 4, 8) for name in "abc"}
        >>> problem = SearchProblem(choices, {"size_bytes": size}, {}, {"size_bytes": 12.0}, dict.fromkeys("abc", 8))
        >>> found = cluster_to_budget({"a": 0.1, "b": 0.2, "c": 0.4}, problem)
        >>> found.bits, found.landing, found.tau > 0
        ({'a': 2, 'b': 2, 'c': 8}, 'inside', True)
    """
    clusters, thresholds, table = _inputs(sigma, problem)
    if not problem.upper:
        return _clustering(problem, clusters, thresholds, table, 0.0, buffer)
    taus, ratios = _path(problem, thresholds, table)
    distances = np.maximum(np.maximum(1 - ratios, ratios - (1 + buffer)), 0.0)
    # The running sums of the path carry rounding errors, and a plan exactly at its limit must count as there: all that
    # may be nearest are looked at exactly.
    nearest: list[Clustering] = []
    for index in np.flatnonzero(distances <= distances.min() + _ROUNDING).tolist():
        found = _clustering(problem, clusters, thresholds, table, float(taus[index]), buffer)
        if found.landing == "inside":
            return found
        nearest.append(found)
    return min(nearest, key=lambda found: (max(1 - found.ratio, found.ratio - (1 + buffer)), found.landing == "above"))


def shifted(sigma: Mapping[str, float], problem: SearchProblem, tau: float, buffer: float = BUFFER) -> Clustering:
    """The same clustering with a given shift.

    For the measured step of phase 1: move the boundaries back by half of the last step and look again. Bitwidths never
    rise with tau.

    Args:
        sigma: as in `cluster_to_budget`.
        problem: as in `cluster_to_budget`.
        tau: shift of all boundaries in units of sigma; above zero means fewer bits.
        buffer: width of the zone, for `Clustering.landing`.

    Raises:
        UnknownLayerError: a sigma for a layer that the problem does not have.
        PlanError: a layer without a sigma.
        ModelError: a sigma that is not finite.

    Example:
        >>> problem = SearchProblem({"a": (2, 4, 8), "b": (2, 4, 8)}, {}, {}, {}, {"a": 8, "b": 8})
        >>> sigma = {"a": 0.1, "b": 0.3}
        >>> [shifted(sigma, problem, tau).bits for tau in (-0.2, 0.0, 0.2, 1.0)]
        [{'a': 8, 'b': 8}, {'a': 4, 'b': 8}, {'a': 2, 'b': 4}, {'a': 2, 'b': 2}]
    """
    clusters, thresholds, table = _inputs(sigma, problem)
    return _clustering(problem, clusters, thresholds, table, tau, buffer)


def _inputs(
    sigma: Mapping[str, float], problem: SearchProblem
) -> tuple[LineClusters, NDArray[np.float64], NDArray[np.int_]]:
    """Clusters with all boundaries; thresholds [layers, boundaries]: the tau at which a layer falls below a boundary;
    table [layers, bitwidths]: the allowed bitwidth that a layer takes for each cluster's.
    """
    check_names(list(sigma), problem.choices, "the table of sigmas")
    values = []
    for name in problem.choices:
        if name not in sigma:
            raise PlanError(f"layer {name!r} has no sigma. Phase 1 needs one for every layer, pinned ones too.")
        if not math.isfinite(sigma[name]):
            raise ModelError(
                f"the sigma of layer {name!r} is {sigma[name]!r}: its weights hold NaN or infinity, or none at all. "
                "Check the checkpoint that was loaded."
            )
        values.append(float(sigma[name]))
    bitwidths = problem.bitwidths
    clusters = _with_missing_boundaries(kmeans_line(values, len(bitwidths)), len(bitwidths))
    thresholds = np.asarray(values)[:, None] - np.asarray(clusters.boundaries).reshape(1, -1)
    table = np.array(
        [
            [min(allowed, key=lambda b: (abs(b - target), -b)) for target in bitwidths]
            for allowed in problem.choices.values()
        ]
    )
    return clusters, thresholds, table


def _with_missing_boundaries(clusters: LineClusters, bitwidths: int) -> LineClusters:
    missing = bitwidths - len(clusters.centroids)
    if not missing:
        return clusters
    lowest, highest = clusters.centroids[0], clusters.centroids[-1]
    # With one cluster there is no distance to go by; any positive one will do.
    gap = (highest - lowest) / (len(clusters.centroids) - 1) if highest > lowest else abs(lowest) or 1.0
    below = tuple(lowest - gap * (index - 0.5) for index in range(missing, 0, -1))
    return LineClusters(clusters.centroids, below + clusters.boundaries)


def _clustering(
    problem: SearchProblem,
    clusters: LineClusters,
    thresholds: NDArray[np.float64],
    table: NDArray[np.int_],
    tau: float,
    buffer: float,
) -> Clustering:
    # A layer is above a boundary while tau is below its threshold: then a threshold itself is the least tau at which
    # the layer has fallen, and no rounding of `boundary + tau` can disagree with the enumeration.
    columns = (tau < thresholds).sum(1)
    picked = table[np.arange(len(table)), columns].tolist()
    bits = dict(zip(problem.choices, picked, strict=True))
    ratios = problem.ratios(bits)
    ratio = max((ratios[resource] for resource in _weighed(problem)), default=0.0)
    landing: Landing = "inside" if problem.upper else "unlimited"
    if problem.upper and ratio < 1:
        landing = "below"
    elif ratio > 1 + buffer:
        landing = "above"
    return Clustering(bits, float(tau), clusters.centroids, clusters.boundaries, ratio, landing)


def _weighed(problem: SearchProblem) -> tuple[str, ...]:
    """The resources that a shift is found by: those that it changes, where there are any."""
    return problem.movable or tuple(problem.upper)


def _path(
    problem: SearchProblem, thresholds: NDArray[np.float64], table: NDArray[np.int_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Every plan that a shift can reach: its least shift and its binding ratio (up to rounding), least shifts first.

    There are at most layers x boundaries + 1 of them. A plan holds for tau in [its threshold, the next threshold): its
    least shift is the threshold where that is above zero, and the last number before the next threshold where the whole
    interval lies below zero.
    """
    flat = thresholds.ravel()
    order = np.argsort(flat, kind="stable")
    passed, last = _distinct_and_last(flat[order])
    ratios = np.zeros(len(flat) + 1)
    for resource in _weighed(problem):
        limit = problem.upper[resource]
        rows = zip(problem.choices, table.tolist(), strict=True)
        price = np.array([[problem.costs[resource][name][bits] for bits in row] for name, row in rows])
        highest = price[:, -1].sum() + problem.fixed.get(resource, 0.0)
        # A layer goes from one column of its row to the one before when it falls below the boundary between them.
        steps = (price[:, :-1] - price[:, 1:]).ravel()[order]
        ratios = np.maximum(ratios, (highest + np.concatenate(([0.0], np.cumsum(steps)))) / limit)
    ratios = ratios[np.concatenate((np.zeros(1, dtype=np.int_), last + 1))]
    starts = np.concatenate(([-np.inf], passed))
    ends = np.concatenate((passed, [np.inf]))
    taus = np.where(starts > 0, starts, np.where(ends <= 0, np.nextafter(ends, -np.inf), 0.0))
    nearest_first = np.argsort(np.abs(taus), kind="stable")
    return taus[nearest_first], ratios[nearest_first]


def _distinct_and_last(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int_]]:
    """Distinct values of a sorted array, and the index of the last occurrence of each."""
    if len(values) == 0:
        return values, np.empty(0, dtype=np.int_)
    last = np.flatnonzero(np.concatenate((values[1:] != values[:-1], [True])))
    return values[last], last
