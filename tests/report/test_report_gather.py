"""From run directories to the report's document: finished, unfinished, old, damaged, several."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import report_cases

from sigmaquant.errors import RunDirectoryError, SigmaQuantError
from sigmaquant.report.gather import comparability, gather, labels


def edit(path: Path, **changes: Any) -> None:
    """Replace keys of a JSON file; None removes one."""
    document = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}), encoding="utf-8")


def test_numbers_are_those_of_the_run(tmp_path: Path) -> None:
    path = report_cases.write_run(tmp_path / "run", device=True)
    result = json.loads((path / "result.json").read_text())
    (run,) = gather([path]).runs
    assert (run.label, run.status, run.met, run.finished) == ("run", "met", True, True)
    assert run.missing == ()
    for key in ("scores", "float_scores", "cost", "reference", "limits", "violations", "seconds"):
        found, given = run.model_dump()[key], result[key]
        if key in ("cost", "reference"):  # whatever a run does not give is empty
            assert not any(value for name, value in found.items() if name not in given), key
            found = {name: found[name] for name in given}
        assert found == given, key
    assert {layer.name: layer.bits for layer in run.layers} == result["weights"]
    assert {layer.uniform_bits for layer in run.layers} == {4}
    layer = run.layers[0]
    assert layer.elements is not None
    assert layer.before["bytes"] == 4 * layer.elements + 32, "a float layer: weights and bias"
    assert layer.after["bytes"] == layer.elements * layer.bits // 8 + 32 + 32, "codes, scales and bias"
    assert layer.before["energy_pj"] is not None
    assert run.reference_bits == 8
    assert layer.after["energy_pj"] is not None
    assert layer.before["energy_pj"] / layer.after["energy_pj"] == pytest.approx(1 if layer.bits == 8 else 1.1, abs=1)
    assert run.outside["bytes"] == 7 + 25, "scales of activations, and what is not quantized"
    assert run.outside["weight_bytes"] == 0
    elements = [layer.elements or 0 for layer in run.layers]
    bits = sum(layer.bits * count for layer, count in zip(run.layers, elements, strict=True)) / sum(elements)
    assert run.mean_bits == pytest.approx(bits)


def test_steps_are_those_of_the_trajectory(tmp_path: Path) -> None:
    path = report_cases.write_run(tmp_path / "run", steps=5)
    (run,) = gather([path]).runs
    lines = [json.loads(line) for line in (path / "trajectory.jsonl").read_text().splitlines()]
    assert [step.step for step in run.steps] == [1, 2, 3, 4, 5]
    for step, line in zip(run.steps, lines, strict=True):
        assert (step.move, step.accepted, step.accuracy) == (line["move"], line["accepted"], line["accuracy"])
        assert step.cost.model_dump(exclude_unset=True) == line["cost"]
    assert [step.changed for step in run.steps] == [0, 1, 1, 1, 1]
    assert run.zones is not None
    assert (run.zones.cost, run.zones.accuracy) == (0.15, 0.02)


def test_an_unfinished_run_says_so_and_shows_its_way(tmp_path: Path) -> None:
    path = report_cases.write_run(tmp_path / "run", finished=False)
    with (path / "trajectory.jsonl").open("a") as file:
        file.write('{"step": 7, "cut by a cra')
    (run,) = gather([path]).runs
    assert (run.status, run.finished, run.met) == ("unfinished", False, False)
    assert run.missing == ("scores, costs and limits in the end: the run has not finished",)
    assert len(run.steps) == 6
    assert set(run.limits) == {"size_bytes", "accuracy"}, "known from the steps"
    assert {layer.name for layer in run.layers} == {"conv1", "conv2", "conv3", "fc"}
    (path / "trajectory.jsonl").unlink()
    (run,) = gather([path]).runs
    assert (run.layers, run.steps) == ((), ())
    assert "the limits in absolute numbers: the run did not record them" in run.missing


def test_a_run_of_an_earlier_release_shows_what_it_has(tmp_path: Path) -> None:
    path = report_cases.write_run(tmp_path / "run", layers=False, device=True)
    lines = [json.loads(line) for line in (path / "trajectory.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("limits")
        line.pop("zones", None)
    (path / "trajectory.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run,) = gather([path]).runs
    assert run.missing[0].startswith("shapes, σ, divergence, costs and histograms of the layers: the run has no layers")
    assert run.missing[1].startswith("the buffer zones of phase 1")
    assert run.limits, "those of the result"
    layer = run.layers[0]
    assert layer.sigma is None
    assert layer.elements is not None
    assert layer.before == {"weight_bytes": 4 * layer.elements}
    assert layer.after == {"weight_bytes": layer.elements * layer.bits // 8}
    edit(path / "result.json", coverage=None)
    (run,) = gather([path]).runs
    assert run.layers[0].after == {}
    assert run.mean_bits is None


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", None, r"has no config\.json: it is no run directory"),
        (
            "config.json",
            '{"schema": "sigmaquant.run", "version": 1, "config": {}}',
            "damaged, at 'settings': field req",
        ),
        (
            "config.json",
            '{"schema": "sigmaquant.run", "version": 1, "config": {"settings": {}, "budget": {}}}',
            r"config\.json is damaged, at 'settings\.strategy': field required",
        ),
        ("result.json", "{", "cannot be read"),
        ("result.json", '{"status": "met"}', r"result\.json is damaged, at 'scores': field required"),
        (
            "trajectory.jsonl",
            '{"step": "x"}\n',
            r"trajectory\.jsonl is damaged, at 'step': input should be a valid int",
        ),
        ("trajectory.jsonl", 'no\n{"step": 1}\n', "line 1, is damaged"),
        ("layers.json", "[]", "holds no JSON object"),
        ("export/verification.json", '{"artifacts": [{}]}', r"damaged, at 'artifacts\.0\.target'"),
    ],
)
def test_damaged_files_are_told_by_name(tmp_path: Path, file: str, text: str | None, message: str) -> None:
    path = report_cases.write_run(tmp_path / "run")
    target = path / file
    target.parent.mkdir(exist_ok=True)
    if text is None:
        target.unlink()
    else:
        target.write_text(text)
    with pytest.raises(RunDirectoryError, match=message):
        gather([path])


def test_layers_of_another_plan_are_not_shown(tmp_path: Path) -> None:
    path = report_cases.write_run(tmp_path / "run")
    weights = json.loads((path / "result.json").read_text())["weights"]
    edit(path / "result.json", weights={**weights, "fc": 7})
    with pytest.raises(RunDirectoryError, match=r"layers\.json belongs to another plan than .*result\.json"):
        gather([path])


def test_no_run_and_the_same_run_twice_are_refused(tmp_path: Path) -> None:
    path = report_cases.write_run(tmp_path / "run")
    with pytest.raises(SigmaQuantError, match="at least one run"):
        gather([])
    with pytest.raises(SigmaQuantError, match="is given twice"):
        gather([path, tmp_path / "." / "run"])
    with pytest.raises(RunDirectoryError, match="no run directory"):
        gather([tmp_path / "nowhere"])


def test_labels_tell_runs_apart() -> None:
    folders = [Path(text) for text in ("/a/x/run", "/a/y/run", "/b/y/run", "/c", "/")]
    assert labels(folders) == ["x/run", "a/y/run", "b/y/run", "c", "/"]


def test_verified_files_belong_to_the_network_or_are_marked(tmp_path: Path) -> None:
    path = report_cases.write_run(tmp_path / "run")
    (path / "checkpoint.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    report_cases.verification(path, digest)
    (run,) = gather([path]).runs
    assert [(file.path, file.passed, file.stale) for file in run.artifacts] == [
        ("model.onnx", True, False), ("model_c", False, False),
    ]  # fmt: skip
    assert run.integers is not None
    assert (run.integers.agreement.decisions, run.integers.operators) == (0.994, 12)
    (path / "checkpoint.safetensors").write_bytes(b"other weights")
    assert gather([path]).runs[0].integers is None
    assert all(file.stale for file in gather([path]).runs[0].artifacts), "a run that was overwritten"
    report_cases.verification(path, None)
    (run,) = gather([path]).runs
    assert not any(file.stale for file in run.artifacts)
    assert "whether the exported files belong to this network" in run.missing[0]


def test_the_front_is_by_validation_score_and_cost(tmp_path: Path) -> None:
    """The third run costs as much as the second and scores less; an unfinished one is on no front."""
    good = report_cases.write_run(tmp_path / "good", accuracy=0.92)
    small = report_cases.write_run(tmp_path / "small", shift=3, accuracy=0.9)
    worse = report_cases.write_run(tmp_path / "worse", shift=3, accuracy=0.85)
    going = report_cases.write_run(tmp_path / "going", finished=False)
    runs = {run.label: run for run in gather([good, small, worse, going]).runs}
    assert "bytes" in runs["good"].front
    assert "bytes" in runs["small"].front
    assert runs["worse"].front == ()
    assert runs["going"].front == ()
    assert "energy_pj" not in runs["good"].front, "the ideal profile gives none"


def test_what_does_not_compare_is_said(tmp_path: Path) -> None:
    one = report_cases.write_run(tmp_path / "one")
    two = report_cases.write_run(tmp_path / "two", device=True, metric="mine")
    report = gather([one, two])
    assert report.notes == (
        "the runs are on different hardware profiles: energy, latency and cycles do not compare",
        "the runs are scored by different metrics",
    )
    assert comparability(report.runs[:1]) == ()
    assert [run.percent for run in report.runs] == [True, False]
