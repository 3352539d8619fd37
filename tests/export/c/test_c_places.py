"""Inputs, outputs, and what stands in float behind them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from c_cases import NO_PLAN, SANITIZED, STRICT, check_codes, compiled, lowered, random_codes
from torch import Tensor, nn

from sigmaquant.export.c import CReport, export_c
from sigmaquant.lowering import IntegerExecutor, IntegerModel
from sigmaquant.operators import Edge, Reshape


class Many(nn.Module):
    """Inputs of several kinds, outputs of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.vector = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(5, 4)

    def forward(self, x: Tensor, unread: Tensor, v: Tensor) -> dict[str, Any]:
        y = torch.relu(self.image(x) + self.vector(v)[:, :, None, None])
        return {
            "twice": (y, y),
            "input": x,
            "view": y.permute(0, 2, 3, 1),
            "part": [y[:, 1:, ::2], y.flip(1)],
            "scores": y.mean((2, 3)),
        }


@pytest.fixture(scope="module")
def many() -> tuple[IntegerModel, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    inputs = torch.randn(8, 2, 3, 4), torch.randn(8, 2), torch.randn(8, 5)
    return lowered(Many(), inputs, 8), inputs


@pytest.fixture(scope="module")
def many_report(many, tmp_path_factory) -> CReport:
    return export_c(many[0], tmp_path_factory.mktemp("many") / "out", name="many")


def test_every_input_and_output_has_its_place(many, many_report, tmp_path, sanitized):
    model, inputs = many
    copy = shutil.copytree(many_report.folder, tmp_path / "copy")
    runner = compiled(copy, sanitized, (*SANITIZED, "-DSQ_SEPARATE", "-DSQ_CHECK"))
    check_codes(runner, model, random_codes(model, 3))
    found, expected = runner(*inputs), IntegerExecutor(model)(*inputs)
    assert isinstance(expected, tuple)
    for name, ours, theirs in zip(model.outputs, found, expected, strict=True):
        assert torch.equal(ours, theirs), name


def test_the_header_and_the_readme_say_where_they_are(many_report):
    header = (many_report.folder / "many.h").read_text()
    readme = (many_report.folder / "README.md").read_text()
    outputs = ", ".join(f"int8_t *output_{i}" for i in range(7))
    for text in (header, readme):
        assert f"void many_run(const int8_t *input_0, const int8_t *input_2, {outputs});" in " ".join(text.split())
        assert "Input 1 of the network, unread, is not read, and no argument here." in text
        assert max(map(len, text.splitlines())) <= 120
    assert "#define MANY_INPUT_2_SIZE 5\n" in header
    assert "| `output_3` | 48 | [3, 4, 4] |" in readme
    assert many_report.input_bytes == 24 + 5


def test_an_input_that_nothing_reads_may_be_an_output(tmp_path, objects):
    edges = {"a": Edge("a", (3,), 8), "b": Edge("b", (2, 2), 32), "y": Edge("y", (1, 3), 8)}
    model = IntegerModel((Reshape("r", ("a",), "y", (1, 3)),), edges, ("b", "a"), ("b", "y"), NO_PLAN)
    report = export_c(model, tmp_path / "out")
    assert "Output 0 of the network is its input b, and no argument here." in (report.folder / "model.h").read_text()
    runner = compiled(report.folder, objects, ("-O1",))
    a, b = torch.randn(5, 3) * 9, torch.randn(5, 2, 2)
    found = runner(b, a)
    assert torch.equal(found[0], b)
    assert torch.equal(found[1], IntegerExecutor(model)(b, a)[1])


def test_watching_sees_what_the_reference_sees(many, many_report, tmp_path, objects):
    model, inputs = many
    runner = compiled(shutil.copytree(many_report.folder, tmp_path / "copy"), objects, ("-O1",))
    seen: dict[str, Tensor] = {}
    executor = IntegerExecutor(model)
    executor.run_codes(*executor.quantize_inputs(*inputs), watch=lambda edge, codes: seen.update({edge.name: codes}))
    found = runner.watch(*inputs)
    assert len(found) >= 3
    for name, codes in found.items():
        assert torch.equal(codes, seen[name]), name


def test_watching_sees_rows_too(tmp_path, objects):
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv1d(2, 3, 3, padding=1), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.conv(x.flatten(0, 1)))).unflatten(0, (x.shape[0], 5)).mean(1)

    torch.manual_seed(0)
    inputs = (torch.randn(6, 5, 2, 4),)
    model = lowered(Rows(), inputs, 8)
    report = export_c(model, tmp_path / "out")
    seen: dict[str, Tensor] = {}
    executor = IntegerExecutor(model)
    executor.run_codes(*executor.quantize_inputs(*inputs), watch=lambda edge, codes: seen.update({edge.name: codes}))
    found = compiled(report.folder, objects, ("-O1",)).watch(*inputs)
    assert any(model.edges[name].rows == 5 for name in found)
    for name, codes in found.items():
        assert torch.equal(codes, seen[name]), name


