"""Latency that a profile predicts against latency measured, on networks that were not used to fit the profile.

    OMP_NUM_THREADS=1 python benchmarks/latency.py --data DIR --profile cpu-onnxruntime
    python benchmarks/latency.py --data DIR --profile board.json --runner "ssh board ./bench {model} {runs}"

    python benchmarks/latency.py --data DIR --profile m4.json --to c --clock-mhz 100 --runs 1 --repeats 1 \\
        --runner "python -m sigmaquant.measurement.qemu {model} {runs}"

The networks of ``benchmarks/export.py`` at mixed bitwidths and at 8 bits, written as ONNX files or C, and run by the
kind of command that ``sigmaquant hardware measure`` takes. Each is measured several times, in rounds over all; the
fastest counts, as in the profile, and the range is shown.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import torch

import export  # the networks of benchmarks/export.py
from sigmaquant.export.c import export_c
from sigmaquant.export.onnx import export_onnx
from sigmaquant.hardware.profile import load_profile
from sigmaquant.hardware.profiled import ProfiledCosts
from sigmaquant.measurement.runner import CommandRunner
from sigmaquant.plan import BITWIDTHS

HERE = f'"{sys.executable}" -m sigmaquant.measurement.onnxruntime_runner {{model}} {{runs}}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10/, weights/ and load.py")
    parser.add_argument("--profile", required=True, help="a shipped profile's name, or a file")
    parser.add_argument("--runner", default=HERE, help="runs one file; default: ONNX Runtime on this machine")
    parser.add_argument("--networks", default="resnet8,resnet20,densenet100,mobilenetv2")
    parser.add_argument("--runs", type=int, default=50, help="inferences in one measurement")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each file")
    parser.add_argument("--to", choices=("onnx", "c"), default="onnx", help="what is measured")
    parser.add_argument("--clock-mhz", type=float, help="of a device whose runner prints cycles")
    args = parser.parse_args()
    sys.path.insert(0, str(args.data))
    torch.manual_seed(0)
    profile, runner = load_profile(args.profile), CommandRunner(args.runner, clock_mhz=args.clock_mhz)
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.networks.split(","):
            given = export.subject(name, args.data, 2)
            for title, widths in (("8 bits", (8,)), ("2 to 8 bits", BITWIDTHS)):
                model = export.quantized(given, widths)
                predicted = ProfiledCosts(given.graph, profile).cost(model.plan).latency_ms
                if predicted is None:
                    raise SystemExit(f"the profile {args.profile} gives no latency")
                path = Path(folder) / f"{name}-{len(widths)}{'.onnx' if args.to == 'onnx' else ''}"
                (export_onnx if args.to == "onnx" else export_c)(model, path)
                cases.append((name, title, predicted, path))
        rounds = [[runner(path, args.runs) for *_, path in cases] for _ in range(args.repeats)]
    print("| network | weights | predicted ms | measured ms (range) | error |")
    print("| --- | --- | --- | --- | --- |")
    errors = []
    for (name, title, predicted, _), found in zip(cases, zip(*rounds, strict=True), strict=True):
        errors.append(predicted / min(found) - 1)
        measured = f"{min(found):.3f} ({min(found):.3f}..{max(found):.3f})"
        print(f"| {name} | {title} | {predicted:.3f} | {measured} | {100 * errors[-1]:+.1f} % |")
    sizes = [abs(error) for error in errors]
    print(f"\nmean absolute error {100 * statistics.mean(sizes):.1f} %, largest {100 * max(sizes):.1f} %")


if __name__ == "__main__":
    with torch.no_grad():
        main()
