"""What two processes are to do, in a module that both can import."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tiny
from sigmaquant import Budget, QuantizationResult, quantize

BUDGET = Budget(size="7x", size_counts="weights")
OPTIONS: dict[str, Any] = {
    **tiny.QUICK,
    "final_epochs": 2.0,
    "batch_size": 30,
    "bf16": False,
}  # 13 batches of 30 and one of 10


def run(**options: Any) -> QuantizationResult:
    given = {"budget": BUDGET, "validation_data": tiny.validation_data(), "device": "cpu", **OPTIONS, **options}
    return quantize(given.pop("model", None) or tiny.trained(), given.pop("train_data", tiny.train_data()), **given)


def weights(result: QuantizationResult) -> dict[str, Tensor]:
    return {key: value.float() for key, value in result.network.state_dict().items() if isinstance(value, Tensor)}


class Unseeded:
    """Batches in an order of their own in every process."""

    def __init__(self) -> None:
        self.inputs, self.targets = tiny.train_data()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(400, generator=torch.Generator().manual_seed(os.getpid()))
        for part in order.split(50):
            yield self.inputs[part], self.targets[part]


class Dying:
    """Batches whose reader in the second process is killed, or fails, once the search is over."""

    def __init__(self, where: str, how: str) -> None:
        self.where, self.how = where, how
        self.inputs, self.targets = tiny.train_data()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for part in torch.arange(400).split(50):
            if os.environ.get("RANK") == "1" and (Path(self.where) / "state.json").exists():
                if self.how == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise ValueError("the disk is on fire")
            yield self.inputs[part], self.targets[part]
