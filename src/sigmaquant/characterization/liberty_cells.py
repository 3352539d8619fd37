"""Reads the cells of a Liberty file. All quantities leave here in ps, fF, fJ and nW."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sigmaquant.characterization.cells import Cell, ClockGate, FlipFlop, InternalPower, Pin, TimingArc
from sigmaquant.characterization.expressions import Expression, parse_expression
from sigmaquant.characterization.liberty_text import Group, number
from sigmaquant.characterization.tables import Table
from sigmaquant.errors import LibertyError

_PREFIX = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0}


@dataclass(frozen=True)
class Units:
    """What one unit of the file is worth."""

    time_ps: float
    capacitance_ff: float
    energy_fj: float
    leakage_nw: float


def read_units(top: Group, source: str) -> Units:
    """The units of a file.

    Raises:
        LibertyError: a unit is missing or cannot be read.
    """
    time_ps = _unit(top, "time_unit", "s", source) * 1e12
    leakage_nw = _unit(top, "leakage_power_unit", "w", source) * 1e9
    volts = _unit(top, "voltage_unit", "v", source)
    load = top.lists.get("capacitive_load_unit", [()])[0]
    if len(load) != 2 or load[1].lower() not in ("ff", "pf"):
        raise LibertyError(f"{source}: library {top.argument!r} lacks 'capacitive_load_unit (1, pf)'.")
    try:
        capacitance_ff = number(load[0]) * (1.0 if load[1].lower() == "ff" else 1e3)
    except ValueError as error:
        raise LibertyError(f"{source}: library {top.argument!r}, capacitive_load_unit: {error}.") from None
    # Liberty derives the unit of internal power from those of capacitance and voltage.
    return Units(time_ps, capacitance_ff, capacitance_ff * volts * volts, leakage_nw)


def _unit(top: Group, key: str, base: str, source: str) -> float:
    text = top.values.get(key, "")
    match = re.fullmatch(r"\s*([\d.eE+-]+)\s*([fpnum]?)" + base + r"\s*", text, re.IGNORECASE)
    value = _value_or_none(match[1]) if match else None
    if match is None or value is None:
        what = f"has {key} {text!r}, which cannot be read" if text else f"lacks {key}"
        raise LibertyError(f"{source}: library {top.argument!r} {what}. Its numbers mean nothing without it.")
    return value * _PREFIX[match[2].lower()]


def _value_or_none(text: str) -> float | None:
    try:
        return number(text)
    except ValueError:
        return None


def read_number(group: Group, key: str, source: str, default: float | None = None) -> float:
    """A simple attribute that is a number.

    Raises:
        LibertyError: it is no number, or it is missing and there is no default.
    """
    text = group.values.get(key)
    try:
        if text is None and default is not None:
            return default
        return number(text)  # type: ignore[arg-type]  # None is answered below like any other text
    except (TypeError, ValueError):
        what = f"lacks {key}" if text is None else f"has {key} {text!r}, which is no number"
        place = f"{source}, line {group.line}: {group.name} {group.argument!r}"
        raise LibertyError(f"{place} {what}.") from None


class CellReader:
    """Turns the groups of cells into `Cell`s; remembers where it is, for messages."""

    def __init__(self, top: Group, units: Units, source: str) -> None:
        self._templates = {group.argument: group for group in top.all("lu_table_template", "power_lut_template")}
        self._default_leakage = read_number(top, "default_cell_leakage_power", source, 0.0)
        self._default_capacitance = read_number(top, "default_input_pin_cap", source, 0.0)
        self._units = units
        self._source = source
        self._place = source

    def cell(self, group: Group) -> Cell:
        """The cell of one group.

        Raises:
            LibertyError: a number, a function or a table in it cannot be read.
        """
        self._place = f"{self._source}, line {group.line}: cell {group.argument!r}"
        read = (self._pin(pin) for pin in group.all("pin"))
        pins = {pin.name: pin for pin in read if pin}
        flip_flop, clock_gate = self._flip_flop(group, pins), self._clock_gate(group)
        outputs = [pin for pin in pins.values() if pin.is_output]
        odd = any(True for _ in group.all("ff", "latch", "statetable", "ff_bank", "latch_bank", "bus", "bundle"))
        three_state = any("three_state" in pin.values for pin in group.all("pin"))
        combinational = bool(outputs) and not odd and not three_state and all(pin.function for pin in outputs)
        return Cell(
            name=group.argument,
            area_um2=read_number(group, "area", self._source),
            leakage_nw=self._leakage(group) * self._units.leakage_nw,
            pins=pins,
            flip_flop=flip_flop,
            clock_gate=clock_gate,
            usable=bool(combinational or flip_flop or clock_gate),
            dont_use=group.values.get("dont_use", "false") == "true",
        )

    def _leakage(self, group: Group) -> float:
        if "cell_leakage_power" in group.values:
            return read_number(group, "cell_leakage_power", self._source)
        states = [read_number(state, "value", self._source) for state in group.all("leakage_power")]
        return sum(states) / len(states) if states else self._default_leakage

    def _flip_flop(self, group: Group, pins: Mapping[str, Pin]) -> FlipFlop | None:
        for ff in group.all("ff"):
            clock, state = ff.values.get("clocked_on", "").strip("() "), ff.values.get("next_state")
            if clock not in pins or state is None:
                return None  # falling edge, or clocked by a function: not used
            shown = {name: pin.function.text for name, pin in pins.items() if pin.is_output and pin.function}
            known = {text: number for number, text in enumerate(ff.arguments)}
            if not shown or any(text not in known for text in shown.values()):
                return None
            return FlipFlop(clock, self._expression(state), {name: known[text] == 1 for name, text in shown.items()})
        return None

    def _clock_gate(self, group: Group) -> ClockGate | None:
        if group.values.get("clock_gating_integrated_cell") not in (
            "latch_posedge",
            "latch_posedge_precontrol",
            "latch_posedge_postcontrol",
        ):
            return None
        roles = {
            role: pin.argument
            for pin in group.all("pin")
            for role in ("clock", "enable", "out")
            if pin.values.get(f"clock_gate_{role}_pin") == "true"
        }
        return ClockGate(roles["clock"], roles["enable"], roles["out"]) if len(roles) == 3 else None

    def _pin(self, group: Group) -> Pin | None:
        direction = group.values.get("direction", "input")
        if direction not in ("input", "output"):
            return None
        is_output = direction == "output"
        function = group.values.get("function")
        given = read_number(group, "capacitance", self._source, 0.0 if is_output else self._default_capacitance)
        return Pin(
            name=group.argument,
            is_output=is_output,
            capacitance_ff=given * self._units.capacitance_ff,
            function=self._expression(function) if function is not None else None,
            arcs=tuple(arc for timing in group.all("timing") for arc in self._arcs(timing)),
            powers=tuple(power for inner in group.all("internal_power") for power in self._powers(inner)),
        )

    def _arcs(self, group: Group) -> list[TimingArc]:
        tables = {inner.name: self._table(inner, self._units.time_ps) for inner in group.groups if inner.lists}
        kind, sense = group.values.get("timing_type", "combinational"), group.values.get("timing_sense", "non_unate")
        return [TimingArc(pin, kind, sense, tables) for pin in group.values.get("related_pin", "").split()]

    def _powers(self, group: Group) -> list[InternalPower]:
        tables = {inner.name: self._table(inner, self._units.energy_fj) for inner in group.groups if inner.lists}
        both = tables.get("power")
        when = self._expression(group.values["when"]) if "when" in group.values else None
        rise, fall = tables.get("rise_power", both), tables.get("fall_power", both)
        return [InternalPower(pin, when, rise, fall) for pin in group.values.get("related_pin", "").split() or [""]]

    def _expression(self, text: str) -> Expression:
        try:
            return parse_expression(text)
        except ValueError as error:
            raise LibertyError(f"{self._place}: {error}.") from None

    def _table(self, group: Group, unit: float) -> Table:
        template = self._templates.get(group.argument)

        def axis(number: int) -> tuple[tuple[float, ...], bool]:
            entries = group.lists.get(f"index_{number}") or (
                template.lists.get(f"index_{number}") if template else None
            )
            variable = template.values.get(f"variable_{number}", "") if template else ""
            is_load = "capacitance" in variable
            factor = self._units.capacitance_ff if is_load else self._units.time_ps
            points = [value * factor for value in self._numbers(entries[0], group)] if entries else [0.0]
            return tuple(points), is_load

        (first, first_is_load), (second, _) = axis(1), axis(2)
        values = [value * unit for row in group.lists.get("values", []) for value in self._numbers(row, group)]
        if len(values) == 1:
            first, second = (0.0,), (0.0,)
        if len(values) != len(first) * len(second):
            shape = f"{len(first)} x {len(second)}"
            raise LibertyError(
                f"{self._place}: the table {group.name} of line {group.line} has {len(values)} values, not {shape}."
            )
        if sorted(set(first)) != list(first) or sorted(set(second)) != list(second):
            raise LibertyError(f"{self._place}: the points of table {group.name} of line {group.line} do not rise.")
        rows = [tuple(values[start : start + len(second)]) for start in range(0, len(values), len(second))]
        if first_is_load:  # the house order is slew, load
            return Table(second, first, tuple(zip(*rows, strict=True)))
        return Table(first, second, tuple(rows))

    def _numbers(self, entry: tuple[str, ...], group: Group) -> list[float]:
        try:
            return [number(part) for text in entry for part in re.split(r"[,\s]+", text.strip()) if part]
        except ValueError as error:
            raise LibertyError(f"{self._place}: the table {group.name} of line {group.line}: {error}.") from None
