"""JSON that somebody else wrote: read within bounds, or one line that says why not; and Liberty files likewise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import main, refused
from sigmaquant.json_text import DEPTH, read_json

HOSTILE = {
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep objects": '{"a":' * 3000 + "1" + "}" * 3000,
    "just too deep": "[" * (DEPTH + 2) + "]" * (DEPTH + 2),
    "400 digits": f"[{'9' * 400}]",
    "5000 digits": f"[-{'9' * 5000}]",
    "overflow": "[1e400]",
    "infinity": '{"a": [Infinity]}',
    "nan": "[NaN]",
    "half a character": r'["\ud800"]',
    "half a character in a key": r'{"\udfff": 1}',
    "no JSON": "{'a': 1}",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_no_later_use_can_take_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^.{1,120}$"):
        read_json(text)


def test_what_the_program_writes_is_read() -> None:
    document = {"σ": [1, -(2**63), 2**63, 1.5e300, "é😀", None, True], "deep": json.loads("[" * 90 + "]" * 90)}
    for text in (json.dumps(document), json.dumps(document, ensure_ascii=False).encode()):
        assert read_json(text) == document
    assert read_json("[Infinity, -Infinity]", infinities=True) == [float("inf"), -float("inf")]


@pytest.mark.parametrize("name", ["deep", "400 digits", "infinity", "overflow", "half a character"])
def test_hardware_profiles(name: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(HOSTILE[name])
    assert "p.json is not JSON" in refused(main("hardware", "show", path))


LIBRARY = """library (tiny) {{ time_unit : "1ns"; voltage_unit : "1V"; leakage_power_unit : "1uW";
capacitive_load_unit ({load}, pf); nom_voltage : {voltage}; cell (A) {{ area : {area}; pin (Y) {{ direction : output;
function : "{function}"; }} }} {rest} }}"""
GOOD = {"load": "1", "voltage": "1.0", "area": "1", "function": "A", "rest": ""}


@pytest.mark.parametrize(
    "change",
    [
        {"load": "x"},
        {"load": "1e999"},
        {"voltage": "9" * 400},
        {"area": "inf"},
        {"area": "nan"},
        {"function": "(" * 1000 + "A" + ")" * 1000},
        {"function": "!" * 1000 + "A"},
        {"function": "+".join(f"A{i}" for i in range(30))},
        {"rest": "g () {" * 2000 + "}" * 2000},
        {"rest": 'wire_load ("w") { capacitance : x; } default_wire_load : "w";'},
    ],
)
def test_liberty_files(change: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "tiny.lib"
    path.write_text(LIBRARY.format(**{**GOOD, **change}))
    message = refused(main("hardware", "characterize", "--liberty", path, "--out", tmp_path / "p.json", "--quiet"))
    assert "tiny.lib" in message
    assert "has no rising-edge flip-flop" not in message  # which all of them lack, and is looked for last


def test_a_broken_archive_of_a_liberty_file(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "tiny.lib.gz"
    data = bytearray(gzip.compress(LIBRARY.format(**GOOD).encode() * 20))
    data[20:30] = bytes(10)
    path.write_bytes(data)
    message = refused(main("hardware", "characterize", "--liberty", path, "--out", tmp_path / "p.json", "--quiet"))
    assert "tiny.lib.gz cannot be read" in message