# -- behind the last integer -----------------------------------------------------------------------------------------


class Ended(nn.Module):
    """Scores, and functions of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.conv(x)
        return y, y.softmax(1), y.log_softmax(-1), y.sigmoid()


@pytest.fixture(scope="module")
def ended() -> tuple[IntegerModel, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(9, 2, 7) * 3
    return lowered(Ended(), (x,), 8), x


def test_functions_behind_the_network_are_functions_of_their_own(ended, tmp_path, objects):
    model, x = ended
    assert {op.function for op in model.endings} == {"softmax", "log_softmax", "sigmoid"}
    report = export_c(model, tmp_path / "out", name="ended")
    header = (report.folder / "ended.h").read_text()
    for name in ("softmax_output_1", "log_softmax_output_2", "sigmoid_output_3"):
        assert f"void ended_{name}(float *values);" in header
    assert "-lm" in (report.folder / "README.md").read_text()
    assert "math.h" not in (report.folder / "ended.c").read_text()
    runner = compiled(report.folder, objects, ("-O1",))
    found, expected = runner(x), IntegerExecutor(model)(x)
    assert torch.equal(found[0], expected[0])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-6)
    assert (found[1].sum(1) - 1).abs().max() < 1e-5
    codes = runner(*IntegerExecutor(model).quantize_inputs(x))
    logits = model.without_endings()
    for ours, theirs in zip(
        codes, IntegerExecutor(logits).run_codes(*IntegerExecutor(model).quantize_inputs(x)), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_a_network_without_them_needs_no_mathematics(ended, tmp_path):
    model, _ = ended
    report = export_c(model.without_endings(), tmp_path / "out")
    assert not report.has_endings
    assert not [path for path in report.folder.glob("*.c") if "math.h" in path.read_text() or "ending" in path.name]


def test_only_who_calls_them_links_them(ended, tmp_path):
    if shutil.which("make") is None or shutil.which("nm") is None:
        pytest.skip("needs make and nm")
    report = export_c(ended[0], tmp_path / "out", name="ended")
    for source in report.folder.glob("*.c"):
        command = ["gcc", *STRICT, "-O2", "-DSQ_STDIN", "-DSQ_ENDINGS", "-c", str(source)]
        subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(["make", "CC=gcc"], cwd=report.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "as the reference" in done.stdout.splitlines()
    symbols = subprocess.run(["nm", str(report.folder / "ended")], capture_output=True, text=True, check=True).stdout
    assert "ended_run" in symbols
    assert "softmax" not in symbols  # the example compares codes


def test_one_output_that_ends_in_a_softmax(tmp_path, objects):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1))
    x = torch.randn(9, 4)
    model = lowered(network, (x,), 6)
    report = export_c(model, Path(tmp_path / "out"))
    document = json.loads((report.folder / "export.json").read_text())
    assert document["outputs"][0]["endings"] == [{"function": "softmax", "outer": 1, "size": 3, "inner": 1}]
    found = compiled(report.folder, objects, ("-O1",))(x)
    torch.testing.assert_close(found, IntegerExecutor(model)(x), rtol=2e-6, atol=1e-6)
