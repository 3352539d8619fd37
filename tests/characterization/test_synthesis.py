"""yosys in its own process: what goes wrong there is a message."""

from __future__ import annotations

import importlib.util

import pytest
from tiny_liberty import tiny_library

from sigmaquant.characterization import synthesis
from sigmaquant.characterization.liberty import read_liberty
from sigmaquant.characterization.mac_units import find_unit
from sigmaquant.characterization.measurement import map_unit
from sigmaquant.errors import CharacterizationError, MissingExtraError

UNIT = find_unit("bit_plane_dot")


@pytest.fixture
def pyosys():
    pytest.importorskip("pyosys", reason='needs pyosys: pip install "sigmaquant[hardware]"')


def test_without_pyosys_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "sigmaquant\[hardware\]"'):
        synthesis.synthesize(UNIT, None)


def test_only_the_librarys_cells_come_out(pyosys, tiny):
    cells = synthesis.synthesize(UNIT, tiny, lanes=2)["modules"][UNIT.name]["cells"].values()
    kinds = {cell["type"] for cell in cells}
    assert {"DFF", "GATE", "NAND2"} <= kinds <= set(tiny.cells)


def test_the_same_input_gives_the_same_netlist(pyosys, tiny):
    assert synthesis.synthesize(UNIT, tiny, lanes=2) == synthesis.synthesize(UNIT, tiny, lanes=2)


def test_a_library_without_logic_is_a_message(pyosys, tmp_path):
    path = tmp_path / "tiny.lib"
    path.write_text(tiny_library("NAND2", "XOR2", "INV"))
    with pytest.raises(CharacterizationError, match=r"yosys could not synthesise bit_plane_dot \(exit status"):
        synthesis.synthesize(UNIT, read_liberty(path), lanes=2)


@pytest.mark.parametrize("code", ["import os; os.abort()", "raise SystemExit(3)", "print('no netlist')"])
def test_a_crash_of_yosys_is_a_message(pyosys, monkeypatch, code):
    monkeypatch.setattr(synthesis, "_RUNNER", code)
    with pytest.raises(CharacterizationError, match=r"yosys could not synthesise bit_plane_dot \(exit status -?\d"):
        synthesis.synthesize(UNIT, None, lanes=2)


def test_a_hanging_yosys_is_a_message(pyosys, monkeypatch):
    monkeypatch.setattr(synthesis, "_RUNNER", "import time; time.sleep(30)")
    monkeypatch.setattr(synthesis, "_TIMEOUT_S", 0.5)
    with pytest.raises(CharacterizationError, match="did not finish"):
        synthesis.synthesize(UNIT, None, lanes=2)


def test_a_clock_that_is_too_fast_names_the_fastest(pyosys, tiny):
    with pytest.raises(
        CharacterizationError, match=r"needs \d+ ps .*, the clock gives 500 ps\. Choose at most \d+ MHz"
    ):
        map_unit(UNIT, tiny, period_ps=500.0, lanes=2)
