"""A recurrent network with a real task at few bits: an LSTM over the rows of a handwritten digit, and all its files.

    GOMP_SPINCOUNT=10000 python benchmarks/recurrent.py --tasks DIR

`DIR` has ``load_sequence.py`` and ``networks_sequence.py`` with the network, its weights and 10,000 digits. Each row is
two runs: one half of the digits trains, calibrates and decides, the other half is scored once at the end; then the
other way round. `test` is the mean, over all 10,000 digits. Sizes count the packed weights alone, so that 32/3 is a
mean of three bits. Uniform plans of the same size and the same training stand beside them. Files are those of the
first run, verified on 1,000 digits.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch

import sigmaquant
from sigmaquant import Budget
from sigmaquant.runs.atomic import write_text_atomic
from sigmaquant.workflow.exporting import export_run

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "recurrent.jsonl"
BITS = (8, 4, 3, 2)
TRAINED_EPOCHS = 10.0
FILES = ("packed", "c", "onnx", "litert")


def row(bits: int, trained: bool, strategy: str, tasks: Any, folder: Path) -> dict[str, Any]:
    """One size, with or without training, in two runs."""
    load, network_of, halves = tasks
    results, begun = [], time.perf_counter()
    for number, train in enumerate(halves):
        torch.manual_seed(0)
        network, test = load.weights(network_of(), "mnist_lstm"), halves[1 - number]
        result = sigmaquant.quantize(
            network,
            train,
            budget=Budget(size=f"{32 / bits!r}x", size_counts="weights"),
            test_data=test,
            bitwidths=(2, 3, 4, 5, 6, 7, 8),
            strategy=strategy,
            post_training=not trained,
            validation_fraction=0.2,
            final_epochs=TRAINED_EPOCHS,
            device="cpu",
            run_dir=folder / str(number),
            overwrite=True,
        )
        results.append(result)
    found = {
        "bits": bits,
        "trained": trained,
        "strategy": strategy,
        "test": mean([r.scores.test for r in results]),
        "float_test": mean([r.float_scores.test for r in results]),
        "halves": [r.scores.test for r in results],
        "plans": [list(r.plan.weights.values()) for r in results],
        "seconds": round((time.perf_counter() - begun) / 2),
    }
    if strategy != "uniform":
        network = load.weights(network_of(), "mnist_lstm")
        verdicts = export_run(network, folder / "0", halves[1], to=list(FILES), examples=1000)
        found["files"] = {
            v.target: {
                "passed": v.passed,
                "bytes": v.real_bytes,
                "equal": None if v.agreement is None else round(v.agreement.equal, 4),
                "decisions": None if v.agreement is None else v.agreement.decisions,
                "latency_ratio": None if v.latency_ratio is None else round(v.latency_ratio, 2),
            }
            for v in verdicts
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--only", default="", help="rows such as 3, 2-trained, 3-uniform, separated by commas")
    parser.add_argument("--work", type=Path, default=Path("runs/recurrent"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.tasks))
    import load_sequence
    import networks_sequence

    x, y = load_sequence.mnist()
    half = len(x) // 2
    tasks = load_sequence, networks_sequence.MnistLSTM, ((x[:half], y[:half]), (x[half:], y[half:]))
    cases = itertools.product(BITS, (False, True), ("sigma", "uniform"))
    wanted = set(filter(None, arguments.only.split(",")))
    rows = []
    for bits, trained, strategy in cases:
        name = "-".join([str(bits), *(["trained"] if trained else []), *(["uniform"] if strategy == "uniform" else [])])
        if (wanted and name not in wanted) or (trained and bits > 3) or (bits == 2 and strategy == "uniform"):
            continue
        rows.append(row(bits, trained, strategy, tasks, arguments.work / name))
        print(json.dumps(rows[-1]), flush=True)
    if not wanted:
        write_text_atomic(arguments.out, "".join(json.dumps(found) + "\n" for found in rows))


if __name__ == "__main__":
    main()
