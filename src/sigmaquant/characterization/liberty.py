"""Reads a Liberty file: cells, functions, delays, internal power. All quantities leave here in ps, fF, fJ and nW."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sigmaquant.characterization.cells import Cell
from sigmaquant.characterization.liberty_cells import CellReader, read_number, read_units
from sigmaquant.characterization.liberty_text import Group, number, parse_groups
from sigmaquant.characterization.tables import WireLoad
from sigmaquant.errors import LibertyError


@dataclass(frozen=True)
class Library:
    """A cell library at one corner.

    Attributes:
        name, corner, voltage_v: as the file says.
        sha256: of the file's bytes (unpacked).
        text: the file itself, for the synthesis.
        cells: by name.
        wire_load: the model that the library selects for the smallest area, None where it has none.
    """

    name: str
    corner: str
    voltage_v: float
    sha256: str
    text: str
    cells: Mapping[str, Cell]
    wire_load: WireLoad | None

    def wire_ff(self, fanout: int) -> float:
        """Expected capacitance of the wire of a net with so many sinks."""
        return self.wire_load.load_ff(fanout) if self.wire_load else 0.0

    def clock_gate(self) -> Cell:
        """The smallest integrated clock gate for rising-edge flip-flops.

        Raises:
            LibertyError: there is none.
        """
        gates = [cell for cell in self.cells.values() if cell.clock_gate]
        if not gates:
            raise LibertyError(
                f"library {self.name!r} has no integrated clock gate (a cell with clock_gating_integrated_cell "
                "'latch_posedge' and pins marked clock_gate_clock_pin, clock_gate_enable_pin and clock_gate_out_pin). "
                "All units gate their clocks; use a library with one."
            )
        return min(gates, key=lambda cell: (cell.area_um2, cell.name))

    def buffer(self) -> Cell:
        """The buffer with the least product of area and delay where it drives sixteen flip-flops' clock pins.

        Raises:
            LibertyError: there is none.
        """
        flip_flop = self.flip_flop()
        load_ff = 16 * flip_flop.pins[str(flip_flop.clock_pin)].capacitance_ff + self.wire_ff(16)

        def cost(cell: Cell) -> tuple[float, str]:
            arcs = [arc for name in cell.outputs for arc in cell.pins[name].arcs]
            tables = [arc.tables[name] for arc in arcs for name in ("cell_rise", "cell_fall") if name in arc.tables]
            return cell.area_um2 * max((table(0.0, load_ff) for table in tables), default=float("inf")), cell.name

        buffers = [cell for cell in self.cells.values() if cell.usable and not cell.dont_use and cell.identity()]
        if not buffers:
            raise LibertyError(
                f"library {self.name!r} has no buffer (one input A, one output with function 'A'). "
                "Nets with many sinks need one; use a library with it."
            )
        return min(buffers, key=cost)

    def flip_flop(self) -> Cell:
        """The smallest rising-edge flip-flop.

        Raises:
            LibertyError: there is none.
        """
        found = [cell for cell in self.cells.values() if cell.flip_flop and not cell.dont_use]
        if not found:
            raise LibertyError(
                f"library {self.name!r} has no rising-edge flip-flop (a cell with a group ff whose clocked_on is one "
                "pin). The units have registers; use a library with one."
            )
        return min(found, key=lambda cell: (cell.area_um2, cell.name))


def read_text(path: Path) -> str:
    """A Liberty file's text; ``.gz`` files are unpacked.

    Raises:
        LibertyError: the file cannot be read.
    """
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", "replace")
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise LibertyError(f"the Liberty file {path} cannot be read: {reason}.") from None


def read_liberty(path: Path) -> Library:
    """Read a standard-cell library.

    Raises:
        LibertyError: the file is broken, no Liberty file, or lacks a unit, a flip-flop, a clock gate or a buffer; the
            message names the line or the cell.
    """
    text = read_text(path)
    top = parse_groups(text, path.name)
    model = top.values.get("delay_model", "table_lookup")
    if model != "table_lookup":
        raise LibertyError(f"{path.name}: delay_model is {model!r}, only table_lookup can be read.")
    units = read_units(top, path.name)
    reader = CellReader(top, units, path.name)
    library = Library(
        name=top.argument,
        corner=top.values.get("default_operating_conditions") or _corner(top),
        voltage_v=read_number(top, "nom_voltage", path.name),
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        text=text,
        cells={group.argument: reader.cell(group) for group in top.all("cell")},
        wire_load=_wire_load(top, units.capacitance_ff, path.name),
    )
    for needed in (library.flip_flop, library.clock_gate, library.buffer):
        needed()
    return library


def _corner(top: Group) -> str:
    given = {key: top.values[key] for key in ("nom_process", "nom_voltage", "nom_temperature") if key in top.values}
    return ", ".join(f"{key} {value}" for key, value in given.items())


def _wire_load(top: Group, unit_ff: float, source: str) -> WireLoad | None:
    models = {group.argument: group for group in top.all("wire_load")}
    chosen = top.values.get("default_wire_load", "")
    try:
        for selection in top.all("wire_load_selection"):
            areas = [entry for entry in selection.lists.get("wire_load_from_area", []) if len(entry) == 3]
            if areas:
                chosen = min(areas, key=lambda entry: number(entry[0]))[2]
        if chosen not in models:
            return None
        group = models[chosen]
        points = sorted((number(p[0]), number(p[1])) for p in group.lists.get("fanout_length", []) if len(p) >= 2)
        capacitance = number(group.values.get("capacitance", "0")) * unit_ff
        slope = number(group.values.get("slope", "0"))
    except ValueError as error:
        raise LibertyError(f"{source}: the wire load {chosen!r}: {error}.") from None
    fanouts, lengths = zip(*points, strict=True) if points else ((), ())
    return WireLoad(chosen, capacitance, slope, fanouts, lengths)
