"""A small network with data, as factories for the command line, and one finished run of it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from campaigns.program import Ending, call

HERE = Path(__file__)
CLASSES = 5
Pair = tuple[Tensor, Tensor]


def network() -> nn.Module:
    """Convolutions with and without BatchNorm; fitted, without a backward pass."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(72, CLASSES),
        )
        inputs, targets = train_data()
        with torch.no_grad():
            model.train()(inputs)
            features = model.eval()[:-1](inputs)
            wanted = nn.functional.one_hot(targets, CLASSES).float() * 6 - 3
            model[-1].weight.copy_(torch.linalg.lstsq(features, wanted, driver="gelsd").solution.T)
            model[-1].bias.zero_()
    return model.eval()


def _data(count: int, seed: int) -> Pair:
    patterns = torch.randn(CLASSES, 1, 6, 6, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, CLASSES, (count,), generator=generator)
    return patterns[targets] + torch.randn(count, 1, 6, 6, generator=generator), targets


def train_data() -> Pair:
    return _data(300, 1)


def validation_data() -> Pair:
    return _data(150, 2)


def test_data() -> Pair:
    return _data(100, 3)


MODEL, TRAIN, VALIDATION, TEST = (
    f"{HERE}:{name}" for name in ("network", "train_data", "validation_data", "test_data")
)
SEARCH = (
    *(MODEL, "--train", TRAIN, "--val", VALIDATION, "--test", TEST, "--quiet"),
    *("--cycle-examples", "60", "--epochs", "0.4", "--batch-size", "30", "--max-cycles", "1"),
)


def quantize(out: Path, *more: str, kill_after: float | None = None) -> Ending:
    """``sigmaquant quantize`` into a folder."""
    return call("quantize", *SEARCH, "--size", "7x", "--control", "--out", str(out), *more, kill_after=kill_after)


def sweep(out: Path, *more: str, kill_after: float | None = None) -> Ending:
    """``sigmaquant sweep`` over two sizes."""
    return call("sweep", *SEARCH, "--size", "6x,8x", "--out", str(out), *more, kill_after=kill_after)
