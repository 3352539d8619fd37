"""Energies of memory macros."""

from __future__ import annotations

import pytest

from sigmaquant.characterization.memory import memory_energy
from sigmaquant.errors import LibertyError


def state(when: str, rise: float) -> str:
    tables = f"rise_power (scalar) {{ values ({rise}); }} fall_power (scalar) {{ values (1); }}"
    return f'internal_power () {{ when : "{when}"; {tables} }}\n'


MACRO = (
    """library (ram) {
  time_unit : "1ns"; voltage_unit : "1V"; leakage_power_unit : "1uW"; capacitive_load_unit (1, pf);
  cell (RAM_64x8) {
    memory () { type : ram; address_width : 6; word_width : 8; }
    pin (A_BIST_CLK) { clock : true; internal_power () { when : "A_BIST_MEN * A_BIST_REN * !A_BIST_WEN";
      rise_power (scalar) { values (99); } } }
    pin (A_CLK) { clock : true;
"""
    + state("!A_MEN & A_REN & !A_WEN", 0.5)
    + state("A_MEN & A_REN & A_WEN", 40)
    + state("A_MEN & A_REN & !A_WEN", 15)
    + state("A_MEN & !A_REN & A_WEN", 23)
    + """} cell_leakage_power : 0.25; } }"""
)


@pytest.fixture
def energy(tmp_path):
    def read(text: str):
        path = tmp_path / "ram.lib"
        path.write_text(text)
        return memory_energy(path)

    return read


def test_capacity_energy_and_leakage(energy):
    result = energy(MACRO)
    assert result.pop("liberty_sha256").isalnum()
    assert result == {
        "macro": "RAM_64x8",
        "capacity_bytes": 64,
        "word_bits": 8,
        "read_energy_fj_per_bit": pytest.approx(16_000 / 8),
        "write_energy_fj_per_bit": pytest.approx(24_000 / 8),
        "leakage_nw": pytest.approx(250.0),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MACRO.replace("memory ()", "other ()"), r"no cell has a group 'memory \(\)'"),
        (MACRO.replace("word_width : 8", "word_width : wide"), r"line \d+: the memory's word_width is 'wide'"),
        (MACRO.replace("A_MEN & A_REN & !A_WEN", "A_MEN & A_REN & A_WEN"), r"'RAM_64x8' gives no energy of a read"),
        (MACRO.replace("A_MEN & !A_REN & A_WEN", "!A_MEN & !A_REN & A_WEN"), r"gives no energy of a write"),
        (MACRO.replace("values (15)", "values (much)"), r"line \d+: the table rise_power has no values"),
        (MACRO.replace("A_MEN & A_REN & !A_WEN", "A_MEN & & A_REN"), r"line \d+: a variable is missing"),
    ],
)
def test_what_is_wrong_is_named(energy, text, message):
    with pytest.raises(LibertyError, match=message):
        energy(text)


def test_the_open_macros(shared_data):
    folder = shared_data / "liberty" / "sram"
    macros = sorted(folder.glob("*.lib"))
    if not macros:
        pytest.skip(f"needs the open memory macros: none in {folder}")
    results = {result["macro"]: result for result in map(memory_energy, macros)}
    assert len(results) == len(macros)
    small = results["RM_IHPSG13_1P_1024x16_c2_bm_bist"]
    assert (small["capacity_bytes"], small["word_bits"]) == (2048, 16)
    assert small["read_energy_fj_per_bit"] == pytest.approx(26_486.3 / 16)
    assert small["write_energy_fj_per_bit"] == pytest.approx(32_918.0 / 16)
    by_words = [
        results[f"RM_IHPSG13_1P_{words}x64_c2_bm_bist"]["read_energy_fj_per_bit"] for words in (64, 256, 512, 1024)
    ]
    assert by_words == sorted(by_words)
