"""Static timing on cells with constant delays: everything can be added up by hand."""

from __future__ import annotations

import pytest
from tiny_liberty import with_first_delay

from sigmaquant.characterization.liberty import read_liberty
from sigmaquant.characterization.netlist import Instance, Netlist
from sigmaquant.characterization.timing import analyze_timing

CLK, D, Q, N1, N2, OTHER = range(2, 8)


def chain(library, *more):
    cells = library.cells
    instances = (
        Instance("from", cells["DFF"], {"CK": CLK, "D": D, "Q": Q}),
        Instance("one", cells["INV"], {"A": Q, "Y": N1}),
        Instance("two", cells["XOR2"], {"A": N1, "B": Q, "Y": N2}),
        Instance("to", cells["DFF"], {"CK": CLK, "D": N2, "Q": OTHER}),
        *more,
    )
    return Netlist("top", instances, {"clk": (CLK,), "d": (D,)}, {"q": (OTHER,)})


def test_the_period_is_the_longest_path_with_its_setup_time(tiny):
    timing = analyze_timing(chain(tiny), tiny)
    assert timing.min_period_ps == pytest.approx(100 + 100 + 100 + 30)
    assert timing.load_ff[Q] == pytest.approx(4.0)
    assert timing.load_ff[OTHER] == 0.0
    assert timing.delay_ps[1, "Y"] == pytest.approx((100, 100))
    assert timing.slew_ps[N2] == pytest.approx((50, 50))


def test_clock_gates_have_setup_times_too(tiny):
    gate = Instance("gate", tiny.cells["GATE"], {"CK": CLK, "E": 20, "Z": 21})
    slow = [Instance(f"slow{k}", tiny.cells["BUF"], {"A": net, "Y": 17 + k}) for k, net in enumerate((N2, 17, 18, 19))]
    flop = Instance("gated", tiny.cells["DFF"], {"CK": 21, "D": D, "Q": 22})
    timing = analyze_timing(chain(tiny, gate, *slow, flop), tiny)
    assert timing.min_period_ps == pytest.approx(100 + 6 * 100 + 30)


def test_unate_arcs_do_not_mix_edges(tmp_path):
    slow_rise = with_first_delay('"0.5, 0.5", "0.5, 0.5"')
    sensed = slow_rise.replace("timing_sense : non_unate", "timing_sense : negative_unate", 1)
    periods = []
    for content in (slow_rise, sensed):
        path = tmp_path / "tiny.lib"
        path.write_text(content)
        library = read_liberty(path)
        instances = (
            Instance("a", library.cells["INV"], {"A": Q, "Y": N1}),
            Instance("b", library.cells["INV"], {"A": N1, "Y": N2}),
            Instance("from", library.cells["DFF"], {"CK": CLK, "D": D, "Q": Q}),
            Instance("to", library.cells["DFF"], {"CK": CLK, "D": N2, "Q": OTHER}),
        )
        netlist = Netlist("top", instances, {"clk": (CLK,), "d": (D,)}, {})
        periods.append(analyze_timing(netlist, library).min_period_ps)
    # Inverters never rise one after the other: 500 + 100, where an arc that may do either adds 500 + 500.
    assert periods == pytest.approx([100 + 1000 + 30, 100 + 600 + 30])
