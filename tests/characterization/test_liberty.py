"""Reading Liberty files: numbers in the right units, and messages that name the place of what is wrong."""

from __future__ import annotations

import gzip
import hashlib

import pytest
from tiny_liberty import HEADER, tiny_library, with_first_delay

from sigmaquant.characterization.liberty import read_liberty
from sigmaquant.characterization.liberty_text import parse_groups
from sigmaquant.errors import LibertyError


@pytest.fixture
def read(tmp_path):
    def reader(text: str):
        path = tmp_path / "tiny.lib"
        path.write_text(text)
        return read_liberty(path)

    return reader


def test_cells_in_picoseconds_femtofarads_and_femtojoules(read):
    library = read(tiny_library())
    assert (library.name, library.voltage_v, library.corner) == ("tiny", 1.0, "nom_voltage 1.0")
    assert library.sha256 == hashlib.sha256(tiny_library().encode()).hexdigest()
    nand = library.cells["NAND2"]
    assert (nand.area_um2, nand.leakage_nw, nand.inputs, nand.outputs) == (2.0, 2.0, ("A", "B"), ("Y",))
    assert nand.pins["A"].capacitance_ff == pytest.approx(2.0)
    arc = nand.pins["Y"].arcs[0]
    assert arc.tables["cell_rise"](30.0, 5.0) == pytest.approx(100.0)
    assert nand.pins["Y"].powers[0].rise(30.0, 5.0) == pytest.approx(4.0)
    assert library.cells["DFF"].flip_flop.inverted == {"Q": False}
    assert library.cells["GATE"].clock_gate.enable == "E"
    assert library.flip_flop().name == "DFF"
    assert library.clock_gate().name == "GATE"
    assert library.buffer().name == "BUF"


def test_tables_are_interpolated_over_slew_and_load(read):
    table = read(with_first_delay('"1, 2", "3, 4"')).cells["INV"].pins["Y"].arcs[0].tables["cell_rise"]
    assert table(10.0, 1.0) == pytest.approx(1000.0)
    assert table(1000.0, 1.0) == pytest.approx(3000.0)
    assert table(505.0, 50.5) == pytest.approx(2500.0)
    assert table(10.0, 199.0) == pytest.approx(3000.0)  # beyond the last load, along the same line


def test_tables_with_the_load_first_are_turned(read):
    swapped = HEADER.replace("variable_1 : input_net_transition", "variable_1 : total_output_net_capacitance").replace(
        "variable_2 : total_output_net_capacitance", "variable_2 : input_net_transition"
    )
    swapped = swapped.replace("index_1", "index_x").replace("index_2", "index_1").replace("index_x", "index_2")
    text = with_first_delay('"1, 2", "3, 4"').replace(HEADER, swapped)
    table = read(text).cells["INV"].pins["Y"].arcs[0].tables["cell_rise"]
    assert (table(1000.0, 1.0), table(10.0, 100.0)) == (pytest.approx(2000.0), pytest.approx(3000.0))


def test_wire_load_of_the_smallest_area(read):
    models = """
      wire_load (big) { capacitance : 0.01; slope : 5; fanout_length (1, 100); }
      wire_load (small) { capacitance : 0.001; slope : 2; fanout_length (1, 1); fanout_length (5, 9); }
      default_wire_load : big;
      wire_load_selection (area) { wire_load_from_area (100, 200, big); wire_load_from_area (0, 100, small); }
    """
    library = read(tiny_library().replace("nom_voltage : 1.0;", "nom_voltage : 1.0;" + models))
    assert library.wire_load.name == "small"
    assert [library.wire_ff(fanout) for fanout in (0, 1, 3, 5, 7)] == pytest.approx([0.0, 1.0, 5.0, 9.0, 13.0])
    assert read(tiny_library()).wire_ff(3) == 0.0


def test_comments_continued_lines_and_missing_semicolons():
    text = 'library (x) { /* a\nb */ a : 1 // c\n b : "two \\\n words"; list (1, \\\n 2) inner () { c : 3 } }'
    group = parse_groups(text, "x.lib")
    assert group.values == {"a": "1", "b": "two   words"}
    assert group.lists == {"list": [("1", "2")]}
    assert (group.groups[0].name, group.groups[0].values, group.groups[0].line) == ("inner", {"c": "3"}, 5)


def test_zipped_files(tmp_path):
    path = tmp_path / "tiny.lib.gz"
    path.write_bytes(gzip.compress(tiny_library().encode()))
    assert read_liberty(path).name == "tiny"


