"""Time of the library's work on two threads by how long idle ones stay awake, beside one thread.

    python benchmarks/threads.py --data DIR             # a quiet processor
    python benchmarks/threads.py --data DIR --busy 2    # beside two processes that take what they can get

Each setting is a process of its own. ResNet-20 at 3 bits, batches of 128 random images; medians of three.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sigmaquant import BitwidthPlan, trace
from sigmaquant.quant import calibrate_, prepare, reestimate_batch_norm_, set_plan_
from sigmaquant.statistics.fisher import fisher_sensitivities
from sigmaquant.statistics.quantized import QuantizedWeights
from sigmaquant.tasks import as_task
from sigmaquant.training.devices import choose_device
from sigmaquant.training.metrics import outputs_of
from sigmaquant.training.qat import Recipe, make_optimizer, train_
from sigmaquant.training.teacher import make_teacher

SETTINGS = {
    "`GOMP_SPINCOUNT=10000`": {"GOMP_SPINCOUNT": "10000"},
    "`GOMP_SPINCOUNT=1000`": {"GOMP_SPINCOUNT": "1000"},
    "OpenMP's own": {},
    "`OMP_WAIT_POLICY=passive`": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BUSY = "while True: sum(range(10**6))"


def measure(data: Path) -> dict[str, float]:
    """Seconds of each kind of work."""
    sys.path.insert(0, str(data))
    import load

    torch.manual_seed(0)
    network, _ = load.network("akamaster_resnet20_cifar10")
    device = choose_device("cpu", bf16=False)
    batches = [(device.put(torch.randn(128, 3, 32, 32)), torch.zeros(128, dtype=torch.long)) for _ in range(10)]
    images = [x for x, _ in batches]
    graph = trace(network, images[0][:2])
    teacher = device.put_module(make_teacher(graph))
    student = prepare(graph)
    device.put_module(student)
    weights = {spec.name: 3 for spec in graph.layers}
    set_plan_(student, BitwidthPlan(weights, dict.fromkeys(graph.activation_names, 8), graph.fingerprint, 2))
    calibrate_(student, images[:1])
    recipe = Recipe(lr=1e-4)
    optimizer = make_optimizer(student, recipe)
    parts: dict[str, Callable[[], object]] = {
        "4 training steps": lambda: train_(student, teacher, batches[:4], optimizer, recipe, device),
        "BatchNorm re-estimation, 10 batches": lambda: reestimate_batch_norm_(student, images),
        "outputs, 10 batches": lambda: outputs_of(student, batches, as_task(), device),
        "curvature, 128 examples": lambda: fisher_sensitivities(graph, (2, 4, 6, 8), images[:1]),
        "MSE scales, four bitwidths": lambda: QuantizedWeights(graph, (2, 4, 6, 8)),
    }
    return {name: statistics.median(seconds(part) for _ in range(3)) for name, part in parts.items()}


def seconds(part: Callable[[], object]) -> float:
    started = time.perf_counter()
    part()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--busy", type=int, default=0, help="processes that work beside")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.data)))
        return
    variables = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    plain = {key: value for key, value in os.environ.items() if key not in variables} | {"OMP_NUM_THREADS": "2"}
    beside = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(args.busy)]
    try:
        for number, (name, setting) in enumerate(SETTINGS.items()):
            command = [sys.executable, __file__, "--data", str(args.data), "--child"]
            done = subprocess.run(command, env=plain | setting, stdout=subprocess.PIPE, check=True)
            found = json.loads(done.stdout)
            if number == 0:
                print(f"| seconds | {' | '.join(found)} |")
                print(f"| --- |{' --- |' * len(found)}")
            print(f"| {name} | {' | '.join(f'{value:.2f}' for value in found.values())} |", flush=True)
    finally:
        for process in beside:
            process.kill()


if __name__ == "__main__":
    main()
