"""The frontier of a sweep: its points, which of them nothing beats, and where its knee is."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Point:
    """A finished run of a sweep.

    Attributes:
        run: its folder's name.
        budget: the swept limits as the user wrote them.
        status: ``"met"`` or ``"not met"``.
        cost: the first swept resource, in the unit of `Sweep.resources`.
        validation: the metric on the validation data.
        test: the metric on the test data; None where there are none.
        divergence: distance of the outputs to the float network's on the validation data.
        reduction: float32 bytes over all bytes stored.
        total_bytes, weight_bytes, bops, ram_bytes, energy_pj, latency_ms, cycles: see `sigmaquant.Cost`.
        control_validation, control_test: of the uniform control, where one was run.
        trained_examples: training examples that the network has seen, those of the runs it began from included.
        seconds: wall time of this run alone.
        started_from: the run it began from; empty: from nothing.
        on_front: whether no other point is at least as cheap in all swept resources and at least as good.
        knee: whether it is the knee, where one resource is swept.
        second_cost: the second swept resource, where two are swept.
        strategy: how its plan was searched.
    """

    run: str
    budget: str
    status: str
    cost: float
    validation: float
    test: float | None
    divergence: float | None
    reduction: float
    total_bytes: int
    weight_bytes: int
    bops: float | None
    ram_bytes: int | None
    energy_pj: float | None
    latency_ms: float | None
    cycles: float | None
    control_validation: float | None
    control_test: float | None
    trained_examples: int
    seconds: float
    started_from: str = ""
    on_front: bool = False
    knee: bool = False
    second_cost: float | None = None
    strategy: str = ""

    @property
    def costs(self) -> tuple[float, ...]:
        """The swept resources: one or two."""
        return (self.cost,) if self.second_cost is None else (self.cost, self.second_cost)

    @classmethod
    def of(
        cls,
        run: str,
        budget: str,
        resources: Sequence[str],
        size_counts: str,
        result: Mapping[str, Any],
        start: str,
        strategy: str = "",
    ) -> Point:
        """From a run's ``result.json``."""
        cost, control = result["cost"], result["control"] or {"scores": {"validation": None, "test": None}}
        size = "weight_bytes" if size_counts == "weights" else "total_bytes"
        names = ("total_bytes", "weight_bytes", "bops", "ram_bytes", "energy_pj", "latency_ms", "cycles")
        points = {point["name"]: point for point in cost.get("operating_points", ())}

        def swept_cost(resource: str) -> float:
            base, _, at = resource.partition("@")
            return float((points[at] if at else cost)[size if base == "size_bytes" else base])

        swept = [swept_cost(resource) for resource in resources]
        return cls(
            run=run,
            budget=budget,
            status=result["status"],
            cost=swept[0],
            second_cost=swept[1] if len(swept) > 1 else None,
            strategy=strategy,
            validation=result["scores"]["validation"],
            test=result["scores"]["test"],
            divergence=result["scores"]["divergence"],
            reduction=result["reference"]["total_bytes"] / cost["total_bytes"],
            **{name: cost[name] for name in names},
            control_validation=control["scores"]["validation"],
            control_test=control["scores"]["test"],
            trained_examples=result["trained_examples"],
            seconds=result["seconds"],
            started_from=start,
        )


def front(costs: Sequence[Sequence[float]], scores: Sequence[float]) -> list[int]:
    """Indices of the points that no other one dominates, from the cheapest to the dearest in the first cost.

    Args:
        costs: one or several of each point; lower is better.
        scores: higher is better.

    Example:
        >>> front([[4.0], [1.0], [2.0], [3.0]], [0.9, 0.5, 0.8, 0.7])
        [1, 2, 0]
        >>> front([[1.0, 9.0], [2.0, 3.0], [2.0, 4.0]], [0.5, 0.5, 0.5])
        [0, 1]
    """
    found: list[int] = []
    for index in sorted(range(len(costs)), key=lambda i: (*costs[i], -scores[i])):
        own = costs[index]
        if not any(
            scores[other] >= scores[index] and all(a <= b for a, b in zip(costs[other], own, strict=True))
            for other in found
        ):
            found.append(index)
    return found


def knee(costs: Sequence[float], scores: Sequence[float]) -> int | None:
    """Where a frontier bends most: beyond it, more cost buys little; before it, little cost loses much.

    The point of the front furthest above the straight line between its ends, both axes scaled to 0..1, the costs
    logarithmic, since budgets are ratios (the chord rule of Satopää et al., "Finding a 'Kneedle' in a Haystack", 2011).

    Args:
        costs: above zero; lower is better.
        scores: higher is better.

    Returns:
        an index; None for fewer than three points on the front, or where it nowhere bends up.

    Example:
        >>> knee([1.0, 2.0, 4.0, 8.0], [0.5, 0.8, 0.85, 0.86])
        1
        >>> knee([1.0, 2.0], [0.5, 0.8]) is None
        True
    """
    best = front([(cost,) for cost in costs], scores)
    if len(best) < 3:
        return None
    low, high = best[0], best[-1]
    width, height = math.log(costs[high] / costs[low]), scores[high] - scores[low]

    def above(index: int) -> float:
        return (scores[index] - scores[low]) / height - math.log(costs[index] / costs[low]) / width

    furthest = max(best, key=above)
    return furthest if above(furthest) > 1e-9 else None


def to_csv(points: Sequence[Point]) -> str:
    """A header and a line for each point; missing values are empty."""
    text = io.StringIO()
    names = [item.name for item in fields(Point)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for point in points:
        writer.writerow({name: "" if (value := getattr(point, name)) is None else value for name in names})
    return text.getvalue()
