"""The package as people use it from Python: what a result shows, its methods, callbacks, and typed options."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from torch import nn

import sigmaquant
import tiny
from sigmaquant import BitwidthPlan, Budget, Settings
from sigmaquant.errors import ExportError, RunDirectoryError
from sigmaquant.runs import NullProgress, RunFiles, TerminalProgress, make_progress, shown_progress
from sigmaquant.search.settings import Options
from sigmaquant.workflow.results import Control, Scores

QUICK = {**tiny.QUICK, "max_cycles": 1, "final_epochs": 0.5}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[sigmaquant.QuantizationResult, list[Mapping[str, Any]]]:
    events: list[Mapping[str, Any]] = []

    def fails(_: Mapping[str, Any]) -> None:
        raise ValueError("the logger is offline")

    result = tiny.run(
        "7x",
        run_dir=tmp_path_factory.mktemp("python") / "run",
        test_data=tiny.test_data(),
        control=True,
        callbacks=[events.append, fails],
        **QUICK,
    )
    return result, events


def test_a_result_is_shown_in_a_line_and_in_a_table(run) -> None:
    result, _ = run
    shown = (
        r"QuantizationResult\(met, 1\.\d KB, \d\.\dx smaller, validation 0\.\d{4} \(float 0\.\d{4}\), test 0\.\d{4} "
    )
    assert re.match(shown, repr(result))
    assert len(repr(result)) < 150
    html = result._repr_html_()
    assert html.count("<tr>") == 4
    assert html.count("<td>") == 12
    assert "[" not in html


def test_a_plan_is_shown_in_a_line() -> None:
    plan = BitwidthPlan({"a<b": 2, "c": 8, "d": 2}, {"input": 8})
    assert repr(plan) == "BitwidthPlan(3 layers: 2 at 2 bits, 1 at 8 bits; 1 activations)"
    assert "<td>a&lt;b</td><td>2</td>" in plan._repr_html_()


def test_callbacks_see_every_step_and_the_result_and_none_of_them_costs_the_run(run) -> None:
    result, events = run
    *steps, last = events
    assert [step["step"] for step in steps] == [step["step"] for step in RunFiles(result.run_dir).read_trajectory()]
    assert all("accuracy" in step for step in steps)
    assert last["stage"] == "result"
    assert last["status"] == result.status


def test_files_and_report_from_the_result(run, tmp_path: Path) -> None:
    result, _ = run
    (verdict,) = result.export("packed", out=tmp_path / "files", examples=50)
    assert verdict.passed
    assert verdict.path.parent == tmp_path / "files"
    assert result.report(tmp_path / "page.html") == tmp_path / "page.html"
    with pytest.raises(ExportError, match="Give run_dir="):
        dataclasses.replace(result, exporter=None).export("onnx")
    with pytest.raises(RunDirectoryError, match="Give run_dir="):
        dataclasses.replace(result, run_dir=None).report()


def changed(result, mine: float, theirs: float, noise: float, **more: Any):
    scores = {
        "scores": Scores(mine, mine),
        "float_scores": Scores(0.95, 0.95),
        "noise": {"float": 0.01, "control": noise},
    }
    control = Control(result.control.plan, result.control.cost, Scores(theirs, theirs))
    return dataclasses.replace(result, control=control, **{**scores, **more})


@pytest.mark.parametrize(
    ("mine", "theirs", "noise", "found"),
    [
        (0.94, 0.93, 0.01, "as good as float on the test data (0.9400 against 0.9500, at a noise of 0.0100); uniform"),
        (0.94, 0.93, 0.01, "bits is as good (0.9300, at a noise of 0.0100) and"),
        (0.90, 0.95, 0.01, "0.0500 below float"),
        (0.90, 0.95, 0.01, "is better by 0.0500"),
        (0.99, 0.90, 0.01, "better than float"),
        (0.99, 0.90, 0.01, "is worse by 0.0900"),
    ],
)
def test_the_verdict_in_words(run, mine: float, theirs: float, noise: float, found: str) -> None:
    assert found in changed(run[0], mine, theirs, noise).verdict
    assert changed(run[0], mine, theirs, noise).verdict.startswith("The budget is met: ")


def test_the_verdict_says_what_was_missed_and_what_to_do(run) -> None:
    missed = changed(run[0], 0.9, 0.9, 0.01, met=False, violations={"size_bytes": 0.031, "accuracy": 0.02})
    expected = "The budget is not met (size is 3.1 % over its limit, accuracy is 2 % below its limit)"
    assert missed.verdict.startswith(expected)
    assert "--accept-control returns it" in run[0].verdict or "is worse" in run[0].verdict or "larger" in run[0].verdict
    alone = dataclasses.replace(run[0], control=None)
    assert alone.verdict.endswith("how far one bitwidth for all layers goes, --control tells.")


def test_what_decides_nothing_and_what_limits_nothing_is_told() -> None:
    inputs, targets = tiny.validation_data()
    untrained = nn.Sequential(nn.Flatten(), nn.Linear(64, tiny.CLASSES))
    with torch.no_grad():
        untrained[1].bias.copy_(10.0 * torch.eye(tiny.CLASSES)[0])  # the same class for everything
    found = tiny.run(
        Budget(size="1 MB", accuracy="1 %"),
        model=tiny.single(),
        validation_data=(inputs[:3], targets[:3]),
        post_training=True,
        **QUICK,
    )
    notes = " | ".join(found.notes)
    assert "3 validation examples decide everything: one more that is right moves a share by 0.33" in notes
    assert "the accuracy floor 0.01 is far below the float network's" in notes
    assert 'like "-1 %"' in notes
    assert "the size limit of 1.0 MB is no less than the float network's" in notes
    guessing = tiny.run("8x", model=untrained, post_training=True, **QUICK)
    assert "no better than always giving one class" in " | ".join(guessing.notes)
    assert not any("validation example" in note or "limit" in note for note in guessing.notes)


def test_options_are_the_fields_of_settings() -> None:
    typed, fields = get_type_hints(Options), get_type_hints(Settings)
    assert typed.keys() == fields.keys()
    assert {name for name in typed if typed[name] != fields[name]} == {"bitwidths", "activation_bitwidths", "allowed"}


def test_progress_true_is_the_display_that_suits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown_progress(None) is None
    assert shown_progress(False) is None
    assert type(shown_progress(True)) is type(make_progress())
    display = NullProgress()
    assert shown_progress(display) is display

    class Notebook:
        @staticmethod
        def get_ipython() -> Any:
            return type("Shell", (), {"kernel": object()})()

    monkeypatch.setitem(__import__("sys").modules, "IPython", Notebook)
    assert isinstance(shown_progress(True), TerminalProgress)
    assert torch.get_num_threads() >= 1


def test_callbacks_are_told_which_plan_a_step_is_of(tmp_path):
    events = []
    result = sigmaquant.quantize(
        tiny.trained(), tiny.train_data(), plans=["6x", "10x"], validation_data=tiny.validation_data(),
        post_training=True, callbacks=[events.append], **tiny.QUICK,
    )  # fmt: skip
    assert {event.get("plan") for event in events} == {"6x", "10x", None}
    assert events[-1]["stage"] == "result"
    assert len(events[-1]["plans"]) == len(result.plans) == 2
