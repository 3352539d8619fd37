"""From a run to files that compute what they should, and what is said of those that do not."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import command
import tiny
from sigmaquant.errors import ExportError, PlanError, SigmaQuantError
from sigmaquant.export.targets import TARGETS, ExportOptions
from sigmaquant.lowering import IntegerModel, lower
from sigmaquant.quant import QuantizedNetwork
from sigmaquant.runs.atomic import save_tensors_atomic
from sigmaquant.runs.weights import load_tensors
from sigmaquant.workflow import exporting
from sigmaquant.workflow.exporting import export_run, verify_run

needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxruntime")),
    reason="needs the extra onnx",
)
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exporting") / "run"
    tiny.run("8x", post_training=True, run_dir=path)
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@needs_onnx
@needs_gcc
def test_every_kind_of_file_computes_what_the_reference_does(run: Path) -> None:
    verdicts = export_run(tiny.trained(), run, tiny.test_data(), to=("onnx", "c", "packed"))
    assert [verdict.target for verdict in verdicts] == ["onnx", "c", "packed"]
    for verdict in verdicts:
        assert verdict.passed
        assert verdict.path.exists()
        assert verdict.agreement.examples == 150
        assert verdict.real_bytes > 0
    assert verdicts[1].agreement.equal == verdicts[2].agreement.equal == 1
    assert verdicts[0].as_deployed is not None
    document = json.loads((run / "export" / "verification.json").read_text())
    assert [item["passed"] for item in document["artifacts"]] == [True] * 3
    assert sorted(p.name for p in (run / "export").iterdir()) == [
        "model.onnx", "model.safetensors", "model_c", "verification.json",
    ]  # fmt: skip
    assert [v.agreement for v in verify_run(tiny.trained(), run, tiny.test_data())] == [v.agreement for v in verdicts]
    again = verify_run(tiny.trained(), run / "export" / "model.onnx", tiny.test_data(), examples=20)
    assert [v.target for v in again] == ["onnx"]
    assert again[0].agreement.examples == 20


@needs_onnx
@pytest.mark.parametrize("inputs", ["int8", "uint8"])
def test_files_that_take_codes_are_verified_too(run: Path, inputs: str) -> None:
    options = ExportOptions(inputs=inputs, name="1-bad name")
    (verdict,) = export_run(tiny.trained(), run, tiny.test_data(), to=("onnx",), options=options)
    assert verdict.passed


def test_the_users_model_is_left_as_it_is(run: Path) -> None:
    model = tiny.trained().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export_run(model, run, tiny.test_data(), to=("packed",), examples=20)
    verify_run(model, run, tiny.test_data(), examples=20)
    assert model.training
    assert tiny.same_tensors(model.state_dict(), before)


def test_each_file_is_verified_as_it_was_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    form = replace(TARGETS["packed"], form=lambda model, options: seen.append(options.pack) or model)
    for name in ("packed", "c"):  # one kind that needs no tool, under the names of two
        monkeypatch.setitem(TARGETS, name, replace(form, file=f"{name}.safetensors"))
    for name, pack in (("packed", False), ("c", True)):
        options = ExportOptions(pack=pack)
        export_run(tiny.trained(), run, tiny.test_data(), to=(name,), options=options, examples=20)
    seen.clear()
    verdicts = verify_run(tiny.trained(), run, tiny.test_data(), examples=20)
    assert dict(zip([verdict.target for verdict in verdicts], seen[-2:], strict=True)) == {"packed": False, "c": True}


def lowered_wrong(network: QuantizedNetwork) -> IntegerModel:
    """The third layer's bias is another layer's, as if a lowering had taken it along the wrong axis."""
    model = lower(network)
    (place,) = [i for i, operator in enumerate(model.operators) if getattr(operator, "layer", "") == "5"]
    operators = list(model.operators)
    operators[place] = replace(operators[place], bias=operators[place].bias[::-1].copy())  # type: ignore[call-arg]
    return replace(model, operators=tuple(operators))


def test_integers_that_compute_something_else_make_no_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_run(tiny.trained(), run, tiny.test_data(), to=("packed",))
    document = json.loads((run / "export" / "verification.json").read_text())
    assert document["artifacts"][0]["passed"] is True
    assert "integers" not in document["artifacts"][0]
    assert document["integers"]["agreement"]["examples"] == 150
    assert document["integers"]["agreement"]["decisions"] > 0.95
    monkeypatch.setattr(exporting, "lower", lowered_wrong)
    said = "they part first at activation '7', from Convolution '5'"
    with pytest.raises(ExportError, match="(?i)" + said):
        export_run(tiny.trained(), run, tiny.test_data(), to=("c",))
    assert sorted(p.name for p in (run / "export").iterdir()) == ["model.safetensors", "verification.json"]
    document = json.loads((run / "export" / "verification.json").read_text())
    assert document["artifacts"][0]["passed"] is False
    assert "activation '7'" in document["artifacts"][0]["first_difference"]
    assert document["integers"] is None
    found = command.main("verify", run, "--model", command.MODEL, "--data", command.TEST)
    assert said in command.refused(found).replace("They", "they")


def test_a_form_that_computes_something_else_makes_no_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: IntegerModel, options: ExportOptions) -> IntegerModel:
        return replace(model, operators=(replace(model.operators[0], low=0), *model.operators[1:]))  # type: ignore[call-arg]

    monkeypatch.setitem(TARGETS, "packed", replace(TARGETS["packed"], form=wrong))
    with pytest.raises(ExportError, match="They part first at"):
        export_run(tiny.trained(), run, tiny.test_data(), to=("packed",))


def test_the_table_says_how_the_integers_compare(run: Path) -> None:
    found = command.main("export", run, "--model", command.MODEL, "--data", command.TEST, "--to", "packed")
    assert found.code == 0
    words = " ".join(found.out.split())
    assert "operators give what the quantized network rounds, to 0.00" in words
    assert "integers beside the network" in words
    assert "steps apart in the mean" in words


class Joined(nn.Module):
    """Two inputs; two outputs in a dictionary, of which the second is a map."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(64, tiny.CLASSES)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        both = torch.relu(self.a(x)) + self.b(y)
        return {"map": both, "logits": self.head(nn.functional.avg_pool2d(both, 2).flatten(1))}


