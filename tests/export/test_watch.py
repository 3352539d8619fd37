"""Every kind of file shows its inner activations, and a damaged layer is named, not only a wrong result."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sigmaquant.export.targets import TARGETS, ExportOptions, Source
from sigmaquant.export.verification import Reference
from sigmaquant.graph import trace
from sigmaquant.lowering import IntegerExecutor, IntegerModel, lower
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import QuantizedNetwork, calibrate_, prepare, set_plan_

NEEDS = {
    "onnx": (all(find_spec(name) for name in ("onnx", "onnxruntime")), "the extra onnx"),
    "litert": (find_spec("ai_edge_litert") is not None, "the extra litert"),
    "tflm": (find_spec("tflite_micro") is not None, "the extra tflm"),
    "c": (shutil.which("gcc") is not None, "gcc"),
    "packed": (True, ""),
}


class Branches(nn.Module):
    """A residual sum, a concatenation, pooling, channels that are not as many as places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.left = nn.Conv2d(10, 10, 3, padding=1)
        self.right = nn.Conv2d(10, 6, 1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(16 * 12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.cat([torch.relu(x + self.left(x)), self.right(x)], 1)
        return self.head(self.pool(x).flatten(1))


@dataclass
class Case:
    model: nn.Module
    network: QuantizedNetwork
    lowered: IntegerModel
    batch: Tensor

    @property
    def source(self) -> Source:
        edges = tuple(self.lowered.edges[name] for name in self.lowered.inputs)
        return Source(self.model, (self.batch[:2],), edges)

    def reference(self, name: str) -> Reference:
        form = TARGETS[name].form
        return Reference(self.lowered if form is None else form(self.lowered, ExportOptions()), [self.batch])

    def codes(self, model: IntegerModel) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        executor = IntegerExecutor(model)
        executor.run_codes(
            *executor.quantize_inputs(self.batch), watch=lambda edge, codes: found.update({edge.name: codes})
        )
        return found


@pytest.fixture(scope="module")
def case() -> Case:
    torch.manual_seed(0)
    model = Branches().eval()
    batch = torch.randn(6, 3, 8, 6, generator=torch.Generator().manual_seed(1))
    network = prepare(trace(model, (batch[:2],)))
    widths = dict(zip(network.graph.layer, (8, 4, 3, 2), strict=True))
    activations = dict.fromkeys(network.graph.activation_names, 8)
    activations[next(name for name in activations if "left" in name or "relu" in name)] = 6
    set_plan_(network, BitwidthPlan(widths, activations, network.graph.fingerprint, 2))
    calibrate_(network, [batch])
    return Case(model, network.eval(), lower(network), batch)


def write(case: Case, name: str, folder: Path) -> Path:
    there, what = NEEDS[name]
    if not there:
        pytest.skip(f"needs {what}")
    path = folder / TARGETS[name].file
    TARGETS[name].write(case.network, case.lowered, path, ExportOptions())
    return path


@pytest.mark.parametrize("name", TARGETS)
def test_the_inner_activations_are_the_references(name: str, case: Case, tmp_path: Path) -> None:
    reference = case.reference(name)
    found = TARGETS[name].watch(write(case, name, tmp_path), case.source, reference.model)(case.batch)
    expected = case.codes(reference.model)
    for edge, codes in found.items():
        if edge in expected:
            assert torch.equal(codes.reshape(expected[edge].shape), expected[edge]), edge
    assert len(found.keys() & expected.keys()) >= len(expected) - 2, sorted(expected.keys() - found.keys())
    assert reference.first_difference(lambda x: found) == ""


def turn_bits(path: Path, pattern: bytes) -> None:
    """Every bit of the one place where these bytes stand."""
    content = path.read_bytes()
    assert content.count(pattern) == 1
    path.write_bytes(content.replace(pattern, bytes(255 - byte for byte in pattern)))


def damage_onnx(path: Path) -> None:
    import onnx

    proto = onnx.load(str(path))
    (stored,) = [t for t in proto.graph.initializer if t.name.startswith("left.bias") and t.data_type == 6]
    turn_bits(path, stored.raw_data)


def damage_litert(path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    damage_bias(path, schema)


def damage_tflm(path: Path) -> None:
    from sigmaquant.export.tflm.schema import micro_schema

    damage_bias(path, micro_schema())


def damage_bias(path: Path, schema: Any) -> None:
    """That of the convolution that gives the activation of the layer `left`."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    (graph,) = model.subgraphs
    names = [tensor.name or b"" for tensor in graph.tensors]
    (bias,) = [
        op.inputs[2] for op in graph.operators if len(op.inputs) == 3 and names[op.outputs[0]].startswith(b"left")
    ]
    turn_bits(path, bytes(model.buffers[graph.tensors[bias].buffer].data))


def damage_c(folder: Path) -> None:
    path = folder / "model_weights.c"
    text = path.read_text()
    found = re.search(r"model_left_bias\[10\] = \{\n\s+(-?\d+)", text)
    assert found is not None
    path.write_text(text[: found.start(1)] + "123456" + text[found.end(1) :])
    document = json.loads((folder / "export.json").read_text())
    document["files"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "export.json").write_text(json.dumps(document))


def damage_packed(path: Path) -> None:
    from sigmaquant.runs.atomic import save_tensors_atomic
    from sigmaquant.runs.weights import load_tensors

    tensors, metadata = load_tensors(path)
    (name,) = [key for key in tensors if key.startswith("left") and key.endswith("bias")]
    tensors[name] = tensors[name] + 1.0
    save_tensors_atomic(path, tensors, metadata)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "onnx": damage_onnx,
    "litert": damage_litert,
    "tflm": damage_tflm,
    "c": damage_c,
    "packed": damage_packed,
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_layer_is_named(name: str, case: Case, tmp_path: Path) -> None:
    path = write(case, name, tmp_path)
    DAMAGE[name](path)
    reference = case.reference(name)
    said = reference.first_difference(TARGETS[name].watch(path, case.source, reference.model))
    expected = case.codes(reference.model)
    after = list(expected).index("left") if "left" in expected else None
    named = re.match(r"activation '(.+?)' at index \((.+)\): (-?\d+) expected, (-?\d+) found", said)
    assert named is not None, said
    assert named[1].startswith(("left", "relu")), said
    index = tuple(int(part) for part in named[2].split(","))
    assert int(expected[named[1]][index]) == int(named[3]) != int(named[4])
    assert after is None or list(expected).index(named[1]) >= after


def test_c_says_where_its_activations_lie(case: Case, tmp_path: Path) -> None:
    path = write(case, "c", tmp_path)
    document = json.loads((path / "export.json").read_text())
    names = [item["name"] for item in document["activations"]]
    assert len(names) == len(set(names)) >= 5
    assert "SQ_SEE(0, " in (path / "model.c").read_text()