def test_unusable_cells_are_known_but_not_used(read):
    odd = """cell (TRI) { area : 1; pin (A) { direction : input; } pin (Y) { direction : output; function : "A";
               three_state : "E"; } }
             cell (SLOW) { area : 0.1; dont_use : true; pin (A) { direction : input; }
               pin (Y) { direction : output; function : "A"; } }
             cell (FALLING) { area : 0.5; ff (I, IN) { clocked_on : "!CK"; next_state : "D"; }
               pin (CK) { direction : input; } pin (Q) { direction : output; function : "I"; } } }"""
    library = read(tiny_library().rstrip().removesuffix("}") + odd)
    assert not library.cells["TRI"].usable
    assert not library.cells["FALLING"].usable
    assert library.buffer().name == "BUF"
    assert library.flip_flop().name == "DFF"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("module top (input a); endmodule", r"tiny.lib is no Liberty file: it begins with 'module'"),
        ("", r"no Liberty file: it begins with 'nothing'"),
        ("library (x)", r"not followed by a group"),
        (tiny_library()[:-600], r"line \d+: expected .*found the end of the file. The file is cut off or damaged"),
        (
            tiny_library().replace("area : 1.0;", "area 1.0;"),
            r"line \d+: expected ':' or '\(' after 'area', found '1.0'",
        ),
        (tiny_library().replace('"CK"', '"CK', 1) + '"', r"line \d+: expected .*|not closed"),
        (tiny_library().replace("area : 1.0;", "area : wide;"), r"cell 'INV' has area 'wide', which is no number"),
        (tiny_library().replace("area : 1.0;", ""), r"line \d+: cell 'INV' lacks area"),
        (tiny_library().replace('time_unit : "1ns";', ""), r"library 'tiny' lacks time_unit"),
        (tiny_library().replace('"1ns"', '"1 day"'), r"time_unit '1 day', which cannot be read"),
        (tiny_library().replace("capacitive_load_unit (1, pf);", ""), r"lacks 'capacitive_load_unit"),
        (tiny_library().replace("nom_voltage : 1.0;", ""), r"library 'tiny' lacks nom_voltage"),
        (tiny_library().replace("table_lookup", "cmos2"), r"delay_model is 'cmos2'"),
        (tiny_library().replace("!(A*B)", "!(A*B"), r"cell 'NAND2': a parenthesis is not closed"),
        (
            tiny_library()
            .replace('values ("0.1, 0.1", "0.1, 0.1")', 'values ("0.1")', 1)
            .replace("0.1, 0.1", "0.1", 1),
            r"cell 'INV': the table cell_\w+ of line \d+ has 3 values, not 2 x 2",
        ),
        (tiny_library().replace("0.1, 0.1", "0.1, x", 1), r"cell 'INV': the table cell_rise of line \d+: .*'x'"),
        (tiny_library().replace('index_1 ("0.01, 1.0")', 'index_1 ("1.0, 0.01")'), r"cell 'INV': .* do not rise"),
        (tiny_library("DFF"), r"library 'tiny' has no rising-edge flip-flop"),
        (tiny_library("GATE"), r"library 'tiny' has no integrated clock gate"),
        (tiny_library("BUF"), r"library 'tiny' has no buffer"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(read, text, message):
    with pytest.raises(LibertyError, match=message):
        read(text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LibertyError, match=r"none.lib cannot be read: No such file"):
        read_liberty(tmp_path / "none.lib")
    broken = tmp_path / "x.lib.gz"
    broken.write_bytes(b"no archive")
    with pytest.raises(LibertyError, match=r"x.lib.gz cannot be read"):
        read_liberty(broken)


def test_the_open_library(shared_data):
    path = shared_data / "liberty" / "sg13g2_typ.lib"
    if not path.is_file():
        pytest.skip(f"needs the open cell library: no {path}")
    library = read_liberty(path)
    assert (library.voltage_v, len(library.cells), library.wire_load.name) == (1.2, 78, "0_1k")
    assert library.cells["sg13g2_nand2_1"].area_um2 == 7.2576
    assert library.cells["sg13g2_inv_1"].leakage_nw == pytest.approx(0.06296, rel=1e-3)
    assert (library.flip_flop().name, library.clock_gate().name) == ("sg13g2_dfrbp_1", "sg13g2_lgcp_1")
    assert not library.cells["sg13g2_ebufn_2"].usable
