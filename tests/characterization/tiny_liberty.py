"""A cell library invented for the tests: six cells with round numbers. 1 V, ns, pF, nW."""

from __future__ import annotations

SLEWS, LOADS = (0.01, 1.0), (0.001, 0.1)
DELAY_NS, SLEW_NS, SETUP_NS = 0.1, 0.05, 0.03
RISE_PJ, FALL_PJ, CLOCK_PJ = 0.004, 0.002, 0.001
PIN_PF = 0.002
LEAKAGE_NW = {"INV": 1.0, "BUF": 1.5, "NAND2": 2.0, "XOR2": 3.0, "DFF": 10.0, "GATE": 5.0}
AREA_UM2 = {"INV": 1.0, "BUF": 1.5, "NAND2": 2.0, "XOR2": 4.0, "DFF": 10.0, "GATE": 6.0}
FUNCTIONS = {"INV": "!A", "BUF": "A", "NAND2": "!(A*B)", "XOR2": "A^B"}

HEADER = """library (tiny) {
  delay_model : table_lookup;
  time_unit : "1ns";
  voltage_unit : "1V";
  leakage_power_unit : "1nW";
  capacitive_load_unit (1, pf);
  nom_voltage : 1.0;
  lu_table_template (over) {
    variable_1 : input_net_transition;
    variable_2 : total_output_net_capacitance;
    index_1 ("0.01, 1.0");
    index_2 ("0.001, 0.1");
  }
"""


def table(name: str, value: float) -> str:
    """A table of the template with one value throughout."""
    return f'{name} (over) {{ values ("{value}, {value}", "{value}, {value}"); }}\n'


def with_first_delay(values: str) -> str:
    """The library with other values in the table of INV's rising delay, the first of the file."""
    old = table("cell_rise", DELAY_NS)
    return tiny_library().replace(old, f"cell_rise (over) {{ values ({values}); }}\n", 1)


def arc(related: str, kind: str = "combinational", sense: str = "non_unate") -> str:
    tables = "".join(
        table(name, value)
        for name, value in (
            ("cell_rise", DELAY_NS),
            ("cell_fall", DELAY_NS),
            ("rise_transition", SLEW_NS),
            ("fall_transition", SLEW_NS),
        )
    )
    return f'timing () {{ related_pin : "{related}"; timing_type : {kind}; timing_sense : {sense};\n{tables}}}\n'


def setup() -> str:
    tables = table("rise_constraint", SETUP_NS) + table("fall_constraint", SETUP_NS)
    return f'timing () {{ related_pin : "CK"; timing_type : setup_rising;\n{tables}}}\n'


def power(related: str) -> str:
    tables = table("rise_power", RISE_PJ) + table("fall_power", FALL_PJ)
    return f'internal_power () {{ related_pin : "{related}";\n{tables}}}\n'


def input_pin(name: str, more: str = "") -> str:
    return f"pin ({name}) {{ direction : input; capacitance : {PIN_PF};\n{more}}}\n"


def head(name: str) -> str:
    return f"cell ({name}) {{ area : {AREA_UM2[name]}; cell_leakage_power : {LEAKAGE_NW[name]};\n"


def logic(name: str) -> str:
    pins = [pin for pin in "AB" if pin in FUNCTIONS[name]]
    output = "".join(arc(pin) + power(pin) for pin in pins)
    body = "".join(input_pin(pin) for pin in pins) + f'pin (Y) {{ direction : output; function : "{FUNCTIONS[name]}";\n'
    return f"{head(name)}{body}{output}}}\n}}\n"


def clock_pin(more: str = "") -> str:
    tables = table("rise_power", CLOCK_PJ) + table("fall_power", CLOCK_PJ)
    return input_pin("CK", f"clock : true; {more} internal_power () {{\n{tables}}}\n")


FLIP_FLOP = (
    head("DFF")
    + 'ff (IQ, IQN) { clocked_on : "CK"; next_state : "D"; }\n'
    + clock_pin()
    + input_pin("D", setup())
    + f'pin (Q) {{ direction : output; function : "IQ";\n{arc("CK", "rising_edge")}{power("CK")}}}\n}}\n'
)
CLOCK_GATE = (
    head("GATE")
    + 'clock_gating_integrated_cell : "latch_posedge";\n'
    + clock_pin("clock_gate_clock_pin : true;")
    + input_pin("E", "clock_gate_enable_pin : true;\n" + setup())
    + f"pin (Z) {{ direction : output; clock_gate_out_pin : true;\n{arc('CK')}{power('CK')}}}\n}}\n"
)
CELLS = {**{name: logic(name) for name in FUNCTIONS}, "DFF": FLIP_FLOP, "GATE": CLOCK_GATE}


def tiny_library(*without: str) -> str:
    """The library's text, without some cells."""
    return HEADER + "".join(text for name, text in CELLS.items() if name not in without) + "}\n"
