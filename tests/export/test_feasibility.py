"""What cannot be written is known before any training, with the operator, its layer and the user's line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sigmaquant
from sigmaquant.errors import ExportError
from sigmaquant.export.feasibility import check_feasible, feasibilities
from sigmaquant.export.onnx import OnnxRunner
from sigmaquant.export.targets import ExportOptions
from sigmaquant.graph import trace
from sigmaquant.workflow.exporting import export_run


class Sorted(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        y = torch.sort(self.first(x), 1)[0]
        return self.head(y)


def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def test_a_network_of_integers_fits_into_every_file():
    graph = trace(plain().eval(), torch.zeros(2, 3, 8, 8))
    assert [(found.target, found.reason) for found in feasibilities(graph)] == [
        (target, "") for target in ("onnx", "litert", "tflm", "c", "packed")
    ]
    check_feasible(graph, ["onnx", "c"])


def test_operators_without_an_integer_form_are_told_with_their_lines():
    graph = trace(Sorted().eval(), torch.zeros(2, 6))
    found = {item.target: item for item in feasibilities(graph)}
    assert found["packed"].possible
    for target in ("onnx", "litert", "tflm", "c"):
        assert "model: sort (test_feasibility.py:" in found[target].reason
        assert "torch.sort(self.first(x), 1)" in found[target].reason
    with pytest.raises(ExportError, match="nothing was trained"):
        check_feasible(graph, ["onnx"])


def test_what_one_exporter_refuses_is_told_for_that_one():
    graph = trace(nn.Sequential(nn.Conv3d(2, 3, 3), nn.ReLU()).eval(), torch.zeros(2, 2, 4, 4, 4))
    found = {item.target: item.reason for item in feasibilities(graph, ("onnx", "litert"))}
    assert found["onnx"] == ""
    assert "'0'" in found["litert"]


@pytest.mark.parametrize("ending", [nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid()])
def test_an_ending_stays_in_float_or_is_left_out(tmp_path, ending):
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(64, 6, generator=generator), torch.arange(64) % 3
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3), ending).eval()
    sigmaquant.quantize(model, (inputs, targets), run_dir=tmp_path, budget="2x", post_training=True, outputs="values")
    kinds = ("onnx", "litert", "tflm", "c", "packed")
    for logits in (False, True):
        verdicts = export_run(model, tmp_path, (inputs, targets), to=kinds, options=ExportOptions(logits=logits))
        assert [(verdict.target, verdict.passed) for verdict in verdicts] == [(kind, True) for kind in kinds]
        given = OnnxRunner(tmp_path / "export" / "model.onnx")(inputs)
        with torch.no_grad():
            expected = (model[:-1] if logits else model)(inputs)
        assert float((given - expected).abs().max()) < 0.05 * float(expected.abs().max())


def test_quantize_refuses_before_training_and_writes_at_the_end(tmp_path):
    inputs, targets = torch.randn(64, 6, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 3
    options = {"budget": "2x", "post_training": True}
    with pytest.raises(ExportError, match="nothing was trained"):
        sigmaquant.quantize(Sorted(), (inputs, targets), run_dir=tmp_path / "a", export=["onnx"], **options)
    assert not (tmp_path / "a").exists()
    with pytest.raises(ExportError, match="Give run_dir"):
        sigmaquant.quantize(Sorted(), (inputs, targets), export=["onnx"], **options)
    with pytest.raises(ExportError, match="no kind of file 'onxx'"):
        sigmaquant.quantize(Sorted(), (inputs, targets), run_dir=tmp_path / "a", export=["onxx"], **options)
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))
    result = sigmaquant.quantize(model, (inputs, targets), run_dir=tmp_path / "b", export=["onnx"], **options)
    assert [(verdict.target, verdict.passed) for verdict in result.files] == [("onnx", True)]
    assert (tmp_path / "b" / "export" / "model.onnx").exists()
