"""Instructions of exported C networks on Cortex-M, counted under QEMU, and their flash and RAM.

Needs arm-none-eabi-gcc with newlib, and qemu-system-arm. QEMU counts instructions, not cycles: loads, multiplications
and branches count one each, whatever the core and its memory make of them.

    python benchmarks/mcu.py                              layers by type and bitwidth, on a Cortex-M4
    python benchmarks/mcu.py --core m7 --bits 2,4,8
    python benchmarks/mcu.py --core m7 --profile cortex-m7.json
    python benchmarks/mcu.py --networks --data DIR        whole networks; DIR has load.py and the trained networks
    python benchmarks/mcu.py --tiny --bits 2              networks of MLPerf Tiny's shapes, random weights
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sigmaquant.export.c import CReport, export_c
from sigmaquant.graph import trace
from sigmaquant.hardware.profile import HardwareProfile
from sigmaquant.lowering import IntegerModel, lower
from sigmaquant.measurement.qemu import BOARDS, Board, command, kernel_instructions, missing_tools
from sigmaquant.numerics import weight_qmax
from sigmaquant.operators import Convolution, Edge, Linear
from sigmaquant.operators.fixed_point import factor
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_

PARTS = {"m4": ("Arm Cortex-M4", 100), "m7": ("Arm Cortex-M7", 400)}
"""Name and usual clock in MHz."""
KINDS = {"conv 3x3": "conv", "pointwise": "pointwise", "depthwise 3x3": "depthwise", "linear": "linear"}
"""A hardware profile's name for each kind of `LAYERS`."""


def memory(board: Board, report: CReport, optimization: str = "-O2") -> tuple[int, int]:
    """Bytes of flash and RAM that the linker gives the network, its kernels, and what they need of the C library."""
    folder = report.folder.resolve()
    sources = [str(path) for path in sorted(folder.glob("*.c")) if path.name != "main.c"]
    with tempfile.TemporaryDirectory() as scratch:
        image = f"{scratch}/image.elf"
        sections = [
            "-ffunction-sections",
            "-fdata-sections",
            "-nostartfiles",
            f"-Wl,--gc-sections,-e,{report.name}_run",
        ]
        command(["arm-none-eabi-gcc", *board.flags, "-std=c99", optimization, *sections, *sources, "-o", image])
        text, data, bss = map(int, command(["arm-none-eabi-size", image]).splitlines()[1].split()[:3])
    return text + data, data + bss


# -- what is measured --------------------------------------------------------------------------------------------


LAYERS = {
    "conv 3x3, 3→16, 32x32": (16, 3, 3, 32, 1),
    "conv 3x3, 16→16, 32x32": (16, 16, 3, 32, 1),
    "conv 3x3, 32→32, 16x16": (32, 32, 3, 16, 1),
    "conv 3x3, 64→64, 8x8": (64, 64, 3, 8, 1),
    "pointwise, 32→64, 16x16": (64, 32, 1, 16, 1),
    "pointwise, 96→24, 8x8": (24, 96, 1, 8, 1),
    "depthwise 3x3, 96, 16x16": (96, 96, 3, 16, 96),
    "linear, 256→64": (64, 256, 0, 0, 1),
}
"""Outputs, inputs, kernel (0: linear), height and width, groups."""

TRAINED = {
    "ResNet-20": "akamaster_resnet20_cifar10",
    "ResNet-8": "mlperf_resnet8_cifar10",
    "DenseNet-100": "dice_densenet100_12_cifar10",
}


