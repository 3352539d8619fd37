"""Files of all plans of a run, each plan verified against its own integer model."""

from __future__ import annotations

import json
import shutil

import pytest

import tiny
from command import main
from sigmaquant import Budget, quantize
from sigmaquant.errors import ExportError
from sigmaquant.nested.files import export_plans, run_with_plans, verify_plans

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc to compile what is exported")
NAMES = ["5x", "9x"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("plans") / "run"
    result = quantize(
        tiny.trained(),
        tiny.train_data(),
        plans=[Budget(size=size, size_counts="weights") for size in NAMES],
        validation_data=tiny.validation_data(),
        **{**tiny.QUICK, "post_training": True, "strategy": "ilp", "sensitivity": "divergence"},
        run_dir=path,
        export=("packed", "c", "onnx"),
    )
    return result, path


def test_every_plan_of_every_file_is_verified(made):
    result, path = made
    assert [(v.target, v.plan) for v in result.files] == [(t, n) for t in ("packed", "c", "onnx") for n in NAMES]
    assert all(verdict.passed for verdict in result.files)
    files = sorted(file.name for file in (path / "export").iterdir())
    assert files == ["model.safetensors", "model_c", "model_plan_0.onnx", "model_plan_1.onnx", "verification.json"]


def test_files_are_verified_again_and_damage_is_seen(made, tmp_path):
    _, path = made
    run = shutil.copytree(path, tmp_path / "run")
    data = tiny.test_data()
    again = verify_plans(tiny.trained(), run, data, examples=20)
    assert len(again) == 6
    assert all(verdict.passed for verdict in again)
    one = verify_plans(tiny.trained(), run / "export" / "model_plan_1.onnx", data, examples=20)
    assert [(verdict.plan, verdict.passed) for verdict in one] == [("9x", True)]
    weights = run / "export" / "model_c" / "model_plan_1.c"
    weights.write_text(weights.read_text().replace(".low = -128", ".low = -100"))
    document = json.loads((run / "export" / "verification.json").read_text())
    assert {item["plan"] for item in document["artifacts"]} <= set(NAMES)
    done = main("verify", run / "export" / "model_c", "--model", f"{tiny.HERE}:trained", "--data",
                f"{tiny.HERE}:test_data", "--examples", "20")  # fmt: skip
    assert done.code == 1
    assert "SHA-256" in done.out
    shutil.rmtree(run / "export")
    with pytest.raises(ExportError, match="no exported file"):
        verify_plans(tiny.trained(), run, data)


def test_a_run_without_plans_has_none(tmp_path):
    assert run_with_plans(tmp_path) is None


def test_nothing_is_written_where_a_kind_is_unknown(made, tmp_path):
    _, path = made
    with pytest.raises(ExportError, match="there is no kind of file"):
        export_plans(tiny.trained(), path, tiny.test_data(), to=("packed", "tape"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
