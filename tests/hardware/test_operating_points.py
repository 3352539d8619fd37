"""Costs and limits at a device's operating points, against numbers counted by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tiny
from hardware_documents import DOCUMENT
from sigmaquant import Budget, quantize
from sigmaquant.errors import BudgetError, HardwareProfileError, UnreachableBudgetError
from sigmaquant.graph import trace
from sigmaquant.hardware.profile import HardwareProfile
from sigmaquant.hardware.profiled import ProfiledCosts
from sigmaquant.plan import BitwidthPlan
from sigmaquant.runs import RunFiles

FAST = {"name": "fast", "clock_mhz": 200.0, "energy_factor": 1.5, "source": "made up"}
SLOW = {"name": "slow", "clock_mhz": 25.0, "energy_factor": 0.5, "source": "made up"}


def document(*points: dict[str, Any]) -> dict[str, Any]:
    found = copy.deepcopy(DOCUMENT)
    found["operating_points"] = list(points)
    return found


def test_time_scales_with_the_clock_and_external_memory_keeps_its_energy() -> None:
    found = document(FAST)
    found["memory"] = {"dram": {"read_energy_fj_per_bit": 100.0, "source": "made up"}, "weights_in": "dram"}
    torch.manual_seed(0)
    graph = trace(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), (torch.zeros(2, 1, 4, 4),))
    plan = BitwidthPlan({"1": 8}, dict.fromkeys(graph.activation_names, 8), "", 0)
    costs = ProfiledCosts(graph, HardwareProfile.from_dict(found))
    total = costs.cost(plan)
    # 64 MACs of 40 fJ; 64 weights of 8 bits from outside
    assert total.energy_pj == pytest.approx(64 * 0.040 + 64 * 8 * 0.1)
    assert total.resource("energy_pj@fast") == pytest.approx(1.5 * 64 * 0.040 + 64 * 8 * 0.1)
    assert total.latency_ms == pytest.approx(64 / 4 * 4 / 100e3)
    assert total.resource("latency_ms@fast") == pytest.approx(total.latency_ms / 2)
    added = costs.layer("1", 8, plan, "total")
    assert added["latency_ms@fast"] == pytest.approx(added["latency_ms"] / 2)
    assert total.resource("latency_ms@unheard") is None


def test_voltage_in_place_of_a_factor() -> None:
    point = {"name": "low", "clock_mhz": 50.0, "voltage_v": 0.9, "source": "made up"}
    with pytest.raises(HardwareProfileError, match="technology"):
        HardwareProfile.from_dict(document(point))
    technology = {"library": "l", "voltage_v": 1.2, "corner": "c", "liberty_sha256": "0" * 64, "layout": "pre-layout"}
    profile = HardwareProfile.from_dict({**document(point), "technology": technology})
    assert profile.energy_factor(profile.operating_points[0]) == pytest.approx(0.5625)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([FAST, FAST], "twice"),
        ([{**FAST, "voltage_v": 1.0}], "either"),
        ([{"name": "fast", "clock_mhz": 1.0, "source": "s"}], "either"),
        ([{**FAST, "name": "a b"}], "pattern"),
        ([{**FAST, "clock_mhz": 0}], "greater"),
    ],
)
def test_points_that_cannot_be(points: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(HardwareProfileError, match=words):
        HardwareProfile.from_dict(document(*points))


def test_a_profile_without_points_is_written_as_before() -> None:
    assert "operating_points" not in HardwareProfile.from_dict(DOCUMENT).to_dict()
    profile = HardwareProfile.from_dict(document(FAST, SLOW))
    assert HardwareProfile.from_dict(profile.to_dict()) == profile


def test_limits_name_their_point() -> None:
    budget = Budget(latency="5 ms @ fast and 40 ms @slow", energy="2 uJ")
    assert budget.limited == ("energy_pj", "latency_ms@fast", "latency_ms@slow")
    with pytest.raises(BudgetError, match="after the @"):
        Budget(latency="5 ms @")
    with pytest.raises(BudgetError, match="twice"):
        Budget(latency="5 ms @ fast and 6 ms @ fast")


def test_a_run_keeps_the_limits_of_both_points(tmp_path: Path) -> None:
    profile = HardwareProfile.from_dict(document(FAST, SLOW))
    options = {"validation_data": tiny.validation_data(), **tiny.QUICK, "post_training": True, "hardware": profile}
    free = quantize(tiny.trained(), tiny.train_data(), budget=Budget(size="4x"), **options)
    fast, slow = (free.cost.resource(f"latency_ms@{name}") for name in ("fast", "slow"))
    assert fast is not None
    assert slow == pytest.approx(8 * fast)
    limits = f"{0.8 * fast} ms @ fast and {slow} ms @ slow"
    budget = Budget(latency=limits)
    found = quantize(tiny.trained(), tiny.train_data(), budget=budget, run_dir=tmp_path / "r", **options)
    assert found.met
    assert (found.cost.resource("latency_ms@fast") or 1) <= 0.8 * fast
    written = RunFiles(tmp_path / "r").read_result()
    assert set(written["limits"]) == {"latency_ms@fast", "latency_ms@slow"}
    assert [point["name"] for point in written["cost"]["operating_points"]] == ["fast", "slow"]
    with pytest.raises(UnreachableBudgetError, match="latency at fast"):
        quantize(tiny.trained(), tiny.train_data(), budget=Budget(latency=f"{fast / 9} ms @ fast"), **options)
    with pytest.raises(BudgetError, match="its operating points: fast, slow"):
        quantize(tiny.trained(), tiny.train_data(), budget=Budget(latency="1 ms @ turbo"), **options)
