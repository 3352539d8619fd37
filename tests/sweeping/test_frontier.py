"""Front and knee, against their definitions."""

from __future__ import annotations

import csv
import io
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigmaquant.sweeping.frontier import Point, front, knee, to_csv

PAIRS = st.lists(st.tuples(st.floats(0.1, 1e6), st.floats(-1, 1)), min_size=1, max_size=20)


@given(PAIRS)
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    found = front([(c,) for c, _ in points], [s for _, s in points])
    for i, (cost, score) in enumerate(points):
        beaten = any((c <= cost and s >= score) and (c < cost or s > score) for c, s in points)
        twin = any((c, s) == (cost, score) and j in found for j, (c, s) in enumerate(points))
        assert (i in found) <= (not beaten)
        assert twin == (not beaten)


@given(st.lists(st.tuples(*[st.integers(1, 4)] * 2, st.integers(0, 3)), min_size=1, max_size=12))
def test_the_front_in_two_costs_is_what_nothing_beats(points: list[tuple[int, int, int]]) -> None:
    found = front([point[:2] for point in points], [float(point[2]) for point in points])
    for one, two, score in points:
        beaten = any(a <= one and b <= two and s >= score and (a, b, s) != (one, two, score) for a, b, s in points)
        assert any(points[i] == (one, two, score) for i in found) == (not beaten)


@given(PAIRS, st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_knee_does_not_depend_on_units(points: list[tuple[float, float]], unit: float, scale: float) -> None:
    costs, scores = [round(c, 3) + 0.1 for c, _ in points], [round(s, 3) for _, s in points]
    here, there = knee(costs, scores), knee([unit * c for c in costs], [scale * s for s in scores])
    if here != there:  # only where two points bend equally far, up to rounding
        best = front([(c,) for c in costs], scores)
        assert here in best or here is None
        heights = [_above(costs, scores, best, i) for i in (here, there) if i is not None]
        assert max(heights, default=0.0) - min(heights, default=0.0) < 1e-6 or max(heights) < 1e-6


def _above(costs: list[float], scores: list[float], best: list[int], index: int) -> float:
    import math

    low, high = best[0], best[-1]
    along = math.log(costs[index] / costs[low]) / math.log(costs[high] / costs[low])
    return (scores[index] - scores[low]) / (scores[high] - scores[low]) - along


def test_no_knee_without_a_bend() -> None:
    assert knee([1.0, 2.0, 4.0], [0.1, 0.2, 0.3]) is None  # a straight line in log cost
    assert knee([1.0, 2.0, 4.0], [0.1, 0.11, 0.3]) is None  # bends down
    assert knee([1.0, 1.0, 1.0], [0.1, 0.2, 0.3]) is None


@pytest.fixture
def result() -> dict[str, Any]:
    return {
        "status": "met",
        "scores": {"validation": 0.9, "test": None, "divergence": 0.01},
        "cost": {
            "total_bytes": 100,
            "weight_bytes": 80,
            "bops": 1e9,
            "ram_bytes": 64,
            "energy_pj": None,
            "latency_ms": None,
            "cycles": None,
        },
        "reference": {"total_bytes": 800},
        "control": None,
        "trained_examples": 12,
        "seconds": 1.5,
    }


def test_a_point_and_its_line(result: dict[str, Any]) -> None:
    point = Point.of("size-8x", "8x", ["size_bytes"], "total", result, "size-6x")
    assert (point.cost, point.reduction, point.started_from) == (100.0, 8.0, "size-6x")
    assert Point.of("r", "8x", ["size_bytes"], "weights", result, "").cost == 80.0
    assert Point.of("r", "8x, 2x", ["size_bytes", "ram_bytes"], "total", result, "").costs == (100.0, 64.0)
    (row,) = csv.DictReader(io.StringIO(to_csv([point])))
    assert list(row) == [item.name for item in fields(Point)]
    assert row["test"] == ""
    assert row["validation"] == "0.9"
