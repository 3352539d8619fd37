"""Simulation with delays: hazards by hand, and random circuits against the definition of inertial delays."""

from __future__ import annotations

import itertools
from types import MappingProxyType

import numpy as np
import pytest

from sigmaquant.characterization.activity import Activity
from sigmaquant.characterization.functional import FunctionalModel
from sigmaquant.characterization.netlist import ONE, ZERO, Instance, Netlist
from sigmaquant.characterization.timing import Timing
from sigmaquant.characterization.waveforms import WaveformSimulator
from sigmaquant.errors import CharacterizationError

CLK, A, B = 2, 3, 4
STREAMS = 64


def circuit(tiny, gates, inputs=(A, B)):
    """Gates as (kind, input nets, output net, rise, fall); delays in steps of 10 ps."""
    instances, delays = [], {}
    for number, (kind, nets, output, rise, fall) in enumerate(gates):
        cell = tiny.cells[kind]
        instances.append(Instance(f"g{number}", cell, dict(zip((*cell.inputs, "Y"), (*nets, output), strict=True))))
        delays[number, "Y"] = (10.0 * rise, 10.0 * fall)
    netlist = Netlist("top", tuple(instances), MappingProxyType({"clk": (CLK,), "in": tuple(inputs)}), {})
    return netlist, Timing(0.0, {}, {}, delays)


