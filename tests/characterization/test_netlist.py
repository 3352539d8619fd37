"""Netlists: clocks, order, buffers, and what cannot be simulated."""

from __future__ import annotations

import pytest

from sigmaquant.characterization.netlist import GENERIC_CELLS, ONE, ZERO, Netlist, insert_buffers, read_netlist
from sigmaquant.errors import CharacterizationError

CLK, A, B, N, Q, G, Q2 = range(2, 9)


def document(**cells):
    ports = {
        "clk": {"direction": "input", "bits": [CLK]},
        "a": {"direction": "input", "bits": [A, B]},
        "q": {"direction": "output", "bits": [Q, "1", "x"]},
    }
    entries = {
        name: {"type": kind, "connections": {p: [n] for p, n in nets.items()}} for name, (kind, nets) in cells.items()
    }
    return {"modules": {"top": {"cells": entries, "ports": ports}}}


LOGIC = {
    "late": ("INV", {"A": N, "Y": Q2}),
    "nand": ("NAND2", {"A": A, "B": B, "Y": N}),
    "flop": ("DFF", {"CK": G, "D": N, "Q": Q}),
    "gate": ("GATE", {"CK": CLK, "E": B, "Z": G}),
}


def test_ports_clocks_order_and_sums(tiny):
    netlist = read_netlist(document(**LOGIC), "top", tiny.cells)
    gate = netlist.clock_gates[0]
    assert netlist.inputs == {"clk": (CLK,), "a": (A, B)}
    assert netlist.outputs == {"q": (Q, ONE, ZERO)}
    assert netlist.clocks == {CLK: None, G: gate}
    assert [netlist.instances[index].name for index in netlist.order] == ["nand", "late"]
    assert [netlist.instances[index].name for index in netlist.flip_flops] == ["flop"]
    assert (netlist.area_um2, netlist.sequential_area_um2, netlist.leakage_nw) == (19.0, 16.0, 18.0)


def test_buffers_keep_every_net_within_its_fanout(tiny):
    cells = {f"flop{k}": ("DFF", {"CK": CLK, "D": A, "Q": 100 + k}) for k in range(300)}
    netlist = insert_buffers(read_netlist(document(**cells), "top", tiny.cells), tiny.buffer())
    assert max(len(pins) for pins in netlist.sinks.values()) <= 16
    assert sum(instance.cell.flip_flop is not None for instance in netlist.instances) == 300
    # Two levels for each of the two nets, the clock's all on the clock.
    assert len(netlist.instances) == 300 + 2 * (19 + 2)
    assert sum(gate is None for gate in netlist.clocks.values()) == 1 + 19 + 2
    data = {netlist.instances[i].nets["D"] for i in netlist.flip_flops}
    assert {netlist.instances[netlist.drivers[net][0]].cell.name for net in data} == {"BUF"}


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"x": ("LUT4", {})}, r"contains the cell 'LUT4', which is not in the library"),
        ({"x": ("NAND2", {"A": CLK, "B": A, "Y": N})}, r"the clock of top goes to pin A of NAND2"),
        ({"x": ("DFF", {"CK": A, "D": CLK, "Q": Q})}, r"the clock of top goes to pin D of DFF"),
        (
            {"x": ("GATE", {"CK": CLK, "E": A, "Z": G}), "y": ("GATE", {"CK": G, "E": A, "Z": N})},
            r"the clock of top goes to pin CK of GATE",
        ),
        ({"x": ("INV", {"A": N, "Y": Q}), "y": ("INV", {"A": Q, "Y": N})}, r"top has a combinational loop"),
    ],
)
def test_what_cannot_be_simulated_is_named(tiny, cells, message):
    with pytest.raises(CharacterizationError, match=message):
        read_netlist(document(**cells), "top", tiny.cells)


def test_generic_gates_have_their_functions():
    truths = {name: cell.pins["Y"].function.truth() for name, cell in GENERIC_CELLS.items() if "Y" in cell.pins}
    expected = {"$_NOT_": 0b01, "$_BUF_": 0b10, "$_AND_": 0b1000, "$_OR_": 0b1110, "$_XOR_": 0b0110}
    assert {name: truths[name] for name in expected} == expected
    function = GENERIC_CELLS["$_MUX_"].pins["Y"].function.compiled()
    names = GENERIC_CELLS["$_MUX_"].pins["Y"].function.names
    chosen = {"A": 0b1100, "B": 0b1010, "S": 0b0110}
    assert function(*(chosen[name] for name in names), 0b1111) == 0b1010


def test_an_empty_netlist_has_no_area():
    assert Netlist("top", (), {"clk": (CLK,)}, {}).area_um2 == 0
