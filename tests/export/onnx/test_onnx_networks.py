"""Whole networks from torch to ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx_cases import codes_of
from torch import Tensor, nn

from sigmaquant.errors import ExportError
from sigmaquant.export.onnx import OnnxRunner, export_onnx
from sigmaquant.graph import trace
from sigmaquant.lowering import IntegerExecutor, IntegerModel, lower
from sigmaquant.plan import BITWIDTHS, BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, reestimate_batch_norm_, set_plan_


class Small(nn.Module):
    """Inverted residuals with ReLU6, squeeze-and-excitation, a dense connection, upsampling, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 10, 3, 2, 1, bias=False), nn.BatchNorm2d(10), nn.ReLU6())
        self.wide = nn.Sequential(nn.Conv2d(10, 18, 1), nn.BatchNorm2d(18), nn.ReLU6())
        self.deep = nn.Sequential(nn.Conv2d(18, 18, 3, 1, 1, groups=18), nn.BatchNorm2d(18), nn.Hardswish())
        self.squeeze = nn.Conv2d(18, 5, 1)
        self.excite = nn.Conv2d(5, 18, 1)
        self.narrow = nn.Conv2d(18, 10, 1)
        self.norm = nn.BatchNorm2d(20)
        self.up = nn.ConvTranspose2d(20, 7, 2, stride=2)
        self.head = nn.Linear(7 * 4, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.deep(self.wide(x))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        y = x + self.narrow(y)
        y = F.relu(self.norm(torch.cat([F.max_pool2d(x, 3, 1, 1), y], 1)))
        y = F.interpolate(F.relu(self.up(F.avg_pool2d(y, 2))), scale_factor=2)
        return self.head(F.adaptive_avg_pool2d(y[:, :, 1:, :-1], 1).flatten(1).repeat(1, 4))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(model: nn.Module, images: Tensor, midrise_up_to: int = 4) -> IntegerModel:
    """The network at all widths in turn."""
    graph = trace(model.eval(), (images[:2],))
    network = prepare(graph)
    weights = {spec.name: BITWIDTHS[i % len(BITWIDTHS)] for i, spec in enumerate(graph.layers)}
    plan = BitwidthPlan(weights, dict.fromkeys(graph.activation_names, 8), graph.fingerprint, midrise_up_to)
    set_plan_(network, plan)
    reestimate_batch_norm_(network, [images])
    calibrate_(network, [images])
    return lower(network)


def test_a_network_of_many_operators(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = noise(64, 3, 20, 20)
    model = integers(Small(), images)
    path = tmp_path / "model.onnx"
    (expected,) = codes_of(IntegerExecutor(model)(images), model)
    for form in ("native", "planes"):
        export_onnx(model, path, form=form)
        for fused in (False, True):
            (found,) = codes_of(OnnxRunner(path, fused=fused)(images), model)
            assert (found - expected).abs().max() <= 2, (form, fused)
            assert (found != expected).float().mean() < 0.1, (form, fused)
    names = {node.name for node in onnx.load(path).graph.node}
    assert names.issuperset({"stem.0", "deep.0", "head", "up"})


def test_padding_with_copies(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = noise(16, 3, 6, 6)
    layers = (nn.CircularPad2d(1), nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"))
    model = integers(nn.Sequential(*layers), images)
    export_onnx(model, tmp_path / "model.onnx")
    (expected,), (found,) = (
        codes_of(runner(images), model) for runner in (IntegerExecutor(model), OnnxRunner(tmp_path / "model.onnx"))
    )
    assert (found - expected).abs().max() <= 1


def test_a_trained_network(shared_loader: Any, tmp_path: Path) -> None:
    network, _ = shared_loader.network("akamaster_resnet20_cifar10")
    images = noise(48, 3, 32, 32)
    model = integers(network, images)
    path = tmp_path / "model.onnx"
    export_onnx(model, path)
    reference = IntegerExecutor(model)(images)
    (expected,) = codes_of(reference, model)
    best = expected.topk(2, 1).values
    clear = best[:, 0] - best[:, 1] > 2  # two classes within two steps of the output are no decision
    assert clear.sum() > 24
    for fused in (False, True):
        result = OnnxRunner(path, fused=fused)(images)
        assert (codes_of(result, model)[0] - expected).abs().max() <= 4
        assert torch.equal(result.argmax(1)[clear], reference.argmax(1)[clear])


def test_an_operator_that_stays_in_float_is_refused(tmp_path: Path) -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.sort(self.embed(x), 1)[0])

    model = integers(Sorted(), noise(8, 6))
    with pytest.raises(ExportError, match="sort"):
        export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
