"""What every peer shares: images, budgets, evaluation, clocks and the lines of the results file.

Imports nothing but NumPy and PyTorch, because it runs in each peer's own environment. One row is one process, so that
its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lines import user_lines
from torch import Tensor, nn

NETWORK = "akamaster_resnet20_cifar10"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VALIDATION = 2000
WIDTHS = (2, 3, 4, 5, 6, 7, 8)
KEY = ("peer", "stage", "size", "seed", "epochs", "lr")
POST_TRAINING, TRAINED = "post-training", "trained"


@dataclass(frozen=True)
class Images:
    """uint8 images ``[n, 3, 32, 32]`` and classes ``[n]``."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, index: Tensor) -> Images:
        return Images(self.pixels[index], self.labels[index])

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised, in order."""
        for start in range(0, len(self), size):
            yield normalised(self.pixels[start : start + size]), self.labels[start : start + size]


@dataclass(frozen=True)
class Task:
    """What a peer gets: the float network, images to calibrate and train on, the budget, and how to train.

    Attributes:
        network: float, in evaluation mode.
        train: 48,000 images.
        validation: 2,000 of the training images, for decisions.
        calibration: the first of a shuffled order of the training images.
        weight_bytes: what the packed weights may take.
        size: the same as a reduction against float32.
        stage: what is asked for.
        epochs: passes over the training images.
        lr: peak learning rate.
        seed: of everything random.
        cache: folder that lasts from row to row, for a search that serves all sizes.
        data: folder with images and networks.
    """

    network: nn.Module
    train: Images
    validation: Images
    calibration: Images
    weight_bytes: float
    size: float
    stage: str
    epochs: float
    lr: float
    seed: int
    cache: Path
    data: Path

    @property
    def example(self) -> Tensor:
        """One normalised image ``[1, 3, 32, 32]``."""
        return normalised(self.calibration.pixels[:1])


@dataclass
class Outcome:
    """What a peer gives back.

    Attributes:
        network: logits from normalised images.
        plan: bits of every layer's weights, by the layer's name in the float network.
        files: writes the smallest files that this peer can write for deployment into a folder.
        search_cpu_s: CPU seconds up to the plan and its calibration, with those of a search that other rows shared.
        training_cpu_s: CPU seconds of training.
        notes: what the reader of the row must know.
    """

    network: Callable[[Tensor], Tensor]
    plan: dict[str, int]
    files: Callable[[Path], None] | None = None
    search_cpu_s: float = 0.0
    training_cpu_s: float = 0.0
    notes: list[str] = field(default_factory=list)


Run = Callable[[Task], Outcome]


def normalised(pixels: Tensor) -> Tensor:
    """Float images as the network was trained with them."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


