"""The paper's hardware claim on our own units: area, energy and latency of serial arrays against an INT8 array.

    python benchmarks/hardware.py plans  --data DIR            # search the plans, about a minute each
    python benchmarks/hardware.py report --data DIR            # tables from the plans, seconds
    python benchmarks/hardware.py budget --data DIR            # an energy budget against a size budget at equal energy

DIR as for ``benchmarks/cifar.py``. Plans are those of a post-training search on ResNet-20 for a size, with weights on
grids that have a zero (``midrise_up_to=0``), as serial units want them; the costs are those of the plans' real integer
codes. All figures are pre-layout, IHP sg13g2, typical corner, 1.2 V, 100 MHz: ratios are safer than absolutes. Memory
is compulsory traffic only. Plans and networks are kept in ``results/hardware``.
"""

from __future__ import annotations

import argparse
import json
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import sigmaquant
from sigmaquant import Budget, Settings, load_profile, load_quantized
from sigmaquant.data import cifar10_data, split
from sigmaquant.graph import QuantGraph
from sigmaquant.hardware.profile import HardwareProfile
from sigmaquant.hardware.profiled import HardwareCost, ProfiledCosts
from sigmaquant.plan import BitwidthPlan
from sigmaquant.runs import make_progress
from sigmaquant.tasks import as_task
from sigmaquant.training.devices import choose_device
from sigmaquant.training.metrics import evaluate

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = ("8", "32/3", "16")
SERIAL = {"shift-add-csd-sg13g2": "int8-sg13g2", "bit-serial-sg13g2": "int8-dot-sg13g2"}
PAPER_AREA, PAPER_ENERGY = 1 - 0.223, 1 - 0.206


def network(args: argparse.Namespace) -> torch.nn.Module:
    sys.path.insert(0, str(args.data))
    import load  # the data folder's own reader

    found: torch.nn.Module = load.network("akamaster_resnet20_cifar10")[0]
    return found


def search(args: argparse.Namespace, name: str, budget: Budget, hardware: str) -> Any:
    """One post-training search; a finished one is read back."""
    folder = args.out / name
    model = network(args)
    data = cifar10_data(args.data / "cifar10", mean=MEAN, std=STD, batch_size=128)
    if not (folder / "result.json").exists():
        train, validation = split(data.train, size=2000, seed=0)
        settings = Settings(
            bitwidths=(2, 3, 4, 5, 6, 7, 8), post_training=True, max_cycles=4, search_examples=512, midrise_up_to=0
        )
        sigmaquant.quantize(
            model,
            train,
            budget=budget,
            validation_data=validation,
            settings=settings,
            hardware=hardware,
            run_dir=folder,
            overwrite=folder.exists(),
            progress=make_progress(show=not args.quiet),
        )
    found = load_quantized(model, torch.zeros(2, 3, 32, 32), folder)
    result = json.loads((folder / "result.json").read_text())
    result["test_top1"] = evaluate(found, data.test.batches(), as_task(), choose_device()) if args.test else None
    return found, result


def costs(found: Any, profile: str) -> HardwareCost:
    """Of the network's own integer codes."""
    codes = {name: found.codes(name) for name in found.graph.layer}
    return ProfiledCosts(found.graph, load_profile(profile)).report(found.plan, codes)


def uniform(graph: QuantGraph, bits: int, profile: str) -> HardwareCost:
    plan = BitwidthPlan(dict.fromkeys(graph.layer, bits), dict.fromkeys(graph.activation_names, 8))
    return ProfiledCosts(graph, load_profile(profile)).report(plan)


def area_um2(profile: HardwareProfile) -> float:
    assert profile.compute is not None
    assert profile.compute.unit is not None
    return profile.compute.unit.area_um2


def mean_bits(found: Any) -> float:
    elements = {spec.name: spec.elements for spec in found.graph.layers}
    return sum(found.plan.weights[n] * e for n, e in elements.items()) / sum(elements.values())


