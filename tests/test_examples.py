"""Every example runs, with small settings, and does what it says."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sigmaquant.search.strategies import STRATEGIES

FOLDER = Path(__file__).resolve().parent.parent / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Imports an example by name; the network of ``digits`` is trained briefly, and kept in a folder of this test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGMAQUANT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.syspath_prepend(FOLDER)
        importlib.import_module("digits").EPOCHS = 3

        def load(name: str) -> ModuleType:
            return importlib.import_module(name)

        yield load
        for name in NAMES:
            sys.modules.pop(name, None)
        STRATEGIES.pop("largest-first", None)


def test_every_example_is_run_here() -> None:
    others = ["own_costs", "own_hardware", "own_model", "own_sensitivity", "own_strategy", "own_task"]
    assert ["battery", "digits", "keyword_lstm", "microcontroller", *others] == NAMES


def test_digits(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    digits = example("digits")
    digits.main()
    assert digits.cache_path().exists()
    assert digits.accuracy(digits.model(), digits.test_data()) > 0.5
    assert "test accuracy" in capsys.readouterr().out


def test_keyword_lstm(example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = example("keyword_lstm").main(["--quick", "--out", str(tmp_path / "run")])
    scores = found["result"].scores.test, found["result"].float_scores.test
    assert scores[0] > scores[1] - 0.05 > 0.7
    assert {"packed", "onnx", "litert"} <= {verdict.target for verdict in found["verdicts"]}
    assert all(verdict.passed for verdict in found["verdicts"])
    assert "verified" in capsys.readouterr().out


def test_own_model(example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = example("own_model").main(["--quick", "--out", str(tmp_path / "run")])
    assert result.cost.total_bytes * 10 <= result.reference.total_bytes
    assert result.plan.weights["stem"] == 8, "pinned"
    out = capsys.readouterr().out
    assert f"budget {result.status}" in out
    assert "BatchNorm, absorbed" in out
    assert "verified" in out
    assert (tmp_path / "run" / "export" / "model.onnx").stat().st_size > 0


def test_own_task(example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = example("own_task").main(["--quick", "--out", str(tmp_path / "run")])
    assert result.met
    assert result.scores.test > result.float_scores.test - 0.1 > 0.5
    out = capsys.readouterr().out
    assert "both right: float" in out
    assert "verified" in out


def test_own_strategy(example: Any) -> None:
    results = example("own_strategy").main(["--quick"])
    assert list(results) == ["largest-first", "uniform", "sigma"]
    for result in results.values():
        assert result.met
    mine = results["largest-first"].plan.weights
    assert mine["block3.conv2"] == min(mine.values()), "the largest layer"
    assert mine["conv"] == 8, "the smallest one"


def test_own_costs(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = example("own_costs").main(["--quick"])
    assert result.met
    assert result.cost.cycles is not None
    assert result.cost.latency_ms == pytest.approx(result.cost.cycles / 200e3)
    assert "at 8 bits" in capsys.readouterr().out


def test_own_sensitivity(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    results = example("own_sensitivity").main(["--quick"])
    assert set(results) == {"weight-error", "curvature"}
    assert all(result.met for result in results.values())
    assert "weight-error" in capsys.readouterr().out


def test_own_hardware(example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = example("own_hardware").main(["--quick", "--out", str(tmp_path)])
    assert list(results) == ["shift-add-csd-sg13g2", "my-accelerator"]
    assert json.loads((tmp_path / "my-accelerator.json").read_text())["memory"]["weights_in"] == "on_chip"
    shipped, mine = results.values()
    assert mine.cost.energy_pj < shipped.cost.energy_pj, "no external memory, so half of less"
    assert dict(mine.plan.weights) != dict(shipped.plan.weights)
    assert "0% for external memory" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_microcontroller(example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = example("microcontroller").main(["--quick", "--out", str(tmp_path / "run")])
    assert found["verdict"].passed
    assert found["agreed"] >= 0.9 * found["images"]
    assert found["needs"]["arena_bytes"] > 0
    assert "as the reference" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_battery(example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = example("battery").main(["--quick", "--out", str(tmp_path / "run")])
    assert found["result"].met
    assert all(verdict.passed for verdict in found["verdicts"])
    plans = [plan for plan, _ in found["answers"]]
    assert plans == sorted(plans), "the charge only falls, so plans only get smaller"
    assert set(plans) == {0, 1, 2}
    assert len(plans) > found["alone"], "smaller plans make the battery last longer"
    assert "every plan verified" in capsys.readouterr().out
