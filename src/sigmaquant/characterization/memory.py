"""What a memory macro costs, from its Liberty file."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from sigmaquant.characterization.expressions import Expression, parse_expression
from sigmaquant.characterization.liberty import read_text
from sigmaquant.characterization.liberty_cells import read_number, read_units
from sigmaquant.characterization.liberty_text import Group, number, parse_groups
from sigmaquant.errors import LibertyError

_SELECT = re.compile(r"(.*_)?(MEN|CEN|CE|ME|CS|EN)", re.IGNORECASE)
_READ = re.compile(r"(.*_)?(REN|RE|OE)", re.IGNORECASE)
_WRITE = re.compile(r"(.*_)?(WEN|WE)", re.IGNORECASE)
_TEST = re.compile(r"BIST|TEST|SCAN", re.IGNORECASE)


def memory_energy(path: Path) -> dict[str, Any]:
    """Capacity, access energies and leakage of one memory macro.

    The energies are those of the clock pin in a cycle that reads, or writes, a whole word: the library's states in
    which the macro is selected and either the read or the write enable is 1 (enables are active high, named such as
    A_MEN, A_REN, A_WEN). Toggles of address and data pins are not included.

    Args:
        path: Liberty file of one macro.

    Returns:
        ``macro``, ``capacity_bytes``, ``word_bits``, ``read_energy_fj_per_bit``, ``write_energy_fj_per_bit``,
        ``leakage_nw`` and ``liberty_sha256``.

    Raises:
        LibertyError: the file is broken, describes no memory, or gives no energy of a read or of a write.
    """
    text = read_text(path)
    top = parse_groups(text, path.name)
    units = read_units(top, path.name)
    for cell in top.all("cell"):
        for memory in cell.all("memory"):
            words = 1 << _whole(memory, "address_width", path.name, 48)
            word_bits = _whole(memory, "word_width", path.name, 1 << 16)
            read, write = _access_energies(cell, path.name)
            return {
                "macro": cell.argument,
                "capacity_bytes": words * word_bits // 8,
                "word_bits": word_bits,
                "read_energy_fj_per_bit": read * units.energy_fj / word_bits,
                "write_energy_fj_per_bit": write * units.energy_fj / word_bits,
                "leakage_nw": read_number(cell, "cell_leakage_power", path.name, 0.0) * units.leakage_nw,
                "liberty_sha256": hashlib.sha256(text.encode()).hexdigest(),
            }
    raise LibertyError(f"{path.name}: no cell has a group 'memory ()' with address_width and word_width.")


def _whole(group: Group, key: str, source: str, largest: int) -> int:
    text = group.values.get(key, "")
    value = int(text) if re.fullmatch(r"[0-9]{1,6}", text) else 0
    if not 0 < value <= largest:
        shown = text[:24]
        raise LibertyError(
            f"{source}, line {group.line}: the memory's {key} is {shown!r}, not an integer 1..{largest}."
        )
    return value


def _access_energies(cell: Group, source: str) -> tuple[float, float]:
    """Of a read and of a write, in the file's unit."""
    found: dict[str, float] = {}
    for pin in cell.within("pin"):
        if pin.values.get("clock") != "true" or _TEST.search(pin.argument):
            continue
        for power in pin.all("internal_power"):
            if "when" not in power.values:
                continue
            try:
                kind = _access(parse_expression(power.values["when"]))
            except ValueError as error:
                raise LibertyError(f"{source}, line {power.line}: {error}.") from None
            if kind:
                found[kind] = sum(_scalar(table, source) for table in power.all("rise_power", "fall_power", "power"))
    for kind in ("read", "write"):
        if kind not in found:
            raise LibertyError(
                f"{source}: memory {cell.argument!r} gives no energy of a {kind}: its clock pin needs internal_power "
                "with 'when' over a select (MEN), a read (REN) and a write enable (WEN)."
            )
    return found["read"], found["write"]


def _access(state: Expression) -> str | None:
    """``read`` or ``write`` if the state lets only that happen."""

    def possible(**levels: int) -> bool:
        kinds = {"select": _SELECT, "read": _READ, "write": _WRITE}
        known = {name: levels[kind] for name in state.names for kind, names in kinds.items() if names.fullmatch(name)}
        return len(known) >= 3 and state.possible(known)

    if possible(select=1, read=1, write=0):
        return "read"
    return "write" if possible(select=1, read=0, write=1) else None


def _scalar(table: Group, source: str) -> float:
    """The mean of a table's values."""
    try:
        rows = " ".join(text for row in table.lists["values"] for text in row)
        values = [number(part) for part in rows.replace(",", " ").split()]
        return sum(values) / len(values)
    except (KeyError, ValueError, ZeroDivisionError):
        raise LibertyError(f"{source}, line {table.line}: the table {table.name} has no values.") from None
