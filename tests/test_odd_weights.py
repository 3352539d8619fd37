"""Whole runs, from quantizing and training to files, on networks whose weights are no plain parameters."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tiny
from sigmaquant import Budget, load_quantized, quantize
from sigmaquant.workflow.exporting import export_run


class Turned(nn.Conv2d):
    """A convolution whose weight lies in memory as another framework had it."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.weight = nn.Parameter(self.weight.detach().permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1))


class Standardized(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5), self.bias)


class Blur(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.full((8, 1, 2, 2), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, stride=2, groups=8)


def network() -> nn.Module:
    torch.manual_seed(0)
    first, second = Turned(1, 8, 3), nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3))
    between = [nn.ReLU(), Blur(), nn.ReLU()]
    return nn.Sequential(
        first, *between, second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, tiny.CLASSES)
    )


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize("standardized", [False, True])
def test_they_are_trained_loaded_again_and_written(tmp_path: Path, standardized: bool) -> None:
    model = network()
    if standardized:
        model[4] = Standardized(8, 8, 1)
    result = quantize(
        model,
        tiny.train_data(),
        validation_data=tiny.validation_data(),
        budget=Budget(size="6x", size_counts="weights"),
        run_dir=tmp_path,
        **tiny.QUICK,
    )
    assert list(result.network.graph.layer) == ["0", "2.kernel", "4", "8"]
    assert not result.float_operators
    x = tiny.test_data()[0]
    assert torch.equal(load_quantized(model, x[:2], tmp_path)(x), result.network.eval()(x))
    assert all(verdict.passed for verdict in export_run(model, tmp_path, tiny.test_data(), to=("c", "packed")))