def report(args: argparse.Namespace) -> None:
    runs = [(size, *search(args, f"size-{float(Fraction(size)):.4g}", _size(size), "ideal")) for size in SIZES]
    graph = runs[0][1].graph
    for serial, baseline in SERIAL.items():
        profile, parallel = load_profile(serial), load_profile(baseline)
        whole = uniform(graph, 8, baseline)
        ratio = area_um2(profile) / area_um2(parallel)
        print(f"\n{serial} against {baseline} at 8 bits; one unit has {ratio:.3f} of its area\n")
        print(
            "| plan | mean bits | KL | MAC energy | all energy | cycles, equal units "
            "| latency, 77.7 % area | same plan, INT8 MAC energy |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        rows = [
            (f"{size}×", mean_bits(found), result["scores"]["divergence"], costs(found, serial), costs(found, baseline))
            for size, found, result in runs
        ]
        rows += [
            (f"uniform {bits} b", float(bits), None, uniform(graph, bits, serial), uniform(graph, bits, baseline))
            for bits in range(2, 9)
        ]
        below: list[tuple[float, float]] = []
        for name, bits, kl, cost, same in rows:
            energy, cycles = cost.mac_energy_pj / whole.mac_energy_pj, cost.total.cycles / whole.total.cycles
            # an array of serial units that takes 77.7 % of the INT8 array's area
            units = PAPER_AREA / ratio
            shown = "–" if kl is None else f"{kl:.3f}"
            print(
                f"| {name} | {bits:.2f} | {shown} | {energy:.3f} | {cost.total.energy_pj / whole.total.energy_pj:.3f} "
                f"| {cycles:.2f} | {cycles / units:.2f} | {same.mac_energy_pj / whole.mac_energy_pj:.3f} |"
            )
            if name.startswith("uniform"):
                below.append((bits, energy))
        print(f"\nMAC energy of {100 * PAPER_ENERGY:.1f} % holds up to a uniform width of {_crossing(below)} bits")


def _crossing(points: list[tuple[float, float]]) -> str:
    """The largest width, interpolated, with the paper's energy saving."""
    if points[0][1] > PAPER_ENERGY:
        return "less than 2"
    for (low, a), (high, b) in pairwise(points):
        if b > PAPER_ENERGY:
            return f"{low + (PAPER_ENERGY - a) / (b - a) * (high - low):.1f}"
    return "8"


def _size(text: str) -> Budget:
    return Budget(size=f"{float(Fraction(text))!r}x", size_counts="weights")


def budget(args: argparse.Namespace) -> None:
    hardware = "shift-add-csd-sg13g2"
    print("| budget | energy µJ | weights KiB | mean bits | KL on validation | top-1 % |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in args.sizes.split(","):
        name = f"{float(Fraction(size)):.4g}"
        by_size = search(args, f"size-{name}", _size(size), "ideal")
        energy_pj = costs(by_size[0], hardware).total.energy_pj
        by_energy = search(args, f"energy-{name}", Budget(energy=f"{energy_pj / 1e6:.6f} uJ"), hardware)
        for title, (found, result) in ((f"size {size}×", by_size), ("the same energy", by_energy)):
            cost = costs(found, hardware).total
            top = "–" if result["test_top1"] is None else f"{100 * result['test_top1']:.2f}"
            print(
                f"| {title} | {cost.energy_pj / 1e6:.2f} | {cost.weight_bytes / 1024:.1f} | {mean_bits(found):.2f} "
                f"| {result['scores']['divergence']:.4f} | {top} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("plans", "report", "budget"))
    parser.add_argument("--data", type=Path, required=True, help="folder as for benchmarks/cifar.py")
    parser.add_argument("--sizes", default="8,32/3,12.8", help="of `budget`")
    parser.add_argument("--out", type=Path, default=Path("results/hardware"))
    parser.add_argument("--test", action="store_true", help="also top-1 on the test images")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    if args.what == "budget":
        budget(args)
    elif args.what == "report":
        report(args)
    else:
        for size in SIZES:
            search(args, f"size-{float(Fraction(size)):.4g}", _size(size), "ideal")


if __name__ == "__main__":
    main()
