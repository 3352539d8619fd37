"""Budgets and costs: golden numbers, violations, and every message."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigmaquant.budget import RESOURCES, Budget, Cost, Limits
from sigmaquant.errors import BudgetError, UnitsError
from sigmaquant.units import Ratio, parse_size

COST = Cost(1000, 200, 50, bops=4e6, ram_bytes=512, energy_pj=7e6, latency_ms=3.5, cycles=9e5, macs=500)
FLOAT = Cost(8000, 0, 400, bops=64e6, ram_bytes=2048, energy_pj=7e7, latency_ms=35.0)
BARE = Cost(1000, 200, 50)


def test_cost_quantities() -> None:
    assert COST.total_bytes == 1250
    assert COST.resource("size_bytes") == 1250.0
    assert COST.resource("size_bytes", "weights") == 1000.0
    assert [COST.resource(name) for name in RESOURCES] == [1250.0, 7e6, 3.5, 4e6, 500.0, 512.0, None]
    assert BARE.resource("energy_pj") is None
    assert COST.to_dict() == {
        "weight_bytes": 1000, "scale_bytes": 200, "other_bytes": 50, "bops": 4e6, "ram_bytes": 512, "energy_pj": 7e6,
        "latency_ms": 3.5, "cycles": 9e5, "macs": 500, "total_bytes": 1250,
    }  # fmt: skip


def test_absolute_limits() -> None:
    budget = Budget(size="1.25 KB", energy="7 uJ", latency="3.5 ms", bops="4M", ram="512 B", accuracy="90 %")
    limits = budget.resolve(FLOAT, 0.95)
    assert limits.upper == pytest.approx(
        {"size_bytes": 1250, "energy_pj": 7e6, "latency_ms": 3.5, "bops": 4e6, "ram_bytes": 512}
    )
    assert limits.accuracy_floor == 0.9
    assert limits.violations(COST, 0.9) == {}
    assert set(limits.ratios(COST).values()) == {1.0}


def test_reductions_divide_the_float_model() -> None:
    limits = Budget(size="8x", energy="10x", latency="10x", bops="16x", ram="4x").resolve(FLOAT, None)
    assert limits.upper == {
        "size_bytes": 1050.0, "energy_pj": 7e6, "latency_ms": 3.5, "bops": 4e6, "ram_bytes": 512.0,
    }  # fmt: skip
    assert limits.accuracy_floor is None
    weights = Budget(size="8x", size_counts="weights").resolve(FLOAT, None)
    assert weights.upper == {"size_bytes": 1000.0}
    assert weights.ratios(COST) == {"size_bytes": 1.0}


def test_accuracy_drop() -> None:
    assert Budget(accuracy="-1 %").resolve(FLOAT, 0.9173).accuracy_floor == pytest.approx(0.9073)
    assert Budget(accuracy=0.5).resolve(FLOAT, None).accuracy_floor == 0.5


def test_violations_and_binding() -> None:
    limits = Limits({"size_bytes": 1000.0, "bops": 2e6, "energy_pj": 1e9}, accuracy_floor=0.8)
    assert limits.violations(COST, 0.6) == pytest.approx({"size_bytes": 0.25, "bops": 1.0, "accuracy": 0.25})
    assert limits.violations(COST) == pytest.approx({"size_bytes": 0.25, "bops": 1.0})
    assert limits.binding(COST) == "bops"
    assert Limits({}).binding(COST) is None
    tie = Limits({"size_bytes": 1250.0, "bops": 4e6})
    assert tie.binding(COST) == "size_bytes"


@given(
    upper=st.dictionaries(st.sampled_from(RESOURCES[:-1]), st.floats(1e-3, 1e12), min_size=1),
    accuracy=st.none() | st.floats(0, 1),
    floor=st.none() | st.floats(0, 1),
)
def test_violations_agree_with_the_limits(upper: dict[str, float], accuracy: float | None, floor: float | None) -> None:
    limits = Limits(upper, floor)
    broken = limits.violations(COST, accuracy)
    assert all(value > 0 and math.isfinite(value) for value in broken.values())
    for name, limit in upper.items():
        value = COST.resource(name)
        assert value is not None
        assert (name in broken) == (value / limit > 1)
    assert ("accuracy" in broken) == (floor is not None and accuracy is not None and accuracy < floor)
    assert limits.binding(COST) in upper


def test_a_size_can_be_that_of_a_file() -> None:
    cost = replace(COST, file_bytes=3000, flash_bytes=9000)
    assert cost.resource("size_bytes", "litert") == 3000.0
    assert COST.resource("size_bytes", "litert") is None
    budget = Budget(size=2500, flash="8 KB", size_counts="litert")
    assert budget.resolve(COST, None).violations(cost) == pytest.approx({"size_bytes": 0.2, "flash_bytes": 0.125})
    assert cost.to_dict()["file_bytes"] == 3000
    assert "file_bytes" not in COST.to_dict()


def test_what_a_profile_does_not_give() -> None:
    with pytest.raises(
        BudgetError, match=r"limits the energy, which this hardware profile does not give\. Choose a prof"
    ):
        Limits({"energy_pj": 1.0}).ratios(BARE)
    with pytest.raises(BudgetError, match=r"asks for a 4x reduction of the latency, .* Give an absolute limit"):
        Budget(latency="4x").resolve(BARE, None)
    with pytest.raises(BudgetError, match="needs the float network's accuracy, but it was not measured"):
        Budget(accuracy="-1 %").resolve(BARE, None)


def test_malformed_budgets() -> None:
    with pytest.raises(BudgetError, match=r"the budget is empty\. Give at least one limit, such as size='8x'"):
        Budget()
    with pytest.raises(BudgetError, match=r"size_counts must be 'total', 'weights' or a kind of file .*, not 'all'"):
        Budget(size="8x", size_counts="all")  # type: ignore[arg-type]
    for options in ({"size": "big"}, {"energy": "3"}, {"latency": "3"}, {"bops": "x"}, {"ram": 0}, {"accuracy": "no"}):
        with pytest.raises(UnitsError):
            Budget(**options)  # type: ignore[arg-type]


def test_equality_hash_and_repr() -> None:
    a, b = Budget(size="8x", accuracy="-1 %"), Budget(size="8x", accuracy="-1 %")
    assert a == b
    assert hash(a) == hash(b)
    assert a != Budget(size="8x")
    assert a != Budget(size="8x", accuracy="-1 %", size_counts="weights")
    assert a != "8x"
    assert repr(a) == "Budget(size='8x', accuracy='-1 %')"
    assert repr(Budget(size=5, size_counts="weights")) == "Budget(size=5, size_counts='weights')"


@given(
    size=st.none() | st.integers(1, 10**9) | st.sampled_from(["8x", "180 KB"]),
    energy=st.none() | st.sampled_from(["2 mJ", "3x"]),
    accuracy=st.none() | st.floats(0, 1) | st.just("-1 %"),
    size_counts=st.sampled_from(["total", "weights"]),
)
def test_dictionary_round_trip(**options: object) -> None:
    if all(options[name] is None for name in ("size", "energy", "accuracy")):
        return
    budget = Budget(**options)  # type: ignore[arg-type]
    assert Budget(**budget.to_dict()) == budget
    assert eval(repr(budget)) == budget
    assert budget.resolve(FLOAT, 0.9) == Budget(**budget.to_dict()).resolve(FLOAT, 0.9)
    size = options["size"]
    if size is not None:
        expected = parse_size(size)  # type: ignore[arg-type]
        limit = budget.resolve(FLOAT, 0.9).upper["size_bytes"]
        reference = FLOAT.resource("size_bytes", budget.size_counts)
        assert reference is not None
        assert limit == (reference / expected.factor if isinstance(expected, Ratio) else expected)


def test_numpys_numbers_are_written_as_pythons() -> None:
    budget = Budget(size=np.int64(500), accuracy=np.float32(0.5))
    assert json.dumps(budget.to_dict()) == '{"size": 500, "accuracy": 0.5, "size_counts": "total"}'
    assert budget == Budget(size=500, accuracy=0.5)