def layer_model(outputs: int, inputs: int, kernel: int, size: int, groups: int, bits: int) -> IntegerModel:
    """A network of one layer with random codes."""
    generator = np.random.default_rng(0)
    qmax = weight_qmax(bits)
    shape = (outputs, inputs // groups) + (kernel, kernel) * bool(kernel)
    fan_in = int(np.prod(shape[1:]))
    common = {
        "name": "layer",
        "inputs": ("x",),
        "output": "y",
        "layer": "layer",
        "codes": generator.integers(-qmax, qmax + 1, shape).astype(np.int8),
        "bits": bits,
        "midrise": False,
        "gain": 1 << ((127 // qmax).bit_length() - 1),
        "scale": np.ones(outputs, dtype=np.float32),
        "bias": generator.integers(-1000, 1000, outputs).astype(np.int32),
        "factor": factor(np.full(outputs, 1 / (64 * fan_in**0.5)), "layer"),
        "low": -128,
        "high": 127,
    }
    if kernel:
        pad = ((kernel // 2,) * 2,) * 2
        operator = Convolution(**common, stride=(1, 1), padding=pad, dilation=(1, 1), groups=groups)
    else:
        operator = Linear(**common)
    spatial = (size, size) * bool(kernel)
    edges = {"x": Edge("x", (inputs, *spatial), 8, 1.0, -5), "y": Edge("y", (outputs, *spatial), 8, 1.0, 3)}
    plan = BitwidthPlan({"layer": bits}, {}, "", 0)
    return IntegerModel((operator,), edges, ("x",), ("y",), plan)


def networks(data: Path | None, bits: list[int]) -> Iterator[tuple[str, IntegerModel]]:
    """Networks at plans that give each layer one of `bits` in turn; trained ones where there is data."""
    if data is None:
        print("No --data: only the network with random weights.", file=sys.stderr)
    else:
        sys.path.insert(0, str(data))
        import load

        for label, name in TRAINED.items():
            yield label, quantized(load.network(name)[0], (3, 32, 32), bits)
    yield "MobileNetV2 0.35, 32x32", quantized(mobilenet(), (3, 32, 32), bits)


def tiny(bits: list[int]) -> Iterator[tuple[str, IntegerModel]]:
    """Networks of the shapes of MLPerf Tiny (v1.3) with random weights: instructions do not depend on them."""
    torch.manual_seed(0)
    yield "ResNet-8, 3x32x32", quantized(ResNet8().eval(), (3, 32, 32), bits)
    yield "DS-CNN, 1x49x10", quantized(separable(1, (64, (10, 4), 2), [(64, 1)] * 4, 12), (1, 49, 10), bits)
    blocks = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)]
    yield "VWW MobileNet 0.25, 3x96x96", quantized(separable(3, (8, (3, 3), 2), blocks, 2), (3, 96, 96), bits)


class ResNet8(nn.Module):
    """Three residual blocks of 16, 32 and 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = normalized(nn.Conv2d(3, 16, 3, padding=1, bias=False), 16)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                (
                    normalized(nn.Conv2d(inputs, outputs, 3, outputs // inputs, padding=1, bias=False), outputs),
                    nn.Conv2d(outputs, outputs, 3, padding=1),
                    nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, 2),
                )
            )
            for inputs, outputs in ((16, 16), (16, 32), (32, 64))
        )
        self.last = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for first, second, beside in self.blocks:
            x = torch.relu(second(first(x)) + beside(x))
        found: torch.Tensor = self.last(x.mean((2, 3)))
        return found


def normalized(layer: nn.Conv2d, channels: int) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU())


def separable(
    inputs: int,
    first: tuple[int, tuple[int, int], int],
    blocks: list[tuple[int, int]],
    classes: int,
) -> nn.Module:
    """A convolution (channels, kernel, stride), then pairs of depthwise and pointwise ones (channels, stride)."""
    channels, kernel, stride = first
    padding = ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
    if kernel[1] % 2 == 0:
        padding = (kernel[0] // 2 - 1 + kernel[0] % 2, kernel[1] // 2)
    layers: list[nn.Module] = [normalized(nn.Conv2d(inputs, channels, kernel, stride, padding, bias=False), channels)]
    for outputs, stride in blocks:
        layers.append(normalized(nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False), channels))
        layers.append(normalized(nn.Conv2d(channels, outputs, 1, bias=False), outputs))
        channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)).eval()


def mobilenet() -> nn.Module:
    """MobileNetV2 with random weights; BatchNorm statistics are those of random images."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    torch.manual_seed(0)
    config = MobileNetV2Config(image_size=32, depth_multiplier=0.35, num_labels=10, tf_padding=False)
    network = MobileNetV2ForImageClassification(config)
    with torch.no_grad():
        for _ in range(20):
            network.train()(torch.randn(16, 3, 32, 32))
    return network.eval()


def quantized(network: nn.Module, shape: tuple[int, ...], bits: list[int]) -> IntegerModel:
    """The network in integers, calibrated on random images."""
    images = torch.randn(32, *shape, generator=torch.Generator().manual_seed(1))
    graph = trace(network, (images[:2],))
    prepared = prepare(graph)
    weights = {layer.name: bits[i % len(bits)] for i, layer in enumerate(graph.layers)}
    set_plan_(prepared, BitwidthPlan(weights, dict.fromkeys(graph.activation_names, 8), graph.fingerprint, 0))
    calibrate_(prepared, [images])
    return lower(prepared)


def layer_table(board: Board, bits: list[int], optimization: str) -> dict[str, list[float]]:
    """Prints instructions per multiplication by layer and bitwidth, and returns them."""
    print("| instructions per multiplication | " + " | ".join(f"{b} bits" for b in bits) + " |")
    print("| --- |" + " --- |" * len(bits))
    rows: dict[str, list[float]] = {}
    for label, shape in LAYERS.items():
        rows[label] = []
        for width in bits:
            with tempfile.TemporaryDirectory() as scratch:
                report = export_c(layer_model(*shape, width), Path(scratch) / "layer", name="layer")
                counts = dict(kernel_instructions(board, report.folder, report.name, optimization))
            rows[label].append(counts[report.layers[0].kernel] / report.layers[0].macs)
        print(f"| {label} | " + " | ".join(f"{figure:.2f}" for figure in rows[label]) + " |", flush=True)
    return rows


def sequence_table(board: Board, bits: list[int], optimization: str) -> None:
    """Prints instructions per multiplication or value of attention and recurrent layers, by bitwidth, and memory."""
    import mcu_sequences

    print("| instructions each | " + " | ".join(f"{b} bits" for b in bits) + " | flash, RAM at the last |")
    print("| --- |" + " --- |" * (len(bits) + 1))
    for label, subject in mcu_sequences.SUBJECTS.items():
        figures, sizes = [], ""
        for width in bits if subject.weighted else bits[-1:]:
            with tempfile.TemporaryDirectory() as scratch:
                report = export_c(mcu_sequences.integers(subject, width), Path(scratch) / "layer", name="layer")
                counts = [
                    count
                    for kernel, count in kernel_instructions(board, report.folder, report.name, optimization)
                    if kernel.startswith(subject.kernel)
                ]
                figures.append(f"{sum(counts) / subject.count:.2f}")
                sizes = ", ".join(map(str, memory(board, report, optimization)))
        columns = figures if subject.weighted else figures * len(bits)
        print(f"| {label} | {' | '.join(columns)} | {sizes} |", flush=True)


def hardware_profile(core: str, bits: list[int], rows: dict[str, list[float]]) -> HardwareProfile:
    """Instructions taken as cycles: the mean over the layers of each kind, without the first layer of 3 channels."""
    part, clock_mhz = PARTS[core]
    first_layers = [label for label, shape in LAYERS.items() if shape[1] == 3]
    table = []
    for kind, layer in KINDS.items():
        chosen = [row for label, row in rows.items() if label.startswith(kind) and label not in first_layers]
        for index, width in enumerate(bits):
            cycles = round(sum(row[index] for row in chosen) / len(chosen), 3)
            table.append({"layer": layer, "w_bits": width, "a_bits": 8, "cycles_per_mac": cycles})
    first = ", ".join(f"{rows[label][0]:.2f}" for label in first_layers)
    return HardwareProfile.from_dict(
        {
            "schema_version": 1,
            "program": "c",
            "name": f"cortex-{core}",
            "description": f"{part} at {clock_mhz} MHz with the exported C kernels: instructions per MAC counted under "
            "QEMU, taken as cycles.",
            "compute": {"clock_mhz": float(clock_mhz), "parallel_macs": 1, "table": table},
            "memory": {"activation_container_bits": 8},
            "method": {
                "date": datetime.now(UTC).date().isoformat(),
                "command": f"python benchmarks/mcu.py --core {core} --bits {','.join(map(str, bits))} --profile FILE",
                "simulator": "qemu-system-arm, -icount shift=0",
                "stimuli": "one layer at a time, mean over the benchmark's sizes of each kind; the 3-channel first "
                f"layer, {first} instructions a MAC, is left out",
                "notes": [
                    "Instructions, not cycles: a latency from this profile is that of one instruction a cycle and "
                    "memory without wait states, to compare plans with, not to promise.",
                    "Energy is not given: it depends on the part.",
                    "Convolutions with weights of 2 and 3 bits have faster loops; elsewhere fewer bits save flash.",
                ],
            },
        }
    )


def network_table(board: Board, given: Iterable[tuple[str, IntegerModel]], optimization: str) -> None:
    """Prints instructions, flash and RAM by network."""
    columns = [
        "network",
        "multiplications",
        "instructions",
        "each",
        "packed weights",
        "tables",
        "flash",
        "arena",
        "RAM",
    ]
    print(f"| {' | '.join(columns)} |")
    print("| --- |" + " --- |" * (len(columns) - 1))
    for label, model in given:
        with tempfile.TemporaryDirectory() as scratch:
            report = export_c(model, Path(scratch) / "network", name="network")
            count = sum(n for _, n in kernel_instructions(board, report.folder, report.name, optimization))
            flash, ram = memory(board, report, optimization)
        macs = sum(layer.macs for layer in report.layers)
        row = [label, macs, count, f"{count / macs:.2f}", report.weight_bytes, report.table_bytes, flash]
        print("| " + " | ".join(map(str, [*row, report.arena_bytes, ram])) + " |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", choices=sorted(BOARDS), default="m4")
    parser.add_argument("--bits", default="2,3,4,5,6,7,8", help="bitwidths of weights")
    parser.add_argument("--optimization", default="-O2", help="the compiler's level")
    parser.add_argument("--networks", action="store_true", help="whole networks instead of layers")
    parser.add_argument("--tiny", action="store_true", help="networks of MLPerf Tiny's shapes")
    parser.add_argument("--sequences", action="store_true", help="attention and recurrent layers instead")
    parser.add_argument("--data", type=Path, help="folder with load.py and trained networks")
    parser.add_argument("--profile", type=Path, help="also write the layers' figures as a hardware profile")
    options = parser.parse_args()
    absent = missing_tools()
    if absent:
        print(
            f"mcu.py needs {', '.join(absent)}. On Debian: apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi "
            "qemu-system-arm",
            file=sys.stderr,
        )
        return 2
    bits = [int(b) for b in options.bits.split(",")]
    if options.sequences:
        sequence_table(BOARDS[options.core], bits, options.optimization)
    elif options.networks or options.tiny:
        given = tiny(bits) if options.tiny else networks(options.data, bits)
        network_table(BOARDS[options.core], given, options.optimization)
    else:
        rows = layer_table(BOARDS[options.core], bits, options.optimization)
        if options.profile:
            document = hardware_profile(options.core, bits, rows).to_dict()
            options.profile.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
