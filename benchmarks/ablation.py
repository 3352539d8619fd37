"""Which sigma, which sensitivity, and whether phase 2: everything else equal, post-training, on ResNet-20 and CIFAR-10.

    GOMP_SPINCOUNT=10000 python benchmarks/ablation.py --data DIR --sizes 32/3,12.8

The decision is made by the distance of the outputs to the float network's (KL in nats) on 2,000 held-out training
images; the test accuracy stands beside it for information and decided nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from cifar import ALL_WIDTHS, MEAN, STD

import sigmaquant
from sigmaquant import Budget
from sigmaquant.data import cifar10_data, split

SIGMAS = ("raw", "folded", "normalised")
SENSITIVITIES = ("divergence", "fisher", "curvature", "output_kl")


def variants() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"sigma": s, "phase2": False, "sensitivity": "curvature"} for s in SIGMAS]
    found += [{"sigma": "raw", "phase2": True, "sensitivity": name} for name in SENSITIVITIES]
    found += [{"sigma": s, "phase2": True, "sensitivity": "curvature"} for s in SIGMAS[1:]]
    found += [{"strategy": "ilp", "sensitivity": name} for name in SENSITIVITIES]
    return [*found, {"strategy": "uniform"}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sizes", default="32/3")
    parser.add_argument("--cycles", type=int, default=8, help="moves that phase 2 may try")
    parser.add_argument("--rounding", default="compensated", choices=("nearest", "compensated"))
    parser.add_argument("--out", type=Path, default=Path("results/ablation.jsonl"))
    args = parser.parse_args()
    sys.path.insert(0, str(args.data))
    import load

    args.out.parent.mkdir(parents=True, exist_ok=True)
    data = cifar10_data(args.data / "cifar10", mean=MEAN, std=STD)
    train, validation = split(data.train, size=2000, seed=0)
    print("| size | strategy | sigma | phase 2 | sensitivity | KL, nats | validation | test | s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for size in (float(Fraction(text)) for text in args.sizes.split(",")):
        for changes in variants():
            torch.manual_seed(0)
            network, _ = load.network("akamaster_resnet20_cifar10")
            begun = time.perf_counter()
            result = sigmaquant.quantize(
                network,
                train,
                budget=Budget(size=f"{size!r}x", size_counts="weights"),
                validation_data=validation,
                test_data=data.test,
                bitwidths=ALL_WIDTHS,
                post_training=True,
                rounding=args.rounding,
                max_cycles=args.cycles,
                search_examples=512,
                **changes,
            )
            seconds = time.perf_counter() - begun
            scores = result.scores
            row = {"size": size, "rounding": args.rounding, **changes, **scores.__dict__, "seconds": round(seconds, 1)}
            with args.out.open("a") as file:
                file.write(json.dumps({**row, "weights": dict(result.plan.weights)}) + "\n")
            phase2 = {True: "yes", False: "no"}.get(changes.get("phase2"), "–")
            print(
                f"| {size:.4g}× | {changes.get('strategy', 'sigma')} | {changes.get('sigma', '–')} | {phase2} "
                f"| {changes.get('sensitivity', '–')} | {scores.divergence:.4f} | {scores.validation:.4f} "
                f"| {scores.test:.4f} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
