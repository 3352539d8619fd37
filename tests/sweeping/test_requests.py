"""What a sweep asks for, and the names of its runs."""

from __future__ import annotations

import pytest

from sigmaquant import Budget
from sigmaquant.errors import BudgetError
from sigmaquant.sweeping.requests import requests


def test_names_are_safe_for_files() -> None:
    found = requests([Budget(energy="2 mJ", size="8x"), Budget(energy="3 mJ", size="8x")])
    assert found.swept == ("energy",)
    assert list(found.named) == ["energy-2mJ", "energy-3mJ"]
    assert found.to_dict() == {"budgets": [request.budget.to_dict() for request in found.named.values()]}


def test_two_limits_and_strategies() -> None:
    budgets = [Budget(size=size, latency=latency) for size in ("6x", "8x") for latency in ("5 ms", "9 ms")]
    found = requests(budgets, ["sigma", "ilp"])
    assert found.resources == ("size_bytes", "latency_ms")
    assert len(found.named) == 8
    assert found.named["ilp+size-8x+latency-5ms"].strategy == "ilp"
    assert found.named["ilp+size-8x+latency-5ms"].text(found.swept) == "8x, 5 ms"


def test_strategies_alone() -> None:
    found = requests([Budget(size="8x", ram="64 KB")], ["sigma", "ilp"])
    assert found.swept == ("size",)
    assert list(found.named) == ["sigma+size-8x", "ilp+size-8x"]
    assert found.to_dict()["strategies"] == ["sigma", "ilp"]


@pytest.mark.parametrize(
    ("budgets", "strategies", "words"),
    [
        ([Budget(size="8x")], [], "two or more"),
        ([Budget(size="8x")], ["ilp"], "two or more"),
        ([Budget(size="8x"), Budget(size="8x")], [], "equal"),
        ([Budget(size="8x"), Budget(size="8x")], ["ilp", "sigma"], "equal"),
        ([Budget(size="8x")], ["ilp", "ilp"], "twice"),
        ([Budget(accuracy="-1 %")], ["ilp", "sigma"], "limits none"),
        ([Budget(size="8x"), Budget(size="8 x")], [], "same size"),
        ([Budget(size="8x", bops="4x", ram="2x"), Budget(size="6x", bops="5x", ram="3x")], [], "one or two"),
        ([Budget(size="8x", accuracy="-1 %"), Budget(size="8x", accuracy="-2 %")], [], "one or two"),
        ([Budget(size="8x", bops="4x"), Budget(size="8x")], [], "has no bops"),
    ],
)
def test_budgets_that_are_no_sweep(budgets: list[Budget], strategies: list[str], words: str) -> None:
    with pytest.raises(BudgetError, match=words):
        requests(budgets, strategies)
