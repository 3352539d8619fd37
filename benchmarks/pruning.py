"""Channels and bitwidths under one budget, beside bitwidths alone and channels alone, with the same minutes.

Rows are added to ``--out``, and those that are in it are not repeated. ``quantization`` is held to the size alone;
``pruning`` (8 bits everywhere) and ``both`` to the size and to half of the multiply-accumulates.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from quality import NETWORKS, Subject, read, scores

import sigmaquant
from sigmaquant import Budget, Settings
from sigmaquant.errors import SigmaQuantError
from sigmaquant.runs import make_progress

ARMS: dict[str, dict[str, Any]] = {
    "quantization": {},
    "pruning": {"bitwidths": (8,)},
    "both": {},
}
KEY = ("network", "arm", "size", "minutes", "prune", "seed")


def run(subject: Subject, key: dict[str, Any], macs: str) -> dict[str, Any]:
    """One row; an arm that cannot meet its budget says why."""
    arm = key["arm"]
    prunes = arm != "quantization"
    options = {"bitwidths": tuple(range(2, 9)), **ARMS[arm], "prune": key["prune"] if prunes else 0.0}
    settings = Settings(seed=key["seed"], minutes=key["minutes"], **options)
    begun = time.perf_counter()
    row = {**key, "macs_limit": macs if prunes else None, "threads": torch.get_num_threads()}
    try:
        result = sigmaquant.quantize(
            subject.network,
            subject.training or subject.calibration,
            budget=Budget(size=key["size"], macs=macs if prunes else None),
            validation_data=subject.validation,
            settings=settings,
            task=subject.task,
            progress=make_progress(show=False),
        )
    except SigmaQuantError as error:
        return {**row, "refused": str(error)}
    wall = time.perf_counter() - begun
    score, reference, difference, error = scores(subject, result.network)
    return {
        **row,
        "met": result.met,
        "test_score": score,
        "float_score": reference,
        "difference": difference,
        "paired_error": error,
        "validation_score": result.scores.validation,
        "validation_divergence": result.scores.divergence,
        "total_bytes": result.cost.total_bytes,
        "macs": result.cost.macs,
        "bops": result.cost.bops,
        "weights": dict(result.plan.weights),
        "pruning": result.pruning,
        "notes": list(result.notes),
        "wall_s": round(wall, 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| network | size | arm | score, % | − float (paired error) | bytes | MACs | bit operations |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        start = f"| {row['network']} | {row['size']} | {row['arm']} |"
        if "refused" in row:
            lines.append(f"{start} {row['refused']} | | | | |")
            continue
        lines.append(
            f"{start} {100 * row['test_score']:.2f} | {100 * row['difference']:+.2f} ({100 * row['paired_error']:.2f}) "
            f"| {row['total_bytes']:,} | {row['macs'] / 1e6:.2f} M | {row['bops'] / 1e9:.3f} G |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10 and the ResNets")
    parser.add_argument("--tasks", type=Path, help="folder with the other networks and their data")
    parser.add_argument("--networks", default="resnet20,vww")
    parser.add_argument("--sizes", default="16x")
    parser.add_argument("--macs", default="2x")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--prune", type=float, default=0.75)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--out", type=Path, default=Path("results/pruning.jsonl"))
    parser.add_argument("--table", type=Path, help="only print the table of a results file")
    args = parser.parse_args()
    if args.table:
        print(table(read(args.table)))
        return
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in args.networks.split(","):
        subject = NETWORKS[name](args)
        for size in args.sizes.split(","):
            for seed in map(int, args.seeds.split(",")):
                for arm in args.arms.split(","):
                    key = dict(zip(KEY, (name, arm, size, args.minutes, args.prune, seed), strict=True))
                    if any(all(row[k] == v for k, v in key.items()) for row in read(args.out)):
                        continue
                    row = run(subject, key, args.macs)
                    with args.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(table([row]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
