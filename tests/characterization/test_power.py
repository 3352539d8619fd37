"""Energy on cells with round numbers: everything can be added up by hand."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_liberty import CLOCK_GATE, tiny_library

from sigmaquant.characterization.activity import Activity, NetEdges
from sigmaquant.characterization.functional import FunctionalModel
from sigmaquant.characterization.liberty import read_liberty
from sigmaquant.characterization.netlist import Instance, Netlist
from sigmaquant.characterization.power import PowerModel
from sigmaquant.characterization.timing import analyze_timing

CLK, D, EN, Q, N, G = range(2, 8)


def gated(library):
    """A gated flip-flop and an inverter behind it."""
    instances = (
        Instance("gate", library.cells["GATE"], {"CK": CLK, "E": EN, "Z": G}),
        Instance("flop", library.cells["DFF"], {"CK": G, "D": D, "Q": Q}),
        Instance("inv", library.cells["INV"], {"A": Q, "Y": N}),
    )
    return Netlist("top", instances, {"clk": (CLK,), "d": (D,), "en": (EN,)}, {"n": (N,)})


def test_every_part_is_added_up(tiny):
    netlist = gated(tiny)
    activity = Activity(cycles=10)
    for net, edges in {D: (3, 2), EN: (1, 1), Q: (2, 1), N: (1, 2)}.items():
        activity.add_edges(net, NetEdges(*edges))
    activity.pulses[0] = 4
    activity.states[1] = np.array([[[1, 1], [1, 1]], [[1, 1], [1, 1]]])
    energy = PowerModel(netlist, tiny, analyze_timing(netlist, tiny)).energy(activity, 1000.0)
    net = 0.5 * 2.0  # fJ an edge of a net with one pin of 2 fF at 1 V
    rise, fall, clock = 4.0, 2.0, 1.0
    assert energy.combinational * 10 == pytest.approx(7 * net + 1 * rise + 2 * fall)  # D, EN, N has no load
    assert energy.sequential * 10 == pytest.approx(3 * net + 2 * rise + 1 * fall)
    gate = 20 * clock + 4 * (rise + fall)
    assert energy.clock * 10 == pytest.approx(20 * net + 8 * net + gate + 8 * clock)
    assert energy.leakage == pytest.approx(16.0 * 1000.0 * 1e-6)
    assert energy.total == pytest.approx(energy.combinational + energy.sequential + energy.clock + energy.leakage)


def states(**tables):
    """Internal power of a pin by state: when -> rise and fall [pJ]."""
    return "".join(
        f'internal_power () {{ when : "{when}"; rise_power (scalar) {{ values ("{rise}"); }}'
        f' fall_power (scalar) {{ values ("{fall}"); }} }}\n'
        for when, (rise, fall) in tables.items()
    )


def test_clock_and_data_pins_are_priced_by_their_state(tmp_path):
    by_clock = states(**{"CK": (0.1, 0.2), "!CK": (0.01, 0.02)})
    by_data = states(**{"D * Q": (1, 0), "D * !Q": (2, 0), "!D * Q": (3, 0), "!D * !Q": (4, 0)})
    text = tiny_library().replace(CLOCK_GATE, "@")
    flop = text.index("cell (DFF)")
    head, body = text[:flop], text[flop:]
    body = body.replace("pin (D) {", f"pin (D) {{ {by_clock}", 1).replace(
        "clock : true;", f"clock : true; {by_data}", 1
    )
    path = tmp_path / "tiny.lib"
    path.write_text((head + body).replace("@", CLOCK_GATE))
    library = read_liberty(path)
    netlist = gated(library)
    model = PowerModel(netlist, library, analyze_timing(netlist, library))

    def energy(**changes):
        activity = Activity(cycles=1, pulses={0: 0}, **changes)
        return model.energy(activity, 1000.0)

    quiet = energy()
    data = energy(edges={D: NetEdges(rises=5, falls=3, late_rises=2, late_falls=1)})
    charging = 8 * 1.0
    assert data.sequential - quiet.sequential == pytest.approx(3 * 100 + 2 * 10 + 2 * 200 + 1 * 20)
    assert data.combinational - quiet.combinational == pytest.approx(charging)
    counts = np.zeros((2, 2, 2), int)
    counts[0] = [[7, 5], [3, 1]]  # [next state, state]
    clocked = energy(states={1: counts})
    assert clocked.clock - quiet.clock == pytest.approx(1000 * (7 * 4 + 5 * 3 + 3 * 2 + 1 * 1))


def test_activity_counts_clocks_and_states(tiny):
    netlist = gated(tiny)
    model = FunctionalModel(netlist, 4)
    old = [0b0101]
    before = model.settle({"d": [0b0011], "en": [0b0111]}, old)
    new = model.clock(before, old)
    assert new == [0b0011]  # stream 2 takes 0, stream 3 is not clocked
    after = model.settle({"d": [0b1111], "en": [0]}, new)
    activity = Activity()
    activity.add_clocks(model, before, after, old, new)
    assert activity.pulses == {0: 3}
    # Rising edge, streams 0..2: D = 1, 1, 0 and Q = 1, 0, 1. Falling edge: D = 1, Q = 1, 1, 0.
    assert activity.states[1].tolist() == [[[0, 1], [1, 1]], [[0, 0], [1, 2]]]
