"""How far integer models are from the quantized networks that they were lowered from, operator by operator.

    OMP_NUM_THREADS=1 python benchmarks/fidelity.py --data DIR
    OMP_NUM_THREADS=1 python benchmarks/fidelity.py --data DIR --tasks DIR --networks mobilenetv2,fastestdet
    OMP_NUM_THREADS=1 python benchmarks/fidelity.py --data DIR --files --images 16

Trained networks are quantized after training at several bitwidths; the bounds of `sigmaquant.export.fidelity` were
chosen from this table. "Beyond rounding" is how far an operator's code is from the network's real number, in steps
above the half step of a rounding, each operator fed with the network's own codes. DIR as for ``benchmarks/cifar.py``;
the folder of tasks has ``load_image.py``, ``load_coco.py`` and ``networks_detect.py``. With ``--files`` ONNX and LiteRT
files are judged by their own inner codes instead; the bounds of `sigmaquant.export.codes` were chosen from that table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from sigmaquant.data.cifar10 import cifar10_arrays
from sigmaquant.export.codes import compare_codes
from sigmaquant.export.fidelity import FORMED, LOWERED, FidelityCheck
from sigmaquant.export.litert import litert_form
from sigmaquant.export.targets import TARGETS, ExportOptions, Source
from sigmaquant.export.verification import Reference
from sigmaquant.graph import trace
from sigmaquant.lowering import lower
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import QuantizedNetwork, calibrate_, prepare, set_plan_

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR = {
    "resnet8": ("mlperf_resnet8_cifar10", (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
    "resnet20": ("akamaster_resnet20_cifar10", MEAN, STD),
    "densenet100": ("dice_densenet100_12_cifar10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}
Given = tuple[nn.Module, Tensor]


def cifar(name: str, folder: Path, images: int) -> Given:
    import load

    key, mean, std = CIFAR[name]
    pixels = torch.from_numpy(cifar10_arrays(folder / "cifar10", "train")[0][:images]).permute(0, 3, 1, 2).float()
    return load.network(key)[0], (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def mobilenetv2(folder: Path, images: int) -> Given:
    import load_image

    return load_image.mobilenet_v2(), load_image.prepare(load_image.photographs(images)[0])


def fastestdet(folder: Path, images: int) -> Given:
    import load_coco
    import networks_detect
    from safetensors.torch import load_file

    network = networks_detect.FastestDet().eval()
    network.load_state_dict(load_file(folder / "weights" / "fastestdet_coco.safetensors"), strict=False)
    return network, load_coco.batch(load_coco.load("train")[0][:images], network.size, network.order)


TASKS: dict[str, Callable[[Path, int], Given]] = {"mobilenetv2": mobilenetv2, "fastestdet": fastestdet}


def quantized(network: nn.Module, images: Tensor, widths: tuple[int, ...], activation_bits: int) -> QuantizedNetwork:
    """With the widths in turn."""
    graph = trace(network, images[:2])
    found = prepare(graph)
    weights = {spec.name: widths[i % len(widths)] for i, spec in enumerate(graph.layers)}
    activations = dict.fromkeys(graph.activation_names, activation_bits)
    set_plan_(found, BitwidthPlan(weights, activations, graph.fingerprint))
    calibrate_(found, list(images.split(16)))
    return found.eval()


def files_row(name: str, network: nn.Module, images: Tensor, widths: tuple[int, ...], target: str) -> str:
    """What a file's inner codes show, without any bound."""
    of = quantized(network, images, widths, 8)
    model, kind = lower(of), TARGETS[target]
    form = model if kind.form is None else kind.form(model, ExportOptions())
    edges = tuple(model.edges[name] for name in model.inputs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / kind.file
        kind.write(of, model, path, ExportOptions())
        shown = kind.watch(path, Source(network, (images[:2],), edges), form)(images)
    found = compare_codes(form, (images,), shown, bounded=False)
    title = f"| {name} | {target} | {', '.join(map(str, widths))} | {found.activations} | {found.largest_steps} "
    return f"{title}| {100 * found.layers:.3f} % | {100 * found.tied:.3f} % |"


def row(name: str, network: nn.Module, images: Tensor, widths: tuple[int, ...], activation_bits: int) -> str:
    of = quantized(network, images, widths, activation_bits)
    model, batches = lower(of), [(part,) for part in images.split(16)]
    start = time.perf_counter()
    check = FidelityCheck(of, model)
    parting = check.run(batches)
    title = f"| {name} | {', '.join(map(str, widths))} | {activation_bits} "
    if parting is not None:
        return f"{title}| parts at {parting} |"
    middle = time.perf_counter()
    reference = Reference(model, batches)
    ran = time.perf_counter()
    found = check.fidelity(batches, reference.codes)
    end = time.perf_counter()
    formed = FidelityCheck(of, litert_form(model), FORMED)
    parted = formed.run(batches)
    ours = found.agreement
    return (
        f"{title}| {len(model.float_operators)} | {found.operators} | {found.largest_beyond:.4f} | "
        f"{found.mean_beyond:.1e} | {100 * ours.decisions:.1f} % | {ours.mean_steps:.2f} | {ours.largest_steps} | "
        f"{formed.largest_beyond:.2f}, {formed.mean_beyond:.3f}{'' if parted is None else ' *'} | "
        f"{(middle - start + end - ran) / (ran - middle):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10/, weights/ and load.py")
    parser.add_argument("--tasks", type=Path, help="folder with load_image.py and load_coco.py")
    parser.add_argument("--networks", default=",".join(CIFAR))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--files", action="store_true", help="judge ONNX and LiteRT files by their inner codes")
    args = parser.parse_args()
    sys.path[:0] = [str(folder) for folder in (args.data, args.tasks) if folder is not None]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.files:
        print("| network | file | weight bits | activations | largest, steps | worst channel | others |")
        print("|" + " --- |" * 7)
    else:
        print_head()
    for name in args.networks.split(","):
        if name in CIFAR:
            network, images = cifar(name, args.data, args.images)
        else:
            network, images = TASKS[name](args.tasks, args.images)
        if args.files:
            for widths in ((8,), (4,), (2,), (8, 2, 4, 3)):
                for target in ("onnx", "litert"):
                    print(files_row(name, network, images, widths, target), flush=True)
            continue
        for widths, bits in (((8,), 8), ((4,), 8), ((3,), 8), ((2,), 8), ((8, 2, 4, 3), 8), ((4,), 4), ((3,), 2)):
            print(row(name, network, images, widths, bits), flush=True)


def print_head() -> None:
    print(f"Bounds: {LOWERED}; of LiteRT's form {FORMED}.\n")
    print(
        "| network | weight bits | activation bits | in float | operators | beyond rounding | mean | decided alike "
        "| mean steps | largest | LiteRT's form | time / reference |"
    )
    print("|" + " --- |" * 12)


if __name__ == "__main__":
    main()