def edges_of(tiny, gates, before, after, inputs=(A, B)):
    """Edges of all nets when the inputs go from one row of bits to another, in every stream the same."""
    netlist, timing = circuit(tiny, gates, inputs)
    model = FunctionalModel(netlist, STREAMS)
    words = [{"in": [bit * model.ones for bit in bits]} for bits in (before, after)]
    activity = Activity()
    simulator = WaveformSimulator(netlist, timing, 10_000.0, STREAMS)
    simulator.cycle(model.settle(words[0], []), model.settle(words[1], []), activity)
    assert activity.cycles == STREAMS
    return {net: tuple(count // STREAMS for count in edges[:2]) for net, edges in activity.edges.items()}


def hazard(length: int, width: int):
    """A xor its copy that comes `length` steps later, through a gate that needs `width` steps."""
    return [("BUF", (A,), 10, length, length), ("XOR2", (A, 10), 11, width, width), ("INV", (B,), 12, 1, 1)]


@pytest.mark.parametrize(("length", "width", "pulse"), [(5, 3, 1), (5, 5, 1), (4, 5, 0), (1, 2, 0), (9, 1, 1)])
def test_glitches_count_unless_shorter_than_the_delay(tiny, length, width, pulse):
    assert edges_of(tiny, hazard(length, width), (0, 0), (1, 0)).get(11, (0, 0)) == (pulse, pulse)


def test_rise_and_fall_have_their_own_delays(tiny):
    # The pulse of 4 steps at the gate: it rises after 2, and falls 6 after its end; or it never rises.
    slow_fall = [("BUF", (A,), 10, 4, 4), ("XOR2", (A, 10), 11, 2, 6), ("INV", (B,), 12, 1, 1)]
    slow_rise = [("BUF", (A,), 10, 4, 4), ("XOR2", (A, 10), 11, 6, 2), ("INV", (B,), 12, 1, 1)]
    assert edges_of(tiny, slow_fall, (0, 0), (1, 0))[11] == (1, 1)
    assert 11 not in edges_of(tiny, slow_rise, (0, 0), (1, 0))


def test_constants_and_quiet_nets_have_no_edges(tiny):
    gates = [("NAND2", (ONE, ZERO), 10, 3, 3), ("XOR2", (10, A), 11, 2, 2), ("INV", (B,), 12, 1, 1)]
    assert edges_of(tiny, gates, (0, 1), (1, 1)) == {A: (1, 0), 11: (0, 1)}


def reference(netlist, timing, before, after, length=200):
    """Edges of every net of one stream, by the definition of an inertial delay, step by step."""
    history = 10  # steps before the clock edge, more than any delay
    waves = {ZERO: [0] * (history + length), ONE: [1] * (history + length)}
    for net in netlist.inputs["in"]:
        waves[net] = [before[net]] * (history + 1) + [after[net]] * (length - 1)  # inputs change at step 1
    for index in netlist.order:
        instance = netlist.instances[index]
        function = instance.cell.pins["Y"].function
        compute = function.compiled()
        inputs = [waves[instance.nets[name]] for name in function.names]
        raw = [compute(*bits, 1) for bits in zip(*inputs, strict=True)]
        rise, fall = (round(delay / 10) for delay in timing.delay_ps[index, "Y"])
        wave = [before[instance.nets["Y"]]] * history
        for t in range(history, history + length):
            if all(raw[t - rise : t]):
                wave.append(1)
            elif not any(raw[t - fall : t]):
                wave.append(0)
            else:
                wave.append(wave[-1])
        waves[instance.nets["Y"]] = wave
    pairs = {net: list(itertools.pairwise(wave)) for net, wave in waves.items()}
    return {net: (steps.count((0, 1)), steps.count((1, 0))) for net, steps in pairs.items()}


@pytest.mark.parametrize("seed", range(4))
def test_random_circuits_do_what_the_definition_says(tiny, seed):
    rng = np.random.default_rng(seed)
    inputs, gates = tuple(range(3, 9)), []
    for output in range(10, 60):
        kind = ["XOR2", "NAND2", "INV", "BUF"][rng.choice(4, p=[0.5, 0.3, 0.1, 0.1])]
        known = [*inputs, *range(10, output)]
        nets = tuple(int(net) for net in rng.choice(known[-12:], 2 if kind in ("XOR2", "NAND2") else 1, replace=False))
        gates.append((kind, nets, output, *(int(delay) for delay in rng.integers(1, 9, 2))))
    netlist, timing = circuit(tiny, gates, inputs)
    model = FunctionalModel(netlist, STREAMS)
    rows = [{"in": [int.from_bytes(rng.bytes(STREAMS // 8), "little") for _ in inputs]} for _ in range(2)]
    before, after = (model.settle(row, []) for row in rows)
    activity = Activity()
    WaveformSimulator(netlist, timing, 10_000.0, STREAMS).cycle(before, after, activity)
    expected = {net: np.zeros(2, int) for net in range(2, 60)}
    for stream in range(STREAMS):
        bits = [[word >> stream & 1 for word in words] for words in (before, after)]
        for net, edges in reference(netlist, timing, *bits).items():
            if net > ONE:
                expected[net] += edges
    found = {net: tuple(activity.of(net)[:2]) for net in expected}
    assert found == {net: tuple(edges) for net, edges in expected.items()}
    glitches = sum(sum(edges) for edges in found.values()) - sum(
        (before[net] ^ after[net]).bit_count() for net in expected
    )
    assert glitches > 100  # else the test would not look at any


def test_late_edges_of_register_inputs(tiny):
    gates = [("BUF", (A,), 10, 30, 30), ("BUF", (B,), 11, 3, 3)]
    netlist, timing = circuit(tiny, gates)
    flops = [Instance(f"f{net}", tiny.cells["DFF"], {"CK": CLK, "D": net, "Q": net + 10}) for net in (10, 11)]
    netlist = Netlist("top", (*netlist.instances, *flops), netlist.inputs, {})
    timing = Timing(0.0, {}, {}, {**timing.delay_ps, (2, "Q"): (10.0, 10.0), (3, "Q"): (10.0, 10.0)})
    model = FunctionalModel(netlist, STREAMS)
    old = model.settle({"in": [0, model.ones]}, model.initial())
    new = model.settle({"in": [model.ones, 0]}, model.initial())
    activity = Activity()
    WaveformSimulator(netlist, timing, 400.0, STREAMS).cycle(old, new, activity)
    assert activity.of(10) == (STREAMS, 0, STREAMS, 0)
    assert activity.of(11) == (0, STREAMS, 0, 0)


def test_a_difference_to_the_simulation_without_delays_is_an_error(tiny):
    netlist, timing = circuit(tiny, hazard(5, 3))
    model = FunctionalModel(netlist, STREAMS)
    before, after = model.settle({"in": [0, 0]}, []), model.settle({"in": [model.ones, 0]}, [])
    after[11] ^= 1
    with pytest.raises(CharacterizationError, match="net 11 does not settle"):
        WaveformSimulator(netlist, timing, 10_000.0, STREAMS).cycle(before, after, Activity())
