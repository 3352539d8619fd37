"""A tiny network, data and settings, for whole runs of a second; also factories for the command line to name.

The network is fitted without a backward pass (random features and a least-squares classifier), so that it is the same
in every process and costs nothing.
"""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sigmaquant import Budget, QuantizationResult, quantize
from sigmaquant.runs import RunFiles

HERE = Path(__file__)
CLASSES = 6
QUICK: dict[str, Any] = {
    "cycle_examples": 100,
    "final_epochs": 1.0,
    "batch_size": 50,
    "calibration_examples": 100,
    "batch_norm_examples": 100,
    "sensitivity_examples": 64,
    "max_cycles": 4,
}
"""Settings of a run of about a second."""

Pair = tuple[Tensor, Tensor]


def data(count: int, seed: int, noise: float = 1.6) -> Pair:
    """Noisy copies of one 8 x 8 pattern per class."""
    patterns = torch.randn(CLASSES, 1, 8, 8, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, CLASSES, (count,), generator=generator)
    return patterns[targets] + noise * torch.randn(count, 1, 8, 8, generator=generator), targets


def train_data() -> Pair:
    return data(400, 1)


def validation_data() -> Pair:
    return data(250, 2)


def test_data() -> Pair:
    return data(150, 3)


test_data.__test__ = False  # type: ignore[attr-defined]  # a factory, no test


def untrained() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(192, CLASSES),
    )


def fit_(model: nn.Sequential) -> nn.Module:
    """BatchNorm statistics from the data, and the least-squares classifier in place of the last layer's weights."""
    inputs, targets = train_data()
    norms = [module for module in model if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        model.train()(inputs)
        for norm in norms:
            norm.momentum = 0.1
        features = model.eval()[:-1](inputs).double()
        moments = features.T @ features + 20 * torch.eye(features.shape[1], dtype=torch.float64)
        wanted = nn.functional.one_hot(targets, CLASSES).double() * 8 - 4
        solution = torch.linalg.solve(moments, features.T @ wanted)
        model[-1].weight.copy_(solution.T)
        model[-1].bias.zero_()
    return model


@cache
def _trained() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return fit_(untrained()).state_dict()


def trained() -> nn.Module:
    model = untrained()
    model.load_state_dict(_trained())
    return model.eval()


def perceptron(*sizes: int) -> nn.Module:
    """Linear layers with ReLU between them, fitted; the first size is 64, the last the number of classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        return fit_(nn.Sequential(*layers[:-1])).eval()


def single() -> nn.Module:
    """One layer, for what does not depend on the model: it is traced three times as fast."""
    return perceptron(64, CLASSES)


def run(budget: Budget | str = "8x", model: nn.Module | None = None, **options: Any) -> QuantizationResult:
    """`quantize` on the tiny network with quick settings."""
    options = {"validation_data": validation_data(), **QUICK, **options}
    return quantize(model or trained(), options.pop("train_data", None) or train_data(), budget=budget, **options)


def trajectory(path: Path) -> list[dict[str, Any]]:
    """The steps of a run, without what may differ between two equal runs."""
    return [{k: v for k, v in step.items() if k != "seconds"} for step in RunFiles(path).read_trajectory()]


def state(path: Path) -> dict[str, Any]:
    """What the run's saved state says besides tensors."""
    return json.loads((path / "state.json").read_text())["meta"]


def same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
