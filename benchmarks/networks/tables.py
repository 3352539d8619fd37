"""What the rows of `benchmarks/coverage.py` say, as tables for people. Reads nothing but rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FILES = ("onnx", "litert", "c", "packed")
GROUPS = ("convolutional", "transformer", "recurrent")
MARKS = {"same": "yes", "refused": "no", "differs": "**differs**", "error": "**error**", "–": "–"}
Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The last row of every network."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return list({row["network"]: row for row in rows}.values())


def traced(row: Row) -> bool:
    return "difference" in row.get("trace", {}) and row["trace"]["difference"] <= 1e-5


def whole(row: Row) -> bool:
    """Whether everything is integer."""
    found = row.get("integers", {})
    return found.get("float") == {} and "steps" in found


def in_file(row: Row, target: str) -> str:
    """``same``, ``differs``, ``refused``, ``error`` or ``–`` where none was tried."""
    found = row.get("files", {}).get(target)
    if found is None:
        return "–"
    if "same" in found:
        return "same" if found["same"] else "differs"
    return "refused" if "refused" in found else "error"


def raw_errors(row: Row) -> list[tuple[str, str]]:
    """Errors that are not the program's own, with the stage."""
    stages = {"trace": row.get("trace", {}), "integers": row.get("integers", {}), **row.get("files", {})}
    found = [(stage, facts["raw"]) for stage, facts in stages.items() if "raw" in facts]
    return found + ([("process", row["ended"])] if row.get("ended") else [])


def verdict(row: Row) -> str:
    """One line for a person."""
    if not traced(row):
        facts = row.get("trace", {})
        return (
            f"not traced: {(facts.get('refused') or facts.get('raw') or facts.get('difference') or row.get('ended'))}"[
                :160
            ]
        )
    left = ", ".join(row.get("integers", {}).get("float", {}))
    apart = row.get("integers", {}).get("steps", "?")
    files = " ".join(f"{target}:{in_file(row, target)}" for target in FILES)
    return f"{'integer' if whole(row) else f'float: {left[:60]}'}; {apart} steps apart; {files} {row.get('ended', '')}"


def counts(rows: list[Row]) -> Mapping[str, str]:
    """Of a group, how many reach what."""
    total = len(rows)

    def share(reached: Callable[[Row], bool]) -> str:
        number = sum(map(reached, rows))
        return f"{number} ({100 * number / max(1, total):.0f} %)"

    columns: dict[str, Callable[[Row], bool]] = {
        "traced": traced,
        "wholly integer": whole,
        **{kind: lambda row, kind=kind: in_file(row, kind) == "same" for kind in FILES},
    }
    found = {name: share(reached) for name, reached in columns.items()}
    differing = sum(any(in_file(row, kind) == "differs" for kind in FILES) for row in rows)
    beyond = sum(row.get("integers", {}).get("beyond", 0) > 0 for row in rows)
    return {
        "networks": str(total),
        **found,
        "integers that differ": str(beyond),
        "files that differ": str(differing),
        "raw errors": str(sum(bool(raw_errors(row)) for row in rows)),
    }


def table(rows: list[Row]) -> str:
    """The counts by group, then a line for every network."""
    groups = {group: counts([row for row in rows if row["group"] == group]) for group in GROUPS}
    heads = list(next(iter(groups.values())))
    lines = [f"| | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
    lines += [f"| {group} | {' | '.join(found[head] for head in heads)} |" for group, found in groups.items()]
    columns = ("network", "parameters", "in 8 bits", "MACs in 8 bits", "in float", "steps apart", *FILES, "CPU s")
    for group in GROUPS:
        lines += ["", f"### {group.capitalize()}", "", f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
        of = sorted((row for row in rows if row["group"] == group), key=lambda row: row["network"])
        lines += [f"| {' | '.join(_cells(row))} |" for row in of]
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    begin = [row["network"], f"{row.get('parameters', 0) / 1e6:.2f} M"]
    end = f"{row.get('cpu_s', 0):.0f}"
    if not traced(row):
        return [*begin, "not traced", *["–"] * (3 + len(FILES)), end]
    facts = row.get("integers", {})
    left = ", ".join(f"`{name}`" for name in sorted(facts.get("float", {}))) or ("–" if whole(row) else "?")
    shares = [f"{100 * row[key]:.1f} %" for key in ("quantized_parameters", "quantized_macs")]
    return [*begin, *shares, left, str(facts.get("steps", "?")), *(MARKS[in_file(row, kind)] for kind in FILES), end]


def causes(rows: list[Row]) -> str:
    """What stands in how many networks' way."""
    lines: list[str] = []

    def section(title: str, found: Mapping[str, int]) -> None:
        lines.extend([f"### {title}", "", *(f"- {n} × {name}" for name, n in Counter(found).most_common()), ""])

    for group in GROUPS:
        of = [row for row in rows if row["group"] == group]
        lines += [f"## {group}", "", *(f"- {key}: {value}" for key, value in counts(of).items()), ""]
        left = [row.get("integers", {}).get("float", {}) for row in of]
        section("Operators left in float, networks each", Counter(name for floats in left for name in floats))
        section("The only one of a network", Counter(next(iter(floats)) for floats in left if len(floats) == 1))
        section("Not traced", {f"{row['network']}: {verdict(row)}": 1 for row in of if not traced(row)})
        section("Raw errors", Counter(f"{stage}: {text}" for row in of for stage, text in raw_errors(row)))
        refused = [
            f"{target}: {facts['refused'][:200]}"
            for row in of
            if whole(row)
            for target, facts in row.get("files", {}).items()
            if "refused" in facts
        ]
        section("Wholly integer, but refused", Counter(refused))
        apart = [row for row in of if row.get("integers", {}).get("beyond", 0) > 0]
        where = [f"{row['network']}: {row['integers']['steps']} steps at {row['integers']['where']}" for row in apart]
        section("Integers beyond the network's roundings", Counter(where))
        wrong = [
            f"{row['network']}, {k}: {row['files'][k]}" for row in of for k in FILES if in_file(row, k) == "differs"
        ]
        section("Files that differ from the integers", Counter(wrong))
    return "\n".join(lines)
