"""Widths of activations under limits that are no sums over tensors."""

from __future__ import annotations

from sigmaquant.budget import Cost, Limits
from sigmaquant.plan import BitwidthPlan
from sigmaquant.search.activation_widths import choose_activation_widths

MACS = {"a": 100, "b": 100, "c": 300}
READS = {"a": "x", "b": "y", "c": "y"}
WIDTHS = (4, 5, 6, 7, 8)
CHOICES = {"in": (8,), "x": WIDTHS, "y": WIDTHS}
WEIGHTS = dict.fromkeys(MACS, (2, 4, 8))
PLAN = BitwidthPlan(dict.fromkeys(MACS, 8), dict.fromkeys(CHOICES, 8))


def harm(scale: float, widths: tuple[int, ...]) -> dict[int, float]:
    return {bits: scale * 4.0**-bits for bits in widths}


def bops(plan: BitwidthPlan) -> float:
    return float(sum(MACS[name] * plan.weights[name] * plan.activations[READS[name]] for name in MACS))


def peak(plan: BitwidthPlan) -> int:
    """Two moments that are equally full: neither tensor alone lowers the peak."""
    return max(100 * plan.activations["x"], 100 * plan.activations["y"], 200) // 8


def cost(plan: BitwidthPlan) -> Cost:
    return Cost(0, 0, 0, bops=bops(plan), ram_bytes=peak(plan))


def chosen(limits: dict[str, float], x: float = 1.0, y: float = 1.0, weight: float = 1.0) -> BitwidthPlan:
    tables = {"x": harm(x, WIDTHS), "y": harm(y, WIDTHS), "in": harm(1, (8,))}
    weights = {name: harm(weight, (2, 4, 8)) for name in MACS}
    return choose_activation_widths(cost, Limits(limits), PLAN, WEIGHTS, CHOICES, weights, tables)


def test_without_need_nothing_is_lowered() -> None:
    assert dict(chosen({"bops": bops(PLAN)}).activations) == dict(PLAN.activations)


def test_what_hurts_less_is_lowered_first() -> None:
    found = chosen({"bops": 0.8 * bops(PLAN)}, x=1000.0, y=0.01, weight=1e6)
    assert found.activations["y"] < found.activations["x"] == 8
    assert set(found.weights.values()) == {8}
    assert bops(found) <= 0.8 * bops(PLAN)
    higher = found.with_activations({"y": found.activations["y"] + 1})
    assert bops(higher) > 0.8 * bops(PLAN)  # what still fits has been given back


def test_weights_that_hurt_less_go_instead() -> None:
    found = chosen({"bops": 0.5 * bops(PLAN)}, x=1e6, y=1e6, weight=1e-3)
    assert set(found.activations.values()) == {8}
    assert bops(found) <= 0.5 * bops(PLAN)


def test_a_peak_that_two_tensors_share_falls() -> None:
    found = chosen({"ram_bytes": 0.75 * peak(PLAN)})
    assert peak(found) <= 0.75 * peak(PLAN)
    assert dict(found.activations) == {"in": 8, "x": 6, "y": 6}
    assert set(found.weights.values()) == {8}  # they are given back: they save no memory


def test_where_nothing_fits_all_are_at_their_lowest() -> None:
    found = chosen({"bops": 1.0})
    assert dict(found.activations) == {"in": 8, "x": 4, "y": 4}
