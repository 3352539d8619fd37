"""Budgets in energy, latency and memory drive the search."""

from __future__ import annotations

import copy

import pytest

import tiny
from hardware_documents import DOCUMENT
from sigmaquant import Budget, HardwareProfile
from sigmaquant.errors import UnreachableBudgetError


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
