"""The comparison's table in Markdown, from the rows that the peers' programs wrote.

    python benchmarks/peers/table.py benchmarks/results/peers.jsonl
    python benchmarks/peers/table.py benchmarks/results/peers.jsonl --summary          # accuracies alone
    python benchmarks/peers/table.py benchmarks/results/peers.jsonl --adopt results/cifar.jsonl

``--adopt`` adds trained rows of ``benchmarks/cifar.py`` to the file: the same search and training, measured there.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
PEERS = ("sigmaquant", "sigmaquant, uniform", "mct", "modelopt", "aimet", "uniform")
NAMES = {
    "sigmaquant": "SigmaQuant",
    "sigmaquant, uniform": "SigmaQuant's uniform control",
    "mct": "model-compression-toolkit",
    "modelopt": "modelopt AutoQuantize",
    "aimet": "AIMET AMP",
    "uniform": "uniform, plain PyTorch",
}
STAGES = {
    "post-training": "post-training",
    "post-training-2-4-8": "post-training, widths 2/4/8",
    "gptq": "label-free reconstruction (GPTQ)",
    "trained": "trained",
}
STRATEGIES = {"sigma": "sigmaquant", "uniform": "sigmaquant, uniform"}


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _order(key: tuple[str, str]) -> tuple[int, int]:
    peer, stage = key
    return (list(STAGES).index(stage), PEERS.index(peer))


def _mean(rows: Iterable[Row], field: str) -> float | None:
    found = [row[field] for row in rows if row.get(field) is not None]
    return statistics.mean(found) if found else None


def _top1(rows: list[Row]) -> str:
    scores = [100 * row["test_top1"] for row in rows]
    spread = f" ({min(scores):.2f}..{max(scores):.2f})" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):.2f}{spread}"


def _files(row: Row) -> str:
    kinds: dict[str, int] = defaultdict(int)
    for name, size in row["files"].items():
        kinds[Path(name).suffix.removeprefix(".")] += size
    return ", ".join(f"{size / 1024:.1f} {kind}" for kind, size in sorted(kinds.items(), key=lambda item: item[1]))


def _seconds(rows: list[Row]) -> str:
    search, training = _mean(rows, "search_cpu_s"), _mean(rows, "training_cpu_s")
    if search is None or training is None:
        return f"{_mean(rows, 'cpu_s') or 0:.0f}"
    return f"{search:.0f} + {training:.0f}" if training else f"{search:.0f}"


def _memory(rows: list[Row]) -> str:
    peak, before = _mean(rows, "peak_memory_mib"), _mean(rows, "memory_before_mib")
    return "–" if peak is None else f"{peak:.0f} ({peak - (before or 0):.0f})"


def chosen(rows: Iterable[Row], epochs: float) -> list[Row]:
    """Post-training rows, and those of so many epochs, at the learning rate that validation images favour.

    Rows without a validation accuracy come last: a rate that was used alone needs none.
    """
    groups: dict[tuple[str, str, float], dict[float, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["epochs"] in (0, epochs):
            groups[row["peer"], row["stage"], row["size"]][row["lr"]].append(row)
    best = [max(rates.values(), key=lambda found: _mean(found, "validation_top1") or 0.0) for rates in groups.values()]
    return [row for found in best for row in found]


def table(rows: Iterable[Row]) -> str:
    """A line for every peer, stage and size."""
    groups: dict[tuple[str, str, float], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["peer"], row["stage"], row["size"]].append(row)
    lines = [
        "| size | stage | | top-1 % | planned weights, KiB | files written, KiB | CPU s | peak memory, MiB | lines |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for peer, stage, size in sorted(groups, key=lambda key: (key[2], *_order(key[:2]))):
        found = groups[peer, stage, size]
        lines.append(
            f"| {size:.4g}× | {STAGES[stage]} | {NAMES[peer]} | {_top1(found)} "
            f"| {found[0]['weight_bytes'] / 1024:.1f} | {_files(found[0]) or 'none'} | {_seconds(found)} "
            f"| {_memory(found)} | {found[0]['user_lines']} |"
        )
    return "\n".join(lines)


def summary(rows: Iterable[Row]) -> str:
    """Accuracies alone: peers down, sizes across."""
    groups: dict[tuple[str, str], dict[float, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["peer"], row["stage"]][row["size"]].append(row)
    sizes = sorted({size for found in groups.values() for size in found})
    lines = [
        "| top-1 % | | " + " | ".join(f"{size:.4g}×" for size in sizes) + " |",
        "| --- " * (len(sizes) + 2) + "|",
    ]
    for key in sorted(groups, key=_order):
        cells = " | ".join(_top1(groups[key][size]) if size in groups[key] else "–" for size in sizes)
        lines.append(f"| {STAGES[key[1]]} | {NAMES[key[0]]} | {cells} |")
    return "\n".join(lines)


def provenance(rows: Iterable[Row]) -> str:
    """When, and with which versions."""
    found = list(rows)
    versions = sorted({f"{name} {number}" for row in found for name, number in row["versions"].items()})
    dates = sorted({row["date"] for row in found})
    seeds = sorted({row["seed"] for row in found})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"Measured {when}; {', '.join(versions)}; seeds {', '.join(map(str, seeds))}."


def adopted(cifar: Iterable[Row], rows: list[Row], date: str, settings: str = '{"lr": 0.03}') -> list[Row]:
    """Rows of ``benchmarks/cifar.py`` as rows of this comparison; those that are there already are left out.

    What that program does not measure comes from rows of the same strategy here: files from one of the same plan, peak
    memory and lines from any training.
    """
    added = []
    for row in cifar:
        if (row["mode"], row["network"], row["settings"]) != ("trained", "resnet20", settings):
            continue
        if row["strategy"] not in STRATEGIES or row["bf16"]:  # the others train in float32
            continue
        peer = STRATEGIES[row["strategy"]]
        key = (peer, "trained", row["size"], row["seed"], row["epochs"])
        if any((r["peer"], r["stage"], r["size"], r["seed"], r["epochs"]) == key for r in rows):
            continue
        own = [r for r in rows if r["peer"] == peer]
        same = next((r for r in own if r["plan"] == row["weights"]), {})
        trained = next((r for r in own if r["stage"] == "trained"), {})
        added.append(
            {
                "peer": peer,
                "stage": "trained",
                "size": row["size"],
                "seed": row["seed"],
                "epochs": row["epochs"],
                "lr": json.loads(settings)["lr"],
                "test_top1": row["test_top1"],
                "weight_bytes": row["weight_bytes"],
                "plan": row["weights"],
                "files": same.get("files", {}),
                "search_cpu_s": None,
                "training_cpu_s": None,
                "cpu_s": row["cpu_s"],
                "wall_s": row["wall_s"],
                "peak_memory_mib": trained.get("peak_memory_mib"),
                "memory_before_mib": trained.get("memory_before_mib"),
                "user_lines": trained.get("user_lines", 0),
                "threads": row["threads"],
                "versions": {"sigmaquant": row["sigmaquant"], "torch": row["torch"]},
                "date": date,
                "notes": ["accuracy and seconds: benchmarks/cifar.py; memory: a shorter training"],
            }
        )
    return added


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--epochs", type=float, default=1.7, help="of the trained rows that are shown")
    parser.add_argument("--adopt", type=Path, help="results of benchmarks/cifar.py to add to the file first")
    parser.add_argument("--date", help="of the results to adopt")
    args = parser.parse_args()
    rows = read(args.rows)
    if args.adopt:
        if not args.date:
            parser.error("--adopt needs the --date of those results, which they do not hold")
        new = adopted(read(args.adopt), rows, args.date)
        with args.rows.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in new)
        rows += new
    rows = chosen(rows, args.epochs)
    print(summary(rows) if args.summary else table(rows))
    print()
    print(provenance(rows))


if __name__ == "__main__":
    main()
