"""The units' Verilog against integer arithmetic: all pairs of operands, at the level of the Verilog and of cells."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from unit_cases import all_pairs, generic, mapped, stimulus_of

from sigmaquant.characterization.expressions import parse_expression
from sigmaquant.characterization.mac_units import MAC_UNITS, find_unit, verilog
from sigmaquant.characterization.netlist import GENERIC_CELLS, ZERO
from sigmaquant.characterization.testbench import Stimulus, TestBench
from sigmaquant.errors import CharacterizationError

pytest.importorskip("pyosys", reason='needs pyosys: pip install "sigmaquant[hardware]"')

ALL = sorted(MAC_UNITS)


@pytest.mark.parametrize("name", ALL)
def test_every_pair_of_operands_at_the_level_of_the_verilog(name):
    unit = find_unit(name)
    for bits in range(2, 9):
        search_state = TestBench(generic(name), unit, all_pairs(unit, bits, 8))
        steps = len(search_state.stimulus.weights[0])
        search_state.run(steps + 1)
        assert search_state.steps >= search_state.streams * steps


@pytest.mark.parametrize("name", ALL)
def test_every_pair_of_operands_in_cells(name, tiny_path):
    unit = find_unit(name)
    for bits in (2, 3, 8):
        search_state = TestBench(mapped(name, tiny_path).netlist, unit, all_pairs(unit, bits, 8))
        steps = len(search_state.stimulus.weights[0])
        search_state.run(steps + 1)
        assert search_state.steps >= search_state.streams * steps


@pytest.mark.parametrize("name", ["int8_dot", "csd_lanes", "bit_plane_dot"])
def test_units_for_narrow_activations(name):
    unit = find_unit(name)
    search_state = TestBench(generic(name, activation_bits=4), unit, all_pairs(unit, 5, 4, streams=128))
    search_state.run(5)
    assert search_state.steps >= 512


@pytest.mark.parametrize("name", ALL)
def test_accumulators_hold_32_bits(name):
    unit = find_unit(name)
    low, high = np.full((1, 150, unit.weights_per_step(2)), -128), np.full((1, 150, 2), 127)
    search_state = TestBench(generic(name), unit, stimulus_of(unit, 8, low, high, first=0.0))
    search_state.run(149)
    assert search_state.stimulus.expected().min() <= 149 * -128 * 127 < -(1 << 21)


def test_real_layers(shared_loader):
    import torch

    from sigmaquant.characterization.stimuli import LayerSample, build_stimulus
    from sigmaquant.quant.rounding import input_vectors

    network, _ = shared_loader.network("akamaster_resnet20_cifar10")
    pixels, _ = shared_loader.cifar("test")
    x = torch.from_numpy(pixels[:2]).permute(0, 3, 1, 2).float() / 255
    samples = []

    def keep(module, arguments):
        vectors = input_vectors(module, arguments[0], 200)[0]
        samples.append(LayerSample(module.weight.detach().flatten(1), vectors))

    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    handles = [module.register_forward_pre_hook(keep) for module in convolutions[::6]]
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    assert len(samples) >= 4
    for name in ALL:
        unit = find_unit(name)
        for bits in (2, 8):
            stimulus = build_stimulus(unit, bits, 8, streams=64, steps=40, lanes=2, seed=bits, samples=samples)
            search_state = TestBench(generic(name), unit, stimulus)
            search_state.run(40)
            assert search_state.steps >= 64 * 39
            assert len(np.unique(stimulus.weights)) > 2
            assert stimulus.activations.max() > 40


@pytest.mark.parametrize("name", ALL)
def test_a_wrong_gate_is_found_and_shown(name):
    unit, netlist = find_unit(name), generic(name)
    exclusive = [index for index in netlist.order if netlist.instances[index].cell.name == "$_XOR_"]
    output = dataclasses.replace(GENERIC_CELLS["$_XOR_"].pins["Y"], function=parse_expression("!(A^B)"))
    cell = dataclasses.replace(GENERIC_CELLS["$_XOR_"], pins={**GENERIC_CELLS["$_XOR_"].pins, "Y": output})
    for index in exclusive[:: max(1, len(exclusive) // 5)][:5]:
        wrong = dataclasses.replace(netlist.instances[index], cell=cell)
        instances = (*netlist.instances[:index], wrong, *netlist.instances[index + 1 :])
        search_state = TestBench(dataclasses.replace(netlist, instances=instances), unit, all_pairs(unit, 4, 8))
        with pytest.raises(CharacterizationError, match=rf"^{name} (computes|took) .* of 4 bits"):
            search_state.run(20)


def test_a_step_of_wrong_length_is_found():
    unit = find_unit("csd_lanes")
    slow = dataclasses.replace(unit, digits="binary")
    with pytest.raises(CharacterizationError, match=r"csd_lanes took \d cycles instead of \d for the weight \["):
        TestBench(generic("csd_lanes"), slow, all_pairs(unit, 8, 8)).run(5)


def test_a_unit_that_gets_stuck_is_found():
    netlist = generic("csd_lanes")
    stuck = dataclasses.replace(netlist, outputs={**netlist.outputs, "ready": (ZERO,)})
    unit = find_unit("csd_lanes")
    with pytest.raises(CharacterizationError, match="csd_lanes does not take its operands"):
        TestBench(stuck, unit, all_pairs(unit, 2, 4)).run(3)


def test_the_expected_sums_are_plain_arithmetic():
    unit = find_unit("int8_lanes")
    weights = np.array([[[2], [-3], [5]]])
    stimulus = stimulus_of(unit, 8, weights, np.array([[[10, 1], [20, 2], [30, 3]]]))
    first = np.array([[True, False, True]])
    assert dataclasses.replace(stimulus, first=first).expected().tolist() == [[[20, 2], [-40, -4], [150, 15]]]
    dot = Stimulus(8, np.array([[[2, -3]]]), np.array([[[10, 20]]]), np.array([[True]]), np.array([0]))
    assert dot.expected().tolist() == [[[-40]]]


def test_cycles_and_digits_of_steps():
    weights = np.array([[[0], [1], [7], [-8], [5]]], np.int8)
    steps = {name: MAC_UNITS[name].step_cycles(weights, 4).tolist()[0] for name in ALL if name != "int8_dot"}
    assert steps == {
        "int8_lanes": [1] * 5,
        "shift_add_lanes": [4] * 5,
        "csd_lanes": [1, 1, 2, 1, 2],
        "booth4_lanes": [2] * 5,
        "bit_plane_dot": [4] * 5,
    }
    assert MAC_UNITS["csd_lanes"].step_digits(weights, 4).ravel().tolist() == [0, 1, 2, 1, 2]
    assert MAC_UNITS["bit_plane_dot"].step_digits(weights, 4).ravel().tolist() == [0, 1, 3, 1, 2]


def test_unknown_units_are_named():
    with pytest.raises(CharacterizationError, match=r"there is no MAC unit 'csd_lane'\. Did you mean 'csd_lanes'"):
        find_unit("csd_lane")


@pytest.mark.parametrize("name", ALL)
def test_the_verilog_says_what_a_unit_does(name):
    text = verilog(name)
    assert text.startswith("// ")
    assert f"module {name} #(" in text
