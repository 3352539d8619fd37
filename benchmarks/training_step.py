"""Time of one training step under quantization as a ratio to the same step in float, in one run, steps interleaved.

    GOMP_SPINCOUNT=10000 python benchmarks/training_step.py --data DIR [--bits 3] [--steps 12]

ResNet-20, batches of 128 CIFAR-sized random images, cross-entropy, SGD with momentum for both; the distillation
teacher's forward pass is timed apart. Medians of wall and of CPU seconds.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from sigmaquant import BitwidthPlan, trace
from sigmaquant.quant import calibrate_, prepare, set_plan_
from sigmaquant.training.devices import Device, cpu_has_bf16
from sigmaquant.training.qat import Recipe, make_optimizer
from sigmaquant.training.teacher import make_teacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--bf16", action="store_true", help="also where the processor has to emulate it")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    sys.path.insert(0, str(args.data))
    import load

    torch.manual_seed(0)
    network, _ = load.network("akamaster_resnet20_cifar10")
    graph = trace(network, torch.zeros(2, 3, 32, 32))
    for bf16 in (False, True):
        if bf16 and args.device == "cpu" and not (cpu_has_bf16() or args.bf16):
            print("| bf16 | skipped: this processor has no bfloat16 arithmetic (--bf16 to emulate it) |")
            continue
        device = Device(args.device, bf16)
        images = device.put(torch.randn(args.batch_size, 3, 32, 32))
        labels = device.put(torch.randint(0, 10, (args.batch_size,)))
        floating = device.put_module(copy.deepcopy(graph.module)).train()
        quantized = prepare(graph)
        device.put_module(quantized)
        names = {spec.name: args.bits for spec in graph.layers}
        set_plan_(quantized, BitwidthPlan(names, dict.fromkeys(graph.activation_names, 8)))
        calibrate_(quantized, [images])
        quantized.train()
        teacher = device.put_module(make_teacher(graph))
        recipe = Recipe(lr=1e-4, scale_lr=1e-4)
        optimizers = {
            "float": torch.optim.SGD(floating.parameters(), lr=1e-4, momentum=0.9, nesterov=True, weight_decay=1e-4),
            "quantized": make_optimizer(quantized, recipe),
        }

        def wait() -> None:
            if args.device != "cpu":
                torch.accelerator.synchronize()

        def step(module: torch.nn.Module, name: str) -> None:
            optimizer = optimizers[name]  # noqa: B023 (called in this turn of the loop)
            with device.autocast():  # noqa: B023
                loss = F.cross_entropy(module(images).float(), labels)  # noqa: B023
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        def look() -> None:
            with torch.no_grad(), device.autocast():  # noqa: B023
                teacher(images)  # noqa: B023

        parts: dict[str, Callable[[], None]] = {
            "float": lambda: step(floating, "float"),  # noqa: B023
            "quantized": lambda: step(quantized, "quantized"),  # noqa: B023
            "teacher": look,
        }
        wall: dict[str, list[float]] = {name: [] for name in parts}
        cpu: dict[str, list[float]] = {name: [] for name in parts}
        for turn in range(args.steps + 2):
            for name, part in parts.items():
                wait()
                w, c = time.perf_counter(), time.process_time()
                part()
                wait()
                if turn >= 2:
                    wall[name].append(time.perf_counter() - w)
                    cpu[name].append(time.process_time() - c)
        kind = "bf16" if bf16 else "float32"
        for label, times in (("wall", wall), ("CPU", cpu)):
            m = {name: statistics.median(values) for name, values in times.items()}
            print(
                f"| {kind} | {label} | float {m['float']:.3f} s | quantized {m['quantized']:.3f} s "
                f"| ratio {m['quantized'] / m['float']:.2f} | teacher {m['teacher']:.3f} s |"
            )
    print(
        f"{args.device}, {torch.get_num_threads()} threads, batch {args.batch_size}, {args.bits}-bit weights, "
        "8-bit activations"
    )


if __name__ == "__main__":
    main()
