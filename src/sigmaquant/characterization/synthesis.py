"""Verilog to a netlist of the library's cells, by yosys and ABC in a process of their own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

from sigmaquant.characterization.cells import Cell
from sigmaquant.characterization.liberty import Library
from sigmaquant.characterization.mac_units import ACCUMULATOR_BITS, LANES, MacUnit, verilog
from sigmaquant.errors import CharacterizationError, MissingExtraError
from sigmaquant.runs.scratch import ScratchFolder

_TIMEOUT_S = 900
_RUNNER = """
import sys
from pyosys import libyosys
design = libyosys.Design()
for line in open(sys.argv[1]):
    if line.strip():
        libyosys.run_pass(line.strip(), design)
"""

_READ_CELLS = """
read_liberty -lib cells.lib
read_verilog clock_gate.v
"""
_READ_BOXES = """
read_verilog -lib clock_gate.v
"""
_COMMON = """
read_verilog {files}
chparam -set AB {activation_bits} -set ACC {accumulator_bits} -set LANES {lanes} {top}
hierarchy -check -top {top}
proc
flatten
opt_expr
opt_clean
check -assert
opt -nodffe -nosdff
wreduce
peepopt
opt_clean
alumacc
share
opt -nodffe -nosdff
opt -fast -full
maccmap
techmap
opt -fast -nodffe -nosdff
opt_clean -purge
dfflegalize -cell $_DFF_P_ x
"""
_MAPPED = """
dfflibmap -liberty cells.lib {dont_use}
opt_clean
abc -liberty cells.lib -constr constraints -D {period_ps} {dont_use}
opt_clean -purge
delete t:$scopeinfo
write_json netlist.json
"""
_GENERIC = """
abc -g AND,OR,XOR,MUX
opt_clean -purge
delete t:$scopeinfo
write_json netlist.json
"""


def synthesize(
    unit: MacUnit,
    library: Library | None,
    *,
    period_ps: float = 10_000.0,
    activation_bits: int = 8,
    lanes: int = LANES,
) -> dict[str, Any]:
    """A unit's netlist, as yosys' JSON document.

    Args:
        unit: what to synthesise.
        library: cells to map to; None: generic gates, which is the level of the Verilog itself.
        period_ps: clock period that ABC sizes gates for.
        activation_bits: width of an activation at the ports.
        lanes: lanes of an array, or products of a dot product.

    Raises:
        MissingExtraError: pyosys is not installed.
        CharacterizationError: yosys failed, crashed or took too long; the message ends with its last words.
    """
    if importlib.util.find_spec("pyosys") is None:
        raise MissingExtraError("Synthesis", "hardware")
    sources = [f"{name}.v" for name in (*unit.shared, unit.name)]
    files = {f"{name}.v": verilog(name) for name in (*unit.shared, unit.name)}
    files["clock_gate.v"] = _clock_gate(library.clock_gate() if library else None)
    dont_use = ""
    if library:
        files |= {"cells.lib": library.text, "constraints": _constraints(library)}
        excluded = (cell for cell in library.cells.values() if cell.dont_use or cell.clock_gate or not cell.usable)
        dont_use = " ".join(f"-dont_use {cell.name}" for cell in excluded)
    script = (_READ_CELLS if library else _READ_BOXES) + _COMMON + (_MAPPED if library else _GENERIC)
    script = script.format(
        files=" ".join(sources),
        top=unit.name,
        activation_bits=activation_bits,
        accumulator_bits=ACCUMULATOR_BITS,
        lanes=lanes,
        period_ps=round(period_ps),
        dont_use=dont_use,
    )
    return _run_yosys(script, files, unit.name)


def _constraints(library: Library) -> str:
    """What drives the inputs and what the outputs drive: a buffer, and four of them."""
    buffer = library.buffer()
    load_ff = 4 * buffer.pins[buffer.inputs[0]].capacitance_ff
    return f"set_driving_cell {buffer.name}\nset_load {load_ff:.3f} [all_outputs]\n"


def _clock_gate(cell: Cell | None) -> str:
    """The module that all units instantiate: the library's cell inside, or an empty box."""
    body = ""
    if cell and cell.clock_gate:
        gate = cell.clock_gate
        ports = {gate.clock: "clk", gate.enable: "en", gate.output: "gclk"}
        ports |= {name: "1'b0" for name in cell.inputs if name not in ports}  # test pins
        body = f"  {cell.name} gate ({', '.join(f'.{pin}({net})' for pin, net in ports.items())});\n"
    return f"module clock_gate (input clk, input en, output gclk);\n{body}endmodule\n"


def _run_yosys(script: str, files: dict[str, str], top: str) -> dict[str, Any]:
    with ScratchFolder() as folder:
        for file, text in (files | {"script.ys": script, "run.py": _RUNNER}).items():
            (folder / file).write_text(text, encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "run.py", "script.ys"],
                cwd=folder,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CharacterizationError(f"yosys did not finish {top} within {_TIMEOUT_S} s.") from None
        result = folder / "netlist.json"
        if done.returncode or not result.exists():
            words = (done.stdout + "\n" + done.stderr).strip().splitlines()
            errors = [line for line in words if line.startswith("ERROR")] or words[-5:]
            raise CharacterizationError(
                f"yosys could not synthesise {top} (exit status {done.returncode}): {' / '.join(errors)[-600:]} "
                "Check that the Liberty file is a complete standard-cell library."
            )
        document: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return document
