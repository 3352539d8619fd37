"""Which budget of a sweep is next, and from which finished run it begins. Numbers only."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

Limits = Mapping[str, Sequence[float]]
"""The swept limits of every budget, each above zero; the same ones for all."""


def nearest(budget: str, finished: Collection[str], limits: Limits) -> str | None:
    """The finished budget whose limits are nearest as ratios; of two equally near ones the looser.

    Args:
        budget: the one to start.
        finished: those with a result.
        limits: of every budget.

    Example:
        >>> nearest("8x", ["6x", "16x"], {"6x": [60.0], "8x": [45.0], "16x": [22.5]})
        '6x'
    """
    if not finished:
        return None
    return min(finished, key=lambda other: (_distance(limits[other], limits[budget]), -looseness(limits[other])))


def next_budget(pending: Collection[str], running: Collection[str], finished: Collection[str], limits: Limits) -> str:
    """The budget to start now.

    With a finished run: the one with the nearest finished neighbour, so that a start is never further than need be.
    Else the first ones start from nothing: the loosest, then always the one furthest from all that run.

    Args:
        pending: budgets that wait; not empty.
        running: budgets at work.
        finished: budgets with a result.
        limits: of every budget.

    Example:
        >>> limits = {"6x": [60.0], "8x": [45.0], "16x": [22.5]}
        >>> next_budget(["6x", "8x", "16x"], [], [], limits), next_budget(["8x", "16x"], ["6x"], [], limits)
        ('6x', '16x')
        >>> next_budget(["8x", "16x"], [], ["6x"], limits)
        '8x'
    """

    def distance(budget: str, others: Collection[str]) -> float:
        return min(_distance(limits[other], limits[budget]) for other in others)

    if finished:
        return min(pending, key=lambda budget: (distance(budget, finished), -looseness(limits[budget])))
    if running:
        return max(pending, key=lambda budget: (distance(budget, running), looseness(limits[budget])))
    return max(pending, key=lambda budget: looseness(limits[budget]))


def looseness(limits: Sequence[float]) -> float:
    """How much limits allow in all: of two limits the product, as a logarithm."""
    return math.fsum(map(math.log, limits))


def _distance(one: Sequence[float], two: Sequence[float]) -> float:
    """How far limits lie apart as ratios."""
    return math.hypot(*(math.log(a / b) for a, b in zip(one, two, strict=True)))
