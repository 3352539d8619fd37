"""Costs on a profile, against numbers counted by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hardware_documents import DOCUMENT
from sigmaquant.errors import HardwareProfileError
from sigmaquant.graph import trace
from sigmaquant.graph.specs import LayerSpec
from sigmaquant.hardware.digits import digit_statistics
from sigmaquant.hardware.profile import CycleRule, HardwareProfile, load_profile
from sigmaquant.hardware.profiled import ProfiledCosts, find_entry, layer_class
from sigmaquant.numerics import mse_weight_scales, quantize_weight
from sigmaquant.plan import BitwidthPlan

MACRO = {
    "word_bits": 32,
    "read_energy_fj_per_bit": 2.0,
    "write_energy_fj_per_bit": 3.0,
    "leakage_nw": 0.0,
    "liberty_sha256": "0" * 64,
}


def profile(**compute):
    document = copy.deepcopy(DOCUMENT)
    document["compute"].update(compute)
    document["memory"] = {
        "on_chip": [
            {"macro": "small", "capacity_bytes": 64, **MACRO},
            {"macro": "big", "capacity_bytes": 4096, **MACRO},
        ],
        "dram": {"read_energy_fj_per_bit": 100.0, "source": "made up"},
        "weights_in": "dram",
    }
    document["overhead"] = {"latency_ms_per_inference": 0.5, "latency_ms_per_layer": 0.25}
    return HardwareProfile.from_dict(document)


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    return trace(
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)),
        (torch.zeros(2, 2, 4, 4),),
    )


# conv "0": 72 weights, 16 positions, 1152 MACs, 32 inputs, 64 outputs; linear "3": 320 weights and MACs, 64 in, 5 out


def plan(graph, first=2, second=8, midrise_up_to=0):
    return BitwidthPlan({"0": first, "3": second}, dict.fromkeys(graph.activation_names, 8), "", midrise_up_to)


def test_energy_latency_and_cycles_by_hand(graph):
    report = ProfiledCosts(graph, profile()).report(plan(graph))
    conv, linear = report.layers
    assert (conv.cycles, linear.cycles) == (1152 / 4 * 1.0, 320 / 4 * 4.0)
    assert conv.mac_energy_pj == pytest.approx(1152 * 10 / 1000)
    assert linear.mac_energy_pj == pytest.approx(320 * 40 / 1000)
    assert conv.dram_energy_pj == pytest.approx(72 * 2 * 100 / 1000)
    # weights are written into the chip's memory and read once; inputs are read, outputs written
    assert conv.on_chip_energy_pj == pytest.approx((72 * 2 * (2 + 3) + 32 * 8 * 2 + 64 * 8 * 3) / 1000)
    assert conv.latency_ms == pytest.approx(288 / 100e3 + 0.25)
    assert report.total.latency_ms == pytest.approx((288 + 320) / 100e3 + 2 * 0.25 + 0.5)
    assert report.total.energy_pj == pytest.approx(
        report.mac_energy_pj + report.on_chip_energy_pj + report.dram_energy_pj
    )
    assert (conv.weight_bytes, conv.scale_bytes, conv.bias_bytes) == (18, 16, 16)
    assert report.total.ram_bytes == 64 + 32
    assert not report.interpolated


def test_layers_add_up_to_the_network(graph):
    costs = ProfiledCosts(graph, profile())
    for first in (2, 5, 8):
        for second in (2, 8):
            total = costs.cost(plan(graph, first, second))
            base = costs.cost(plan(graph, 2, 2))
            for resource in ("energy_pj", "latency_ms", "bops"):
                rows = [
                    costs.layer(name, bits, plan(graph), "total")[resource]
                    - costs.layer(name, 2, plan(graph), "total")[resource]
                    for name, bits in (("0", first), ("3", second))
                ]
                assert getattr(total, resource) == pytest.approx(getattr(base, resource) + sum(rows))


def test_bitwidths_between_measured_ones_are_interpolated_and_marked(graph):
    conv, linear = ProfiledCosts(graph, profile()).report(plan(graph, 5, 8)).layers
    assert conv.interpolated
    assert not linear.interpolated
    assert conv.cycles == pytest.approx(1152 / 4 * 2.5)
    assert conv.mac_energy_pj == pytest.approx(1152 * 25 / 1000)


def test_bitwidths_outside_the_table_list_what_it_has(graph):
    narrow = profile(table=[{"w_bits": 4, "a_bits": 8, "cycles_per_mac": 1.0}])
    with pytest.raises(HardwareProfileError, match=r"layer '0': .*no entry for 2-bit weights with 8-bit.*It has w4a8"):
        ProfiledCosts(graph, narrow).cost(plan(graph))
    with pytest.raises(HardwareProfileError, match="with 4-bit activations"):
        ProfiledCosts(graph, profile()).cost(BitwidthPlan({"0": 2, "3": 2}, dict.fromkeys(graph.activation_names, 4)))


def test_real_codes_decide_digits_cycles_and_energy(graph):
    entry = {
        "a_bits": 8,
        "cycles_per_mac": 1.5,
        "energy_per_mac_fj": 10.0,
        "digits_per_mac": 1.0,
        "energy_per_digit_fj": 4.0,
    }
    rule = CycleRule(rule="digits")
    csd = profile(digits="csd", cycles={"rule": "digits"}, table=[{"w_bits": b, **entry} for b in (2, 3, 4)])
    costs, bits = ProfiledCosts(graph, csd), plan(graph, 4, 4)
    codes = {"0": torch.full((4, 2, 3, 3), 3, dtype=torch.int8), "3": torch.zeros(5, 64, dtype=torch.int8)}
    conv, linear = costs.report(bits, codes).layers
    assert (conv.digits_per_mac, linear.digits_per_mac) == (2.0, 0.0)
    assert (conv.cycles, linear.cycles) == (1152 / 4 * 2, 320 / 4 * 1)
    assert conv.mac_energy_pj == pytest.approx(1152 * 14 / 1000)
    assert linear.mac_energy_pj == pytest.approx(320 * 6 / 1000)
    # without codes: those of the float weight, rounded
    weight = graph.weight("0").detach()
    rounded = quantize_weight(weight, mse_weight_scales(weight, 4), 4)
    assert costs.report(bits).layers[0].digits_per_mac == digit_statistics(rounded, "csd", 4, rule).digits_per_mac
    # digits are paid for: no mid-rise unless asked for; then a code of 2 bits costs like one of 3
    assert costs.midrise_up_to == 0
    odd = costs.report(plan(graph, 2, 4, midrise_up_to=2)).layers[0]
    assert odd.weight_bytes == 18
    assert odd.digits_per_mac > costs.report(plan(graph, 2, 4)).layers[0].digits_per_mac


def test_layer_classes_of_a_table(graph):
    table = [
        {"w_bits": 2, "a_bits": 8, "cycles_per_mac": 3.0},
        {"w_bits": 8, "a_bits": 8, "cycles_per_mac": 3.0},
        {"layer": "linear", "w_bits": 8, "a_bits": 8, "cycles_per_mac": 7.0},
    ]
    conv, linear = ProfiledCosts(graph, profile(table=table)).report(plan(graph)).layers
    assert (conv.cycles, linear.cycles) == (1152 / 4 * 3, 320 / 4 * 7)
    assert conv.mac_energy_pj is None
    compute = profile(table=[table[2]]).compute
    with pytest.raises(HardwareProfileError, match="nothing for layers of class 'conv'"):
        find_entry(compute, "conv", 8, 8, "layer 'x'")


@pytest.mark.parametrize(
    ("kind", "shape", "groups", "found"),
    [
        ("conv2d", (8, 4, 3, 3), 1, "conv"),
        ("conv2d", (4, 1, 3, 3), 4, "depthwise"),
        ("conv2d", (8, 4, 1, 1), 1, "pointwise"),
        ("conv1d", (8, 2, 3), 2, "conv"),
        ("linear", (8, 4), 1, "linear"),
        ("parameter", (8, 4), 1, "linear"),
    ],
)
def test_classes_of_layers(kind, shape, groups, found):
    assert layer_class(LayerSpec("x", kind, "x.weight", shape, 0, groups, False, 1, (4, 8, 8), (8, 8, 8))) == found


def test_ideal_gives_bytes_bops_and_packed_memory(graph):
    cost = ProfiledCosts(graph, load_profile("ideal")).cost(
        BitwidthPlan({"0": 2, "3": 3}, dict.fromkeys(graph.activation_names, 4))
    )
    assert (cost.energy_pj, cost.latency_ms, cost.cycles) == (None, None, None)
    assert cost.weight_bytes == 18 + 120
    assert cost.bops == 1152 * 2 * 4 + 320 * 3 * 4
    assert cost.ram_bytes == (64 + 32) // 2
