"""The whole flow: a profile from a library."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_memory import MACRO
from unit_cases import library, mapped, stimulus_of

from sigmaquant.characterization import characterize, flow, icarus
from sigmaquant.characterization.mac_units import find_unit, verilog
from sigmaquant.characterization.measurement import measure
from sigmaquant.characterization.stimuli import LayerSample, build_stimulus
from sigmaquant.errors import CharacterizationError
from sigmaquant.hardware.profile import HardwareProfile

pytest.importorskip("pyosys", reason='needs pyosys: pip install "sigmaquant[hardware]"')


@pytest.fixture
def quick(monkeypatch):
    """Fewer streams; the units keep their sixteen lanes."""
    monkeypatch.setattr(flow, "STREAMS", 64)
    monkeypatch.setattr(flow, "CYCLES", 2)
    monkeypatch.setattr(flow, "icarus_is_installed", lambda: False)


def test_a_profile_of_the_bit_plane_unit(quick, tiny_path, tmp_path):
    ram = tmp_path / "ram.lib"
    ram.write_text(MACRO)
    seen = []
    document = characterize(
        tiny_path,
        "bit_plane_dot",
        clock_mhz=10,
        weight_bits=(3, 2),
        activation_bits=(4, 8),
        sram=[ram],
        progress=lambda *step: seen.append(step),
    )
    profile = HardwareProfile.from_dict(json.loads(json.dumps(document)))
    assert [(entry.w_bits, entry.a_bits) for entry in profile.compute.table] == [(2, 4), (3, 4), (2, 8), (3, 8)]
    assert all(entry.verified and entry.vectors > 2 * 64 * 30 for entry in profile.compute.table)
    assert [entry.cycles_per_mac for entry in profile.compute.table] == [2, 3, 2, 3]
    energies = [entry.energy_per_mac_fj for entry in profile.compute.table]
    assert 0 < energies[0] < energies[1] < energies[3]
    assert energies[0] < energies[2] < energies[3]
    assert all(entry.energy_per_digit_fj > 0 for entry in profile.compute.table)
    unit = profile.compute.unit
    assert 0 < unit.sequential_area_um2 < unit.area_um2
    assert 1e5 > unit.min_period_ps > 1000
    assert profile.technology.liberty_sha256 == library(tiny_path).sha256
    assert profile.memory.on_chip[0].macro == "RAM_64x8"
    done, total = [step[1] for step in seen], {step[2] for step in seen}
    assert done == sorted(done)
    assert total == {done[-1]}
    assert "3-bit weights, 8-bit activations" in {step[0] for step in seen}


def test_real_layers_and_the_same_seed_give_the_same_profile(quick, tiny_path):
    rng = np.random.default_rng(0)
    samples = [LayerSample(rng.standard_normal((8, 40)), np.maximum(rng.standard_normal((50, 40)), 0))]
    one, two = (
        characterize(tiny_path, "bit_plane_dot", clock_mhz=10, weight_bits=(2,), samples=samples, seed=seed)
        for seed in (5, 5)
    )
    assert one == two
    assert one["method"]["stimuli"].startswith("1 layers of a network")
    assert one["method"]["command"].endswith("--clock-mhz 10 --weight-bits 2 --activation-bits 8 --seed 5")


def test_skipping_zeros_pays_and_its_slope_predicts(tiny_path):
    unit = find_unit("csd_lanes")
    results = []
    for factor in (0.0, 0.25, 1.0):
        rng = np.random.default_rng(1)
        weights = np.rint(factor * np.clip(40 * rng.standard_normal((128, 60, 1)), -127, 127))
        stimulus = stimulus_of(unit, 8, weights, rng.integers(0, 128, (128, 60, 2)), first=0.05)
        results.append(measure(mapped("csd_lanes", tiny_path), stimulus, warm_up_steps=20, cycles=3))
    zeros, narrow, wide = results
    assert zeros.digits_per_mac == 0
    assert zeros.cycles_per_mac == 1
    assert zeros.energy_per_mac_fj < 0.5 * narrow.energy_per_mac_fj < narrow.energy_per_mac_fj < wide.energy_per_mac_fj
    assert wide.cycles_per_mac == pytest.approx(np.maximum(1, unit.step_digits(stimulus.weights, 8)).mean())


def test_operands_that_do_not_change_cost_only_clocks(tiny_path):
    unit = find_unit("int8_dot")
    zeros, ones = np.zeros((64, 40, 2)), np.full((64, 40, 2), 77)
    quiet = measure(
        mapped("int8_dot", tiny_path), stimulus_of(unit, 8, zeros, ones, first=0.0), warm_up_steps=5, cycles=2
    )
    assert (quiet.energy.combinational, quiet.energy.sequential) == (0, 0)
    assert quiet.energy.clock > 0
    rng = np.random.default_rng(0)
    busy = stimulus_of(unit, 8, rng.integers(-127, 128, (64, 40, 2)), rng.integers(0, 128, (64, 40, 2)))
    assert measure(mapped("int8_dot", tiny_path), busy, warm_up_steps=5, cycles=2).energy.combinational > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unit": "csd"}, "there is no MAC unit 'csd'"),
        ({"weight_bits": (1, 2)}, "bitwidths are integers from 2 to 8"),
        ({"activation_bits": (9,)}, "bitwidths are integers from 2 to 8"),
        ({"weight_bits": ()}, "at least one"),
        ({"clock_mhz": 0}, "clock_mhz is 0; it must be positive"),
        ({"clock_mhz": 5000}, "Choose at most"),
    ],
)
def test_what_cannot_be_characterised_is_named(quick, tiny_path, arguments, message):
    chosen = {"unit": "bit_plane_dot", "clock_mhz": 10.0, "weight_bits": (2,), **arguments}
    with pytest.raises(CharacterizationError, match=message):
        characterize(tiny_path, **chosen)


def test_one_entry_of_the_open_library(quick, shared_data):
    path = shared_data / "liberty" / "sg13g2_typ.lib"
    if not path.is_file():
        pytest.skip(f"needs the open cell library: no {path}")
    document = characterize(path, "bit_plane_dot", clock_mhz=100, weight_bits=(2,))
    unit, (entry,) = document["compute"]["unit"], document["compute"]["table"]
    assert unit["area_um2"] == pytest.approx(19_300, rel=0.05)
    assert unit["min_period_ps"] == pytest.approx(6_100, rel=0.15)
    assert entry["energy_per_mac_fj"] == pytest.approx(1_600, rel=0.1)


@pytest.mark.skipif(not icarus.icarus_is_installed(), reason="needs iverilog and vvp of Icarus Verilog")
@pytest.mark.parametrize("name", ["csd_lanes", "bit_plane_dot"])
def test_icarus_verilog_agrees(monkeypatch, tiny_path, name):
    unit = mapped(name, tiny_path)
    stimulus = build_stimulus(unit.unit, 5, 8, streams=64, steps=40, lanes=2, seed=1)
    check = icarus.cross_check(unit, stimulus, warm_up_steps=2, cycles=30, resolution_ps=10.0)
    assert check.edges == pytest.approx(check.icarus_edges, rel=0.002)
    assert "all outputs of the Verilog and of the mapped netlist equal in 30 cycles" in check.sentence()
    monkeypatch.setattr(icarus, "verilog", lambda file: verilog(file).replace("sum <= next", "sum <= ~next"))
    with pytest.raises(CharacterizationError, match="Icarus Verilog has ready and acc"):
        icarus.cross_check(unit, stimulus, warm_up_steps=2, cycles=4)


def test_without_icarus_verilog_it_is_not_asked(monkeypatch):
    monkeypatch.setattr(icarus.shutil, "which", lambda program: None)
    assert not icarus.icarus_is_installed()
