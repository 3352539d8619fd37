"""Outputs whose batch is not the first dimension, as recurrent layers give them: in every kind of file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sigmaquant.export.onnx import OnnxRunner, export_onnx
from sigmaquant.export.targets import TARGETS, ExportOptions, Source
from sigmaquant.export.verification import Reference
from sigmaquant.graph import trace
from sigmaquant.lowering import IntegerExecutor, lower
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import QuantizedNetwork, calibrate_, prepare, set_plan_


class Text(nn.Module):
    """Columns of an image as a sequence [T, N, C], as CTC losses take it, and the final states [1, N, units]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm, self.head = nn.Conv2d(1, 4, 3), nn.LSTM(4, 5), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.relu(self.conv(x)).mean(2).permute(2, 0, 1)
        y, (hidden, cell) = self.lstm(y)
        return self.head(y).log_softmax(2), hidden, cell


@pytest.fixture(scope="module")
def network() -> QuantizedNetwork:
    torch.manual_seed(0)
    x = examples()
    graph = trace(Text().eval(), (x[:2],))
    found = prepare(graph)
    plan = BitwidthPlan(dict.fromkeys(graph.layer, 6), dict.fromkeys(graph.activation_names, 8), graph.fingerprint, 4)
    set_plan_(found, plan)
    calibrate_(found, [x])
    return found.eval()


def examples() -> Tensor:
    return 3 * torch.randn(12, 1, 7, 9, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("target", ["onnx", "c", "litert", "packed"])
def test_files_compute_what_the_reference_does(network: QuantizedNetwork, target: str, tmp_path: Path) -> None:
    model, x = lower(network), examples()
    assert [model.edges[name].batch_axis for name in model.outputs] == [1, 1, 1]
    kind, options = TARGETS[target], ExportOptions()
    path = tmp_path / kind.file
    kind.write(network, model, path, options)
    inputs, outputs = (tuple(model.edges[name] for name in names) for names in (model.inputs, model.outputs))
    runner = kind.runner(path, Source(network.graph.module, (x[:2],), inputs, (x[:1],), outputs))
    form = model if kind.form is None else kind.form(model, options)
    agreement = Reference(form, [(x,)], "values").agreement(runner)
    assert agreement.largest_steps <= (0 if kind.exact else 3)  # states carry roundings on
    found = runner(x)
    assert isinstance(found, tuple)
    assert [tuple(y.shape) for y in found] == [(12, 7, 6), (12, 1, 5), (12, 1, 5)]


def test_an_onnx_file_has_the_batch_where_the_network_has_it(network: QuantizedNetwork, tmp_path: Path) -> None:
    model, x = lower(network), examples()
    export_onnx(model, tmp_path / "model.onnx")
    found, expected = OnnxRunner(tmp_path / "model.onnx")(x), IntegerExecutor(model)(x)
    for y, reference, name in zip(found, expected, model.outputs, strict=True):
        edge = model.edges[name]
        step = edge.scale if edge.has_grid else 0.2  # of the logits before the function
        assert y.shape == reference.shape == network.graph.module(x)[model.outputs.index(name)].shape
        assert (y - reference).abs().max() < 3.5 * step
        assert reference.std(1).min() > 0  # examples differ, so that another layout would be found