@needs_onnx
@needs_gcc
def test_several_inputs_and_outputs_are_verified(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pixels, classes = tiny.test_data()
    data = ((pixels, pixels.flip(2) + 0.5), classes)
    run = tmp_path / "joined"
    tiny.run("4x", Joined(), train_data=data, validation_data=data, post_training=True, run_dir=run)
    kinds = ["onnx", "c", "packed", *(["litert"] if find_spec("ai_edge_litert") else [])]
    kinds += ["tflm"] if find_spec("tflite_micro") else []
    verdicts = export_run(Joined(), run, data, to=kinds)
    assert [verdict.passed for verdict in verdicts] == [True] * len(kinds)
    (verdict,) = export_run(Joined(), run, data, to=["onnx"], options=ExportOptions(inputs="uint8"))
    assert verdict.passed
    forget_digests(run)
    packed = run / "export" / "model.safetensors"
    tensors, metadata = load_tensors(packed)
    tensors["a.bias"] = tensors["a.bias"] + 1.0
    save_tensors_atomic(packed, tensors, metadata)
    (verdict,) = verify_run(Joined(), packed, data)
    assert not verdict.passed
    assert verdict.agreement.decisions < 1, "the map counts, not only the logits"


def forget_digests(run: Path) -> None:
    """As if an earlier release had written the files, or as if they had come alone."""
    path = run / "export" / "verification.json"
    document = json.loads(path.read_text())
    for item in document["artifacts"]:
        item["sha256"] = None
    path.write_text(json.dumps(document))


def damaged(path: Path) -> None:
    """The last layer's codes, turned around."""
    tensors, metadata = load_tensors(path)
    name = max(key for key in tensors if key.endswith(".codes"))
    tensors[name] = torch.bitwise_not(tensors[name]) & 0x55
    save_tensors_atomic(path, tensors, metadata)


def test_a_file_that_computes_something_else_is_told_and_kept(run: Path) -> None:
    export_run(tiny.trained(), run, tiny.test_data(), to=("packed",))
    path = run / "export" / "model.safetensors"
    damaged(path)
    forget_digests(run)
    (verdict,) = verify_run(tiny.trained(), path, tiny.test_data())
    assert not verdict.passed
    assert verdict.first_difference.startswith("activation '9'")
    assert path.exists()
    found = command.main("verify", run, "--model", command.MODEL, "--data", command.TEST)
    assert found.code == 1
    assert "FAILED (needs every code equal)" in found.out
    assert "activation '9'" in found.out.replace("\n", " ")


def test_the_command_line(run: Path, tmp_path: Path) -> None:
    arguments = ("--model", command.MODEL, "--data", command.TEST, "--examples", 30, "--quiet")
    found = command.main("export", run, "--to", "packed", "--out", tmp_path / "out", "--json", *arguments)
    assert found.code == 0
    (item,) = json.loads(found.out)
    assert item["passed"] is True
    assert item["agreement"]["examples"] == 30
    assert (tmp_path / "out" / "model.safetensors").exists()
    for to, message in (("onxn", "there is no kind of file 'onxn'. Did you mean 'onnx'"), (",", "no kind of file was")):
        wrong = command.main("export", run, "--to", to, *arguments)
        assert wrong.code == 2
        assert message in wrong.err
    nothing = command.main("verify", run, *arguments)
    assert nothing.code == 2
    assert "holds no exported file" in nothing.err


class Odd(nn.Module):
    """Has an operator without an integer form."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 8), nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.cumsum(torch.tanh(self.a(x.flatten(1))), 1))


@needs_onnx
def test_what_no_file_can_hold_is_told_before_anything_is_written(tmp_path: Path) -> None:
    run = tmp_path / "odd"
    tiny.run("4x", Odd(), post_training=True, run_dir=run)
    with pytest.raises(ExportError, match="cumsum"):
        export_run(Odd(), run, tiny.test_data(), to=("packed", "onnx"))
    assert not list((run / "export").iterdir())


def test_a_folder_that_cannot_be_made(run: Path, tmp_path: Path) -> None:
    for folder, said in (("a" * 300, "file name too long"), ("run/plan.json/files", "not a directory")):
        given = ("--model", command.MODEL, "--data", command.TEST, "--to", "packed", "--out", tmp_path / folder)
        assert f"{said}. The export is not complete." in command.refused(command.main("export", run, *given))


def test_a_run_of_another_model_is_refused(run: Path) -> None:
    with pytest.raises((PlanError, SigmaQuantError)):
        export_run(Odd(), run, tiny.test_data(), to=("packed",))
    with pytest.raises(ExportError, match="there is no file"):
        verify_run(tiny.trained(), run / "export" / "model.onnx", tiny.test_data())