def split(total: int, held_out: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Indices of training and validation images: those of ``sigmaquant.data.split``."""
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return order[held_out:].sort().values, order[:held_out].sort().values


def weight_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Layers with weights to quantize."""
    return {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def weight_counts(network: nn.Module) -> dict[str, int]:
    return {name: layer.weight.numel() for name, layer in weight_layers(network).items()}


def packed_bytes(plan: dict[str, int], counts: dict[str, int]) -> float:
    """Bytes of all weights at the plan's widths.

    Raises:
        ValueError: the plan names other layers.
    """
    if plan.keys() != counts.keys():
        raise ValueError(f"the plan and the network have different layers: {sorted(plan.keys() ^ counts.keys())}")
    return sum(bits * counts[name] for name, bits in plan.items()) / 8


def accuracy(network: Callable[[Tensor], Tensor], images: Images) -> float:
    with torch.no_grad():
        right = sum(int((network(x).argmax(1) == y).sum()) for x, y in images.batches(250))
    return right / len(images)


@torch.no_grad()
def sample_outputs(task: Task) -> Tensor:
    """What the float network makes of a few images."""
    outputs: Tensor = task.network(normalised(task.calibration.pixels[:16]))
    return outputs


def cpu_seconds() -> float:
    """Of this process and of those it has run, such as a solver or a compiler."""
    return sum(os.times()[:4])


def start_memory_count() -> None:
    """From here on the peak counts: Linux resets it on request, elsewhere it stays that of the whole process."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("the peak memory counts from the start of the process: this system cannot reset it", file=sys.stderr)


def peak_memory_mib() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    unit = 1024**2 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def bytes_in(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def load_task(args: argparse.Namespace) -> tuple[Task, Images]:
    """The task of one row, and the test images, which no peer sees."""
    sys.path.insert(0, str(args.data))
    import load  # the data folder's own reader

    network, _ = load.network(NETWORK)

    def images(part: str) -> Images:
        pixels, labels = load.cifar(part)
        return Images(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels).long())

    everything = images("train")
    chosen, held_out = split(len(everything), VALIDATION)
    train = everything.select(chosen)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(args.seed + 1))
    calibration = train.select(order[: args.calibration])
    counts = weight_counts(network)
    task = Task(
        network=network,
        train=train,
        validation=everything.select(held_out),
        calibration=calibration,
        weight_bytes=4 * sum(counts.values()) / args.size,
        size=args.size,
        stage=args.stage,
        epochs=args.epochs,
        lr=args.lr,
        seed=args.seed,
        cache=args.cache,
        data=args.data,
    )
    return task, images("test")


def measure(peer: str, run: Run, args: argparse.Namespace, packages: Sequence[str], source: Path) -> dict[str, Any]:
    """One row: the peer's work under the clock, then the files, then the test images."""
    torch.manual_seed(args.seed)
    task, test = load_task(args)
    counts = weight_counts(task.network)
    float_outputs = sample_outputs(task)
    start_memory_count()
    before = peak_memory_mib()
    wall, cpu = time.perf_counter(), cpu_seconds()
    outcome = run(task)
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    peak = peak_memory_mib()
    if not torch.allclose(sample_outputs(task), float_outputs):
        raise RuntimeError(f"{peer} changed the float network, which is the teacher too: give it a copy")
    if isinstance(outcome.network, nn.Module):
        outcome.network.eval()  # MCT's comes back in training mode
    files: dict[str, int] = {}
    if outcome.files is not None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcome.files(Path(folder))
                files = bytes_in(Path(folder))
            except Exception as error:  # a peer's own exporter may fail, and the row must say so
                outcome.notes.append(f"export failed: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
    row: dict[str, Any] = {
        "peer": peer,
        "stage": args.stage,
        "size": args.size,
        "seed": args.seed,
        "epochs": args.epochs if args.stage == TRAINED else 0,
        "lr": args.lr if args.stage == TRAINED else 0,
        "validation_top1": accuracy(outcome.network, task.validation),
        "test_top1": accuracy(outcome.network, test),
        "weight_bytes": packed_bytes(outcome.plan, counts),
        "budget_bytes": task.weight_bytes,
        "plan": outcome.plan,
        "files": files,
        "search_cpu_s": round(outcome.search_cpu_s or cpu - outcome.training_cpu_s, 1),
        "training_cpu_s": round(outcome.training_cpu_s, 1),
        "cpu_s": round(cpu, 1),
        "wall_s": round(wall, 1),
        "peak_memory_mib": round(peak, 1),
        "memory_before_mib": round(before, 1),
        "user_lines": user_lines(source, args.stage),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in (*packages, "torch")},
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "notes": outcome.notes,
    }
    return row


def main(
    peer: str, run: Run, packages: Sequence[str], program: str, stages: Sequence[str], source: str | None = None
) -> None:
    """Every row that is asked for and not yet in the file, each in a process of its own.

    Args:
        peer: its name in the table.
        run: does the work of a row.
        packages: whose versions the row names.
        program: the peer's ``__file__``.
        stages: what this peer can be asked for.
        source: the file whose user code counts, if not the program.
    """
    parser = argparse.ArgumentParser(description=f"{peer} on ResNet-20 and CIFAR-10")
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10/, weights/ and load.py")
    parser.add_argument("--out", type=Path, default=Path("results/peers.jsonl"))
    parser.add_argument("--sizes", default="8,32/3,12.8,16", help="reductions of the weights; 32/3 is 3 bits")
    parser.add_argument("--stages", default=POST_TRAINING, help=f"of {', '.join(stages)}")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--epochs", type=float, default=1.7, help="passes over the 48,000 images where it trains")
    parser.add_argument("--lr", type=float, default=0.03, help="peak learning rate where it trains")
    parser.add_argument("--calibration", type=int, default=1024, help="images to calibrate on")
    parser.add_argument("--cache", type=Path, default=Path("results/peers-cache"))
    parser.add_argument("--row", help=argparse.SUPPRESS)  # size, stage and seed of a child process
    args = parser.parse_args()
    if args.row:
        size, args.stage, seed = args.row.split(":")
        args.size, args.seed = float(size), int(seed)
        row = measure(peer, run, args, packages, Path(source or program))
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(
            f"{peer} {args.stage} {args.size:.4g}x seed {args.seed}: top-1 {row['test_top1']:.4f}, "
            f"{row['weight_bytes'] / 1024:.1f} KiB, {row['cpu_s']} CPU s",
            flush=True,
        )
        return
    unknown = set(args.stages.split(",")) - set(stages)
    if unknown:
        parser.error(f"{peer} has no stage {', '.join(sorted(unknown))}; it has {', '.join(stages)}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.cache.mkdir(parents=True, exist_ok=True)
    failed = False
    for stage in args.stages.split(","):
        for size in (float(Fraction(text)) for text in args.sizes.split(",")):
            for seed in (int(text) for text in args.seeds.split(",")):
                epochs, lr = (args.epochs, args.lr) if stage == TRAINED else (0, 0)
                wanted = (peer, stage, size, seed, epochs, lr)
                if wanted in {tuple(row.get(k) for k in KEY) for row in read(args.out)}:
                    continue
                child = [sys.executable, program, *sys.argv[1:], "--row", f"{size!r}:{stage}:{seed}"]
                if subprocess.run(child, check=False).returncode:
                    print(f"{peer} {stage} {size:.4g}x seed {seed} FAILED", file=sys.stderr, flush=True)
                    failed = True
    sys.exit(failed)
