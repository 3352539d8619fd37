"""Accuracy at given sizes on CIFAR-10 for every strategy, from the float network to the result, with its time.

    python benchmarks/cifar.py --data DIR --mode post-training --sizes 8,32/3
    python benchmarks/cifar.py --data DIR --mode trained --sizes 32/3,12.8,16 --strategies sigma,uniform --seeds 0,1,2
    python benchmarks/cifar.py --table results/cifar.jsonl

Training is in bfloat16 where the processor multiplies it, which takes half the time; ``--no-bf16`` trains in float32.

DIR holds ``cifar10/`` and ``weights/`` with the networks' classes in ``networks.py`` and a reader ``load.py``. The
networks were trained on all 50,000 training images, so 2,000 of those serve for validation: decisions never see the
test images, whose top-1 is computed once a run, after the clock has stopped. Sizes are reductions of the packed weights
against float32; scales, biases and unquantized parameters are shown beside. Runs that are already in the results file
are skipped. Run with GOMP_SPINCOUNT=10000.

The strategies other than ``sigma`` search alike with and without training. ``--reuse-plans`` takes the plan that the
results file has of the same network, strategy, size and seed in the other mode; the row says so, and its seconds are
those without the search.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

import sigmaquant
from sigmaquant import Budget, Settings
from sigmaquant.data import cifar10_data, split
from sigmaquant.runs import make_progress
from sigmaquant.tasks import as_task
from sigmaquant.training.devices import choose_device
from sigmaquant.training.metrics import evaluate

NETWORKS = {"resnet20": "akamaster_resnet20_cifar10", "resnet56": "akamaster_resnet56_cifar10"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ALL_WIDTHS = (2, 3, 4, 5, 6, 7, 8)


def settings(args: argparse.Namespace, strategy: str, seed: int) -> Settings:
    """What all strategies share: every width, the same sensitivity, the same training."""
    base: dict[str, Any] = {
        "strategy": strategy,
        "bitwidths": ALL_WIDTHS,
        "sensitivity": "curvature",
        "sensitivity_examples": 256,
        "post_training": args.mode == "post-training",
        "cycle_examples": 0,
        "max_cycles": 3,
        "final_epochs": args.epochs,
        "search_examples": 512,
        "seed": seed,
        "bf16": args.bf16,
    }
    return Settings(**{**base, **json.loads(args.settings)})


KEY = ("network", "mode", "strategy", "size", "seed", "epochs", "settings", "bf16")


def known_plan(key: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, int] | None:
    """What the same search found in the other mode; `sigma` may train while it searches, so it has no such row."""

    def search(row: dict[str, Any]) -> list[Any]:
        chosen = {name: value for name, value in json.loads(row["settings"]).items() if name != "lr"}
        return [row["network"], row["strategy"], row["size"], row["seed"], chosen]

    same = (row for row in rows if search(row) == search(key) and row["mode"] != key["mode"])
    return None if key["strategy"] == "sigma" else next((row["weights"] for row in same), None)


def key_of(args: argparse.Namespace, chosen: Settings, size: float) -> dict[str, Any]:
    """What tells a row from others, by the names of `KEY`."""
    return {
        "network": args.network,
        "mode": args.mode,
        "strategy": chosen.strategy,
        "size": size,
        "seed": chosen.seed,
        "epochs": args.epochs if args.mode == "trained" else 0,
        "settings": args.settings,
        "bf16": chosen.trains and choose_device(args.device, chosen.bf16).bf16,
    }


def run(args: argparse.Namespace, chosen: Settings, key: dict[str, Any]) -> dict[str, Any]:
    strategy, size, seed = key["strategy"], key["size"], key["seed"]
    sys.path.insert(0, str(args.data))
    import load  # the data folder's own reader

    torch.manual_seed(seed)
    network, _ = load.network(NETWORKS[args.network])
    data = cifar10_data(args.data / "cifar10", mean=MEAN, std=STD, batch_size=args.batch_size)
    train, validation = split(data.train, size=2000, seed=0)
    plan = known_plan(key, read(args.out)) if args.reuse_plans else None
    if plan is not None:
        chosen = replace(chosen, pin=plan)
    wall, cpu = time.perf_counter(), time.process_time()
    result = sigmaquant.quantize(
        network,
        train,
        budget=Budget(size=f"{size!r}x", size_counts="weights"),
        validation_data=validation,
        settings=chosen,
        device=args.device,
        run_dir=None if args.runs is None else args.runs / f"{args.network}-{args.mode}-{strategy}-{size:.4g}-{seed}",
        overwrite=args.runs is not None,
        progress=make_progress(show=not args.quiet),
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        **key,
        "test_top1": evaluate(result.network, data.test.batches(), as_task(), choose_device(args.device)),
        "validation_top1": result.scores.validation,
        "weight_bytes": result.cost.weight_bytes,
        "scale_bytes": result.cost.scale_bytes,
        "other_bytes": result.cost.other_bytes,
        "weights": dict(result.plan.weights),
        "plan_reused": plan is not None,
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        **({} if args.device == "cpu" else {"device": torch.cuda.get_device_name(args.device)}),
        "sigmaquant": sigmaquant.__version__,
        "torch": torch.__version__,
    }


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(rows: list[dict[str, Any]]) -> str:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[k] for k in KEY if k != "seed")].append(row)
    lines = [
        "| network | mode | size | strategy | top-1 % (range) | seeds | weights | scales + other | wall s | CPU s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key, found in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1], item[0][3], item[0][2])):
        scores = [100 * row["test_top1"] for row in found]
        first = found[0]
        spread = f" ({min(scores):.2f}..{max(scores):.2f})" if len(scores) > 1 else ""
        mode = (
            key[1] + (f", {first['epochs']:g} epochs" if first["epochs"] else "") + (", bf16" if first["bf16"] else "")
        )
        changed = f" `{first['settings']}`" if first["settings"] != "{}" else ""
        lines.append(
            f"| {key[0]} | {mode} | {first['size']:.4g}× | {first['strategy']}{changed} "
            f"| {statistics.mean(scores):.2f}{spread} | {len(found)} | {first['weight_bytes'] / 1024:.1f} KiB "
            f"| {(first['scale_bytes'] + first['other_bytes']) / 1024:.1f} KiB "
            f"| {statistics.mean(r['wall_s'] for r in found):.0f} | {statistics.mean(r['cpu_s'] for r in found):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with cifar10/, weights/, networks.py and load.py")
    parser.add_argument("--network", choices=sorted(NETWORKS), default="resnet20")
    parser.add_argument("--mode", choices=("post-training", "trained"), default="post-training")
    parser.add_argument("--sizes", default="8,32/3", help="reductions; 32/3 is 3 bits")
    parser.add_argument("--strategies", default="sigma")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, help="default: where the processor has it")
    parser.add_argument("--settings", default="{}", help="JSON of other fields of sigmaquant.Settings")
    parser.add_argument("--out", type=Path, default=Path("results/cifar.jsonl"))
    parser.add_argument("--reuse-plans", action="store_true", help="search once for both modes")
    parser.add_argument("--runs", type=Path, help="keep the run directories in this folder, for export and verify")
    parser.add_argument("--table", type=Path, help="only print the table of a results file")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    if args.table:
        if not args.table.is_file():
            parser.error(f"there is no file {args.table}")
        print(table(read(args.table)))
        return
    if args.data is None:
        parser.error("--data is needed")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in (int(s) for s in args.seeds.split(",")):
        for size in (float(Fraction(s)) for s in args.sizes.split(",")):
            for strategy in args.strategies.split(","):
                chosen = settings(args, strategy, seed)
                key = key_of(args, chosen, size)
                if any(key.items() <= row.items() for row in read(args.out)):
                    continue
                row = run(args, chosen, key)
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(
                    strategy,
                    f"{size:.4g}",
                    seed,
                    f"top-1 {row['test_top1']:.4f}",
                    f"wall {row['wall_s']} s",
                    flush=True,
                )
    print(table(read(args.out)))


if __name__ == "__main__":
    main()
