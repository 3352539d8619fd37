"""Error-compensated rounding in blocks of columns against one column at a time, and a whole run with it.

    python benchmarks/rounding.py [--threads N] [--size 64] [--images 32]

First the rounding of single layers, whose inputs are correlated as those of trained networks are: the ratio of times,
the share of equal weights, and what both leave of the error that they are to make small. Then a post-training run of a
ResNet-18 (He's initialisation, ten classes) on so many images, from the traced network to the result and to files. In
CPU seconds, since a shared machine inflates wall time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import sigmaquant
from sigmaquant import Budget
from sigmaquant.quant.rounding import BLOCK, _compensated
from sigmaquant.workflow.exporting import export_run


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    return call(), time.process_time() - started


def layers(shapes: list[tuple[int, int, int]]) -> None:
    heads = ("layer [groups, rows, columns]", "1 column, s", f"{BLOCK}, s", "ratio", "equal", "error")
    print("{:<34}{:>12}{:>10}{:>8}{:>9}{:>9}".format(*heads))
    for groups, outputs, columns in shapes:
        generator = torch.Generator().manual_seed(0)
        mixing = torch.eye(columns) + 0.02 * torch.randn(groups, columns, columns, generator=generator)
        inputs = torch.randn(groups, 1024, columns, generator=generator) @ mixing
        moment = inputs.transpose(1, 2) @ inputs
        rows = 0.05 * torch.randn(groups, outputs, columns, generator=generator)
        scales = rows.abs().amax(2) / 7

        def error(found: Tensor, rows: Tensor = rows, moment: Tensor = moment) -> float:
            change = (rows - found).double()
            return float((change @ moment.double() * change).sum())

        def rounded(block: int, given: tuple[Tensor, ...] = (rows, scales, moment)) -> Tensor:
            return _compensated(*given, 7, False, block=block)

        single, before = timed(lambda: rounded(1))
        blocks, after = timed(lambda: rounded(BLOCK))
        equal = float((single == blocks).float().mean())
        print(
            f"{[groups, outputs, columns]!s:<34}{before:>12.2f}{after:>10.2f}{before / after:>8.2f}{equal:>9.4f}"
            f"{error(blocks) / error(single):>9.4f}",
            flush=True,
        )


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def resnet18(classes: int) -> nn.Module:
    blocks, inputs = [], 64
    for outputs, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        blocks.append(Block(inputs, outputs, stride))
        inputs = outputs
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes)]
    return nn.Sequential(*stem, *blocks, *head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--run-only", action="store_true")
    parser.add_argument(
        "--export", default="onnx", help="files to write and verify after the run: onnx,litert,c,packed"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.run_only:
        layers([(1, 128, 1152), (1, 256, 2304), (256, 1, 9)])
    torch.manual_seed(0)
    network = resnet18(10).eval()
    images, labels = torch.randn(args.images, 3, args.size, args.size), torch.arange(args.images) % 10
    with tempfile.TemporaryDirectory() as folder:
        result, seconds = timed(
            lambda: sigmaquant.quantize(
                network,
                (images, labels),
                validation_data=(images, labels),
                budget=Budget(size="8x", size_counts="weights"),
                post_training=True,
                run_dir=folder,
            )
        )
        count = sum(p.numel() for p in network.parameters()) / 1e6
        title = f"ResNet-18, {count:.1f} M weights, {args.images} images of {args.size}"
        print(f"{title}: {seconds:.1f} CPU s, {result.status}")
        for kind in filter(None, args.export.split(",")):
            before = children()
            (verdict,), seconds = timed(lambda: export_run(network, folder, (images, labels), to=(kind,)))  # noqa: B023
            print(
                f"{kind}: written and verified in {seconds + children() - before:.1f} CPU s, passed: {verdict.passed}"
            )


def children() -> float:
    """CPU seconds of processes that were started and have ended."""
    used = os.times()
    return used.children_user + used.children_system


if __name__ == "__main__":
    main()
