"""Greedy upgrades by a measured loss: from the lowest bitwidths, the upgrade that pays most, until none fits."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from sigmaquant.errors import MetricError
from sigmaquant.search.feasibility import lowest_that_fits
from sigmaquant.search.problem import Assignment, Bits, Ledger, SearchProblem, worth

Loss = Callable[[Bits], float]
"""Calibration loss of a plan: expensive, deterministic, lower is better."""


@dataclass(frozen=True)
class GreedyProgress:
    """State after an upgrade.

    Attributes:
        layer: the layer that was upgraded, or None for the starting point.
        bits: the plan.
        loss: its loss.
        evaluations: how many plans have been measured so far.
    """

    layer: str | None
    bits: Bits
    loss: float
    evaluations: int


def greedy(
    problem: SearchProblem, loss: Loss, progress: Callable[[GreedyProgress], None] | None = None
) -> dict[str, int]:
    """Repeatedly upgrade the layer whose loss falls most per unit of the binding cost; stop when no upgrade fits.

    An upgrade goes to the layer's next higher bitwidth. Upgrades are measured lazily (Minoux, 1978): what a layer
    gained when it was last measured ranks it until it reaches the top of the queue, and only there is it measured anew.
    That is exact where gains shrink as the network gets better, and measures a small part of what a full sweep does.

    It goes on through upgrades that gain nothing, since at the lowest bitwidths a network is often at chance level and
    only several upgrades together show. Of all plans on the way the one with the least loss is returned, the latest on
    a tie.

    Args:
        problem: choices, costs and limits.
        loss: called once for each plan that is looked at.
        progress: called with the starting point and after every upgrade.

    Raises:
        UnreachableBudgetError: the lowest bitwidths exceed a limit.
        MetricError: the loss is not a finite number.

    Example:
        >>> size = {"conv": {2: 10.0, 4: 20.0}, "fc": {2: 30.0, 4: 60.0}}
        >>> choices, elements = {"conv": (2, 4), "fc": (2, 4)}, {"conv": 40, "fc": 120}
        >>> problem = SearchProblem(choices, {"size_bytes": size}, {}, {"size_bytes": 70.0}, elements)
        >>> greedy(problem, lambda bits: 8 / bits["conv"] + 6 / bits["fc"])
        {'conv': 4, 'fc': 2}
    """
    measured: dict[Assignment, float] = {}

    def measure(bits: Bits) -> float:
        key = problem.key(bits)
        if key not in measured:
            value = float(loss(bits))
            if not math.isfinite(value):
                raise MetricError(
                    f"the loss of a plan is {value!r}; it must be one finite number. "
                    "Check the calibration data and the loss function."
                )
            measured[key] = value
        return measured[key]

    def report(layer: str | None) -> None:
        if progress is not None:
            progress(GreedyProgress(layer, dict(ledger.bits), current, len(measured)))

    ledger = Ledger(problem, lowest_that_fits(problem))
    current = measure(dict(ledger.bits))
    best, least = dict(ledger.bits), current
    gains: dict[str, float] = {}  # layer -> what its next upgrade gained when last measured
    report(None)
    while True:
        queue = _upgrades(ledger, gains)
        fresh: set[str] = set()
        while queue and queue[0].name not in fresh:
            upgrade = queue[0]
            gains[upgrade.name] = current - measure({**ledger.bits, upgrade.name: upgrade.bits})
            fresh.add(upgrade.name)
            heapq.heapreplace(queue, upgrade.ranked(gains[upgrade.name]))
        if not queue:
            return best
        taken = queue[0]
        del gains[taken.name]
        ledger.set(taken.name, taken.bits)
        current = measure(dict(ledger.bits))
        if current <= least:
            best, least = dict(ledger.bits), current
        report(taken.name)


@dataclass(frozen=True, order=True)
class _Upgrade:
    """One entry of the queue; the smallest is the best. Ties go to fewer bits, so that upgrades that all gain nothing
    are spread over the layers, and then to the layer that comes first.
    """

    rank: float
    bits: int
    index: int
    cost: float
    name: str

    def ranked(self, gain: float) -> _Upgrade:
        return replace(self, rank=-worth(gain, self.cost))


def _upgrades(ledger: Ledger, gains: dict[str, float]) -> list[_Upgrade]:
    """A heap of the upgrades that fit. One that was never measured comes before all others."""
    problem, resource = ledger.problem, ledger.binding()
    queue = []
    for index, (name, bits) in enumerate(ledger.bits.items()):
        higher = problem.higher(name, bits)
        if higher is None or not ledger.fits_with(name, higher):
            continue
        cost = problem.price(resource, name, higher) - problem.price(resource, name, bits)
        queue.append(_Upgrade(-math.inf, higher, index, cost, name).ranked(gains.get(name, math.inf)))
    heapq.heapify(queue)
    return queue
