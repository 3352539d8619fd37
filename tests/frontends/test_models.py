"""Every way to name a model that is no factory, and what is said where it names none."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import command
from sigmaquant import SigmaQuantError, load_model
from sigmaquant.errors import CheckpointError, MissingExtraError, ModelFileError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weights.pt", r"weights\.pt holds weights, or .* path/file\.py:factory, .* and this file with --weights"),
        ("weights.pth", "and this file with --weights"),
        ("weights.safetensors", "and this file with --weights"),
        ("net.tflite", "is a LiteRT file. Give the Keras or PyTorch network"),
        ("net.pb", "is a TensorFlow graph. Convert it: python -m tf2onnx.convert"),
        ("net.pt2", "is a program of torch.export"),
    ],
)
def test_files_of_other_kinds_say_what_to_do(name: str, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        load_model(name)


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"is a folder\. A TensorFlow SavedModel becomes .* is read as hf:"):
        load_model(tmp_path)


def test_the_command_line_says_it_too(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "net.pt")
    outcome = command.quantize("--size", "8x", model=str(tmp_path / "net.pt"))
    assert "holds weights" in command.refused(outcome)


@pytest.mark.parametrize(("library", "extra"), [("onnx", "onnx"), ("onnxruntime", "onnx"), ("h5py", "keras")])
def test_missing_extras_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"sigmaquant\[{extra}\]"):
        load_model(tmp_path / ("net.keras" if extra == "keras" else "net.onnx"))


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """A stand-in for timm; what it was called with."""
    calls: list[dict[str, object]] = []

    def create_model(name: str, pretrained: bool, **options: object) -> nn.Module:
        calls.append({"name": name, "pretrained": pretrained, **options})
        if name == "net_large" and pretrained:
            raise OSError("no connection")
        return nn.Linear(4, int(options.get("num_classes", 2)))

    module = ModuleType("timm")
    module.create_model, module.list_models = create_model, lambda: ["net_small", "net_large"]
    monkeypatch.setitem(sys.modules, "timm", module)
    return calls


def test_timm(timm: list[dict[str, object]], tmp_path: Path) -> None:
    assert load_model("timm:net_small.imagenet?num_classes=3&drop_rate=0.5").out_features == 3
    own = {"weight": torch.ones(2, 4), "bias": torch.zeros(2)}
    torch.save(own, tmp_path / "w.pt")
    assert torch.equal(load_model("timm:net_large", tmp_path / "w.pt").weight, own["weight"])
    assert timm == [
        {"name": "net_small.imagenet", "pretrained": True, "num_classes": 3, "drop_rate": 0.5},
        {"name": "net_large", "pretrained": False},
    ]
    torch.save({"weight": torch.ones(2, 4)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"w\.pt does not fit timm:net_large: it lacks 'bias'"):
        load_model("timm:net_large", tmp_path / "w.pt")


def test_networks_that_a_collection_does_not_have(timm: list[dict[str, object]]) -> None:
    with pytest.raises(SigmaQuantError, match=r"there is no timm:net_smal\. Did you mean 'net_small'"):
        load_model("timm:net_smal")
    with pytest.raises(
        SigmaQuantError, match=r"timm:net_large cannot be made: OSError: no connection\. Give .* --weights"
    ):
        load_model("timm:net_large")
    with pytest.raises(SigmaQuantError, match="NAME=VALUE&NAME=VALUE"):
        load_model("timm:net_small?num_classes")


@pytest.mark.parametrize(
    ("library", "spec", "extra"),
    [("timm", "timm:x", "timm"), ("torchvision", "torchvision:x", "torchvision"), ("transformers", "hf:x", "hf")],
)
def test_collections_are_extras(monkeypatch: pytest.MonkeyPatch, library: str, spec: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SigmaQuantError, match=rf"sigmaquant\[{extra}\]|cannot be imported"):
        load_model(spec)


def test_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    models = ModuleType("torchvision.models")
    models.list_models = lambda: ["resnet18"]
    models.get_model = lambda name, weights, **options: calls.append((name, weights, options)) or nn.Identity()
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    load_model("torchvision:resnet18?num_classes=100")
    assert calls == [("resnet18", "DEFAULT", {"num_classes": 100})]
    with pytest.raises(SigmaQuantError, match=r"there is no torchvision:resnet19\. Did you mean 'resnet18'"):
        load_model("torchvision:resnet19")


def test_hugging_face_folders(tmp_path: Path) -> None:
    """Architecture and weights from a folder on this machine; nothing is fetched."""
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=3
    )
    torch.manual_seed(0)
    net = transformers.BertForSequenceClassification(config).eval()
    net.save_pretrained(tmp_path)
    words = torch.randint(0, 30, (2, 5))
    loaded = load_model(f"hf:{tmp_path}")
    with torch.no_grad():
        assert torch.equal(loaded(words).logits, net(words).logits)
    other = load_model(f"hf:{tmp_path}", tmp_path / "model.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), net.parameters(), strict=True))
    described = json.loads((tmp_path / "config.json").read_text())
    del described["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(
        SigmaQuantError, match=r"does not say which class .*\?architecture=BertForSequenceClassification"
    ):
        load_model(f"hf:{tmp_path}")
    assert load_model(f"hf:{tmp_path}?architecture=BertForSequenceClassification")
    with pytest.raises(
        SigmaQuantError, match=r"hf:.*nowhere cannot be made: .* Files are only looked for on this machine"
    ):
        load_model(f"hf:{tmp_path / 'nowhere'}")
