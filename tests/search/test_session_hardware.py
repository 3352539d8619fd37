"""Budgets in energy, latency and memory drive the search."""

from __future__ import annotations

import copy

import pytest
from driver_cases import graph

import tiny
from hardware_documents import DOCUMENT
from sigmaquant import BitwidthPlan, Budget, HardwareProfile
from sigmaquant.errors import UnreachableBudgetError
from sigmaquant.hardware.profiled import ProfiledCosts


def profile(**compute):
    document = copy.deepcopy(DOCUMENT)
    document["compute"].update(
        table=[
            {
                "w_bits": bits,
                "a_bits": 8,
                "cycles_per_mac": float(bits),
                "energy_per_mac_fj": 10.0 * bits,
                "digits_per_mac": bits / 4,
                "energy_per_digit_fj": 30.0,
            }
            for bits in range(2, 9)
        ],
        **compute,
    )
    return HardwareProfile.from_dict(document)


def run(hardware, budget, **options):
    return tiny.run(budget, hardware=hardware, post_training=True, **options)


@pytest.mark.parametrize("compute", [{}, {"digits": "csd", "cycles": {"rule": "digits"}}])
def test_energy_and_latency_are_met_on_the_real_codes(compute):
    hardware = profile(**compute)
    whole = run(hardware, Budget(size="3x", size_counts="weights")).cost
    for name in ("energy", "latency"):
        unit, value = ("pJ", whole.energy_pj) if name == "energy" else ("ms", whole.latency_ms)
        result = run(hardware, Budget(**{name: f"{0.7 * value:.9f} {unit}"}))
        assert result.met, result.violations
        found = result.cost.energy_pj if name == "energy" else result.cost.latency_ms
        assert 0.4 * value < found <= 0.7 * value


def test_a_plan_within_the_reserve_is_made_cheaper_before_it_is_made_better(tmp_path):
    """What rounding adds later is kept free, and moves are measured by the same limits as they are proposed for."""
    hardware = profile(digits="csd", cycles={"rule": "digits"})
    plain = run(hardware, Budget(size="3x", size_counts="weights"), rounding="nearest")
    energy = plain.cost.energy_pj
    result = run(
        hardware, Budget(energy=f"{energy * 1.005:.9f} pJ"), run_dir=tmp_path / "r", rounding="nearest", max_cycles=12
    )
    steps = [step for step in tiny.trajectory(tmp_path / "r") if step["stage"] != "final"]
    aims = steps[0]["held_to"]["energy_pj"]
    assert 0.97 * steps[0]["limits"]["energy_pj"] < aims < 0.98 * steps[0]["limits"]["energy_pj"]
    for step in steps:
        assert ("energy_pj" in step["violations"]) == (step["cost"]["energy_pj"] > aims)
    assert [step for step in steps if step["accepted"]][-1]["cost"]["energy_pj"] <= aims
    assert result.met


def test_the_binding_constraint_decides():
    hardware = profile()
    loose = run(hardware, Budget(size="4x", size_counts="weights"))
    tight = run(hardware, Budget(size="4x", size_counts="weights", energy=f"{0.75 * loose.cost.energy_pj:.6f} pJ"))
    assert tight.met
    assert tight.cost.energy_pj <= 0.75 * loose.cost.energy_pj
    assert tight.cost.weight_bytes <= loose.limits["size_bytes"]


def test_impossible_budgets_are_told_before_anything_slow():
    hardware = profile()
    with pytest.raises(UnreachableBudgetError, match="smallest reachable energy"):
        run(hardware, Budget(energy="1 pJ"))
    with pytest.raises(UnreachableBudgetError, match="no weight bitwidth changes it"):
        run(hardware, Budget(ram="100 B"))


def test_a_run_does_without_a_control_where_no_single_bitwidth_fits(tmp_path):
    document = copy.deepcopy(DOCUMENT)
    document["compute"]["table"] = [  # whatever has to be unpacked is slow
        {"w_bits": bits, "a_bits": 8, "cycles_per_mac": 1.0 if bits == 8 else 4.0} for bits in range(2, 9)
    ]
    hardware = HardwareProfile.from_dict(document)
    mixed = BitwidthPlan({"0": 8, "3": 8, "5": 2, "9": 2}, dict.fromkeys(graph().activation_names, 8))
    cost = ProfiledCosts(graph(), hardware).cost(mixed)
    budget = Budget(size=cost.weight_bytes, size_counts="weights", latency=f"{1.01 * cost.latency_ms:.9f} ms")
    result = run(hardware, budget, strategy="ilp", control=True, run_dir=tmp_path / "run")
    assert result.met
    assert result.control is None
    assert any("no uniform control" in note for note in result.notes)
    assert (tmp_path / "run" / "result.json").exists()
