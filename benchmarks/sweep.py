"""A frontier of one network: one worker against two, and each run begun from a neighbour against from nothing.

    python benchmarks/sweep.py --data DIR
    python benchmarks/sweep.py --data DIR --parts alone,one

DIR as for ``benchmarks/cifar.py``. ResNet-20, post-training, so that the search is what is timed. ``alone`` fits every
size by itself, in new processes; ``one`` and ``two`` are sweeps with one and two workers (Ray). Peak memory is the
largest sum of the proportional set sizes of this program's processes, sampled twice a second (Linux). Every part
runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

import sigmaquant
from sigmaquant import Budget, Settings
from sigmaquant.data import cifar10_data, split

NETWORK = "akamaster_resnet20_cifar10"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SETTINGS = Settings(bitwidths=(2, 3, 4, 5, 6, 7, 8), post_training=True, max_cycles=4, search_examples=512, seed=0)


class PeakMemory(threading.Thread):
    """Memory of this process and all its descendants, proportional set size, as the kernel accounts it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_bytes, self.running = 0, True

    def run(self) -> None:
        while self.running:
            self.peak_bytes = max(self.peak_bytes, sum(map(self._pss_bytes, self._family())))
            time.sleep(0.5)

    @staticmethod
    def _family() -> set[int]:
        parents = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # ended meanwhile
                continue
        family = {os.getpid()}
        while more := {pid for pid, parent in parents.items() if parent in family} - family:
            family |= more
        return family

    @staticmethod
    def _pss_bytes(pid: int) -> int:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            return 0
        return next((1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)


def material(data: Path) -> dict[str, Any]:
    sys.path.insert(0, str(data))
    import load  # the data folder's own reader

    network, _ = load.network(NETWORK)
    images = cifar10_data(data / "cifar10", mean=MEAN, std=STD, batch_size=128)
    train, validation = split(images.train, size=2000, seed=0)
    return {"model": network, "train_data": train, "validation_data": validation, "test_data": images.test}


def budget(size: str) -> Budget:
    return Budget(size=size, size_counts="weights")


def part(name: str, data: Path, sizes: list[str]) -> dict[str, Any]:
    """One part, in this process."""
    given = material(data)
    torch.manual_seed(0)
    memory, began = PeakMemory(), time.perf_counter()
    memory.start()
    with tempfile.TemporaryDirectory() as folder:
        if name == "alone":
            points = []
            for size in sizes:
                result = sigmaquant.quantize(**given, budget=budget(size), settings=SETTINGS)
                points.append({"budget": size, "test": result.scores.test, "divergence": result.scores.divergence})
        else:
            found = sigmaquant.sweep(
                **given,
                budgets=[budget(size) for size in sizes],
                out=Path(folder) / "sweep",
                settings=SETTINGS,
                jobs={"one": 1, "two": 2}[name],
            )
            if found.failed:
                raise SystemExit(f"runs failed: {found.failed}")
            keys = ("budget", "test", "divergence", "started_from")
            points = [{key: getattr(point, key) for key in keys} for point in found.points]
    seconds = time.perf_counter() - began
    memory.running = False
    memory.join()
    return {"part": name, "seconds": seconds, "peak_bytes": memory.peak_bytes, "points": points}


def table(found: dict[str, dict[str, Any]], sizes: list[str]) -> str:
    lines = ["| | " + " | ".join(sizes) + " | seconds | peak MiB |", "| --- |" + " --- |" * (len(sizes) + 2)]
    for name, row in found.items():
        points = {point["budget"]: point for point in row["points"]}
        cells = [f"{100 * points[s]['test']:.2f} ({points[s]['divergence']:.4f})" for s in sizes]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['seconds']:.0f} | {row['peak_bytes'] / 2**20:.0f} |")
    if {"one", "two"} <= found.keys():
        one, two = found["one"], found["two"]
        lines.append(
            f"\ntwo workers: {one['seconds'] / two['seconds']:.2f} x as fast as one, "
            f"{two['peak_bytes'] / one['peak_bytes']:.2f} x the memory"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sizes", default="6x,8x,10x,12x,16x")
    parser.add_argument("--parts", default="alone,one,two")
    parser.add_argument("--part", help="one part in this process, as JSON; what the program calls itself with")
    args = parser.parse_args()
    sizes = args.sizes.split(",")
    if args.part:
        print(json.dumps(part(args.part, args.data, sizes)))
        return
    found: dict[str, dict[str, Any]] = {}
    for name in args.parts.split(","):
        command = [sys.executable, __file__, "--data", str(args.data), "--sizes", args.sizes, "--part", name]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[name] = json.loads(output.splitlines()[-1])
        print(f"{name}: {found[name]['seconds']:.0f} s", file=sys.stderr, flush=True)
    print("top-1 on the test images in % (KL to the float network on validation images)\n")
    print(table(found, sizes))


if __name__ == "__main__":
    main()
