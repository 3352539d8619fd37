"""``layers.json``: what it says of a quantized network is what the network is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import report_cases
import torch

import tiny
from sigmaquant import Budget
from sigmaquant.errors import ModelError, RunDirectoryError
from sigmaquant.graph import trace
from sigmaquant.hardware.profile import HardwareProfile, load_profile
from sigmaquant.hardware.profiled import ProfiledCosts
from sigmaquant.numerics import mse_weight_scales, quantize_weight
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import QuantizedNetwork, calibrate_, prepare, set_plan_
from sigmaquant.report import describe_layers
from sigmaquant.report.histogram import bins_per_step, weight_histograms
from sigmaquant.report.layer_records import read_layers
from sigmaquant.statistics import divergences, layer_sigmas


@pytest.fixture(scope="module")
def network() -> QuantizedNetwork:
    """The tiny network at 2, 4, 8 and 3 bits; its weights have moved."""
    inputs, _ = tiny.train_data()
    graph = trace(tiny.trained(), (inputs[:2],))
    quantized = prepare(graph)
    bits = dict(zip(graph.layer, (2, 4, 8, 3), strict=True))
    with torch.no_grad():
        for name in graph.layer:
            quantized.weight(name).mul_(1.05)
    set_plan_(quantized, BitwidthPlan(bits, dict.fromkeys(graph.activation_names, 8), graph.fingerprint, 2))
    calibrate_(quantized, [inputs[:50]])
    return quantized


def test_layers_are_described_as_they_are(network: QuantizedNetwork) -> None:
    graph = network.graph
    costs = ProfiledCosts(graph, load_profile("shift-add-csd-sg13g2"))
    found = describe_layers(network, costs, "folded")
    sigmas, table = layer_sigmas(graph, "folded"), divergences(graph, range(2, 9), 2)
    assert network.plan is not None
    report = costs.report(network.plan, {name: network.codes(name) for name in graph.layer})
    assert found.sigma == "folded"
    assert found.notes == ()
    assert [record.name for record in found.layers] == list(graph.layer)
    for record, row in zip(found.layers, report.layers, strict=True):
        spec = graph.layer[record.name]
        assert record.bits == network.plan.weights[record.name]
        assert record.midrise == (record.bits == 2)
        assert (record.weight_shape, record.macs, record.elements) == (spec.weight_shape, spec.macs, spec.elements)
        assert record.sigma == sigmas[record.name]
        assert record.divergence == table[record.name]
        assert record.cost.energy_pj == row.energy_pj
        assert record.cost.cycles == row.cycles
        assert record.float32.weight_bytes == 4 * spec.elements
        assert record.reference is not None
        assert record.reference.weight_bytes == spec.elements
    whole = costs.reference()
    stored = sum(record.float32.weight_bytes + record.float32.bias_bytes for record in found.layers)
    assert stored == whole.total_bytes
    assert found.reference_total is not None
    assert found.reference_total["weight_bytes"] == sum(spec.elements for spec in graph.layers)


def test_histograms_count_every_weight(network: QuantizedNetwork) -> None:
    found = describe_layers(network, ProfiledCosts(network.graph, load_profile("ideal")))
    for record in found.layers:
        histogram, codes = record.histogram, network.codes(record.name).to(torch.int64)
        assert sum(histogram.float_weights) == record.elements
        assert histogram.trained is not None
        assert sum(histogram.trained) == record.elements
        spacing = 2 if record.midrise else 1
        values = codes.unique(return_counts=True)
        expected = {int(code) / spacing: int(count) for code, count in zip(*values, strict=True)}
        on_levels = {histogram.first_level + i: count for i, count in enumerate(histogram.levels) if count}
        assert on_levels == expected
        assert len(histogram.levels) == 2**record.bits - (not record.midrise)
        assert record.reference is None, "the ideal profile gives no more than float32 has"


@pytest.mark.parametrize(("bits", "midrise"), [(2, True), (2, False), (3, True), (4, False), (6, False), (8, False)])
@pytest.mark.parametrize("axis", [0, 1])
def test_bins_round_to_the_levels_between_them(bits: int, midrise: bool, axis: int) -> None:
    """The bins within half a step of a level hold exactly the weights that round to it."""
    weight = torch.randn(6, 5, 7, generator=torch.Generator().manual_seed(bits))
    scale = mse_weight_scales(weight, bits, axis, midrise=midrise)
    codes = quantize_weight(weight, scale, bits, axis, midrise)
    found = weight_histograms(weight, weight, codes, scale, bits=bits, axis=axis, midrise=midrise)
    per_step = bins_per_step(bits)
    start = round((found.first_level - 0.5 - found.first) / found.width)
    for number, count in enumerate(found.levels):
        first = start + number * per_step
        last = first + per_step
        if number == 0:
            first = 0  # what is clipped rounds to the outermost level
        if number == len(found.levels) - 1:
            last = len(found.float_weights)
        assert sum(found.float_weights[first:last]) == count
    outer = sum(found.float_weights[:start]) + sum(found.float_weights[start + per_step * len(found.levels) :])
    assert outer == found.clipped


def test_weights_that_lie_on_their_levels_have_no_second_histogram() -> None:
    weight = torch.tensor([[0.9, -1.2, 0.1]])
    codes, scale = torch.tensor([[1, -1, 0]], dtype=torch.int8), torch.tensor([0.5])
    found = weight_histograms(weight, codes.float() * 0.5, codes, scale, bits=2)
    assert found.trained is None
    assert found.levels == (1, 1, 1)
    assert found.clipped == 2  # 1.8 and -2.4 steps


def test_what_the_profile_lacks_at_8_bits_is_said(network: QuantizedNetwork) -> None:
    profile = load_profile("int8-sg13g2").to_dict()
    entries = profile["compute"]["table"]
    profile["compute"]["table"] = [{**entry, "a_bits": 6} for entry in entries if entry["a_bits"] == 8]
    graph = network.graph
    low = prepare(graph)
    set_plan_(low, BitwidthPlan(dict.fromkeys(graph.layer, 8), dict.fromkeys(graph.activation_names, 6), "", 0))
    found = describe_layers(low, ProfiledCosts(graph, HardwareProfile.from_dict(profile)))
    assert found.reference_bits is None
    assert found.layers[0].reference is None
    assert "no costs at 8 bits to compare with: layer '0': the hardware profile has no entry" in found.notes[0]


def test_a_variant_of_sigma_that_cannot_be_had_is_told(
    network: QuantizedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(graph: object, variant: str = "raw") -> dict[str, float]:
        if variant != "raw":
            raise ModelError("no statistics")
        return dict.fromkeys(network.graph.layer, 1.0)

    monkeypatch.setattr("sigmaquant.report.layer_records.layer_sigmas", fails)
    found = describe_layers(network, ProfiledCosts(network.graph, load_profile("ideal")), "folded")
    assert (found.sigma, found.notes) == ("raw", ("σ is raw, not folded: no statistics",))


def test_a_run_writes_it_and_it_is_read_back(tmp_path: Path) -> None:
    budget = Budget(size="8x", accuracy="-2 %")
    result = tiny.run(budget, run_dir=tmp_path / "run", hardware="cortex-m4", post_training=True)
    found = read_layers(tmp_path / "run" / "layers.json")
    assert {record.name: record.bits for record in found.layers} == dict(result.plan.weights)
    assert found.hardware == "cortex-m4"
    latency = [record.cost.latency_ms for record in found.layers]
    assert result.cost.latency_ms is not None
    assert None not in latency
    assert sum(value for value in latency if value) == pytest.approx(result.cost.latency_ms)
    assert all(record.histogram.trained is None for record in found.layers), "nothing was trained after rounding"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "other"}, "its schema is not 'sigmaquant.layers'"),
        ({"version": 9}, "has version 9, this program reads 1. Update sigmaquant"),
        ({"sigma": None}, "at 'sigma': input should be a valid string"),
        ({"more": 1}, "at 'more': extra inputs are not permitted"),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = report_cases.write_run(tmp_path / "run") / "layers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RunDirectoryError, match=message):
        read_layers(path)
