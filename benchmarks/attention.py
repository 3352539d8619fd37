"""ONNX files of transformers: their time in ONNX Runtime against their own float files, and how single codes agree.

    OMP_NUM_THREADS=1 python benchmarks/attention.py
    OMP_NUM_THREADS=1 python benchmarks/attention.py --tasks DIR

A DeiT-tiny block (197 tokens, width 192, 3 heads) with random weights on noise; with DIR, a folder with
``networks_sequence.KWT1`` and ``load_sequence``, the KWT-1 keyword transformer on its own clips. 8 bits everywhere, one
example, one thread; files take turns. A ratio is of the best times, the median over rounds in parentheses.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from sigmaquant.export.codes import compare_codes
from sigmaquant.export.onnx import OnnxRunner, OnnxWatch, export_onnx
from sigmaquant.graph import trace
from sigmaquant.lowering import IntegerExecutor, IntegerModel, lower
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_


class Block(nn.Module):
    """An encoder block of DeiT-tiny."""

    def __init__(self, width: int = 192, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        size = width // self.heads
        q, k, v = self.qkv(self.norm1(x)).reshape(n, tokens, 3, self.heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        shares = (q @ k.transpose(-1, -2) / size**0.5).softmax(-1)
        x = x + self.out((shares @ v).transpose(1, 2).reshape(n, tokens, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


def integers(network: nn.Module, x: Tensor) -> IntegerModel:
    graph = trace(network, x[:2])
    quantized = prepare(graph)
    weights = {spec.name: 8 for spec in graph.layers}
    set_plan_(quantized, BitwidthPlan(weights, dict.fromkeys(graph.activation_names, 8), graph.fingerprint, 4))
    calibrate_(quantized, x.split(32))
    return lower(quantized)


def row(name: str, network: nn.Module, x: Tensor, folder: Path, rounds: int) -> str:
    model = integers(network, x)
    files = {key: folder / f"{key}.onnx" for key in ("float", "any", "vnni")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (x[:1],), files["float"], dynamo=False, opset_version=18)
    export_onnx(model, files["any"])
    export_onnx(model, files["vnni"], processor="vnni")
    runners = {key: OnnxRunner(path) for key, path in files.items()}
    times: dict[str, list[float]] = {key: [] for key in runners}
    for turn in range(rounds + 3):
        for key, runner in runners.items():
            start = time.perf_counter()
            runner(x[:1])
            if turn >= 3:
                times[key].append(1e3 * (time.perf_counter() - start))
    few = x[-16:]
    codes = compare_codes(model, (few,), OnnxWatch(files["any"], model)(few), bounded=False)
    expected, found = IntegerExecutor(model)(x), OnnxRunner(files["any"])(x)
    assert isinstance(expected, Tensor)
    assert isinstance(found, Tensor)
    steps = ((found - expected) / model.edges[model.outputs[0]].scale).abs().round()
    ratios = [
        f"{min(times[key]) / min(times['float']):.2f} "
        f"({statistics.median(a / b for a, b in zip(times[key], times['float'], strict=True)):.2f})"
        for key in ("any", "vnni")
    ]
    return (
        f"| {name} | {min(times['float']):.2f} | {ratios[0]} | {ratios[1]} | {max(codes.tied, codes.layers):.5f}, "
        f"{codes.largest_steps} | {(steps == 0).double().mean():.3f}, {int(steps.max())} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, help="folder with networks_sequence.py and load_sequence.py")
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    subjects = [("DeiT-tiny block", Block().eval(), torch.randn(32, 197, 192))]
    if args.tasks is not None:
        sys.path.insert(0, str(args.tasks))
        import load_sequence
        import networks_sequence

        network = load_sequence.weights(networks_sequence.KWT1(), "kwt1_speech_commands")
        subjects.append(("KWT-1", network, load_sequence.kwt("calib")[0][::3]))
    print("Largest share of an operator's codes that differ, and by how much; equal outputs, largest difference.\n")
    print("| network | float, ms | any / float | vnni / float | codes of one operator | outputs |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, module, x in subjects:
        with tempfile.TemporaryDirectory() as folder:
            print(row(name, module, x, Path(folder), args.rounds), flush=True)


if __name__ == "__main__":
    with torch.no_grad():
        main()
