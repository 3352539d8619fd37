"""What `write_report` leaves on the disk: the page, the numbers, and who else writes them."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from pathlib import Path

import pytest
import report_cases
import torch

import command
import tiny
from sigmaquant.errors import RunDirectoryError, SigmaQuantError, StorageError
from sigmaquant.report import write_report
from sigmaquant.runs import RunDirectory
from sigmaquant.workflow.exporting import export_run, verify_run


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def same(text: str, value: object) -> bool:
    """Whether a CSV field says what a JSON value does."""
    if value is None:
        return text == ""
    return float(text) == float(value) if isinstance(value, int | float) and not isinstance(value, bool) else (
        text == str(value)
    )  # fmt: skip


def test_the_tables_hold_what_the_json_does(tmp_path: Path) -> None:
    paths = [
        report_cases.write_run(tmp_path / "one", device=True),
        report_cases.write_run(tmp_path / "two", report_cases.EVIL, shift=2, control=False),
        report_cases.write_run(tmp_path / "three", finished=False),
    ]
    page = write_report(paths, tmp_path / "all.html")
    assert sorted(path.name for path in tmp_path.glob("all*")) == [
        "all.html", "all.json", "all_layers.csv", "all_runs.csv", "all_steps.csv",
    ]  # fmt: skip
    document = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert (document["schema"], document["version"]) == ("sigmaquant.report", 1)
    layers, steps, runs = (rows(page.with_name(f"all_{kind}.csv")) for kind in ("layers", "steps", "runs"))
    expected = [(run, layer) for run in document["runs"] for layer in run["layers"]]
    assert len(layers) == len(expected) == 12
    for row, (run, layer) in zip(layers, expected, strict=True):
        assert row["run"] == run["label"]
        for key in ("name", "kind", "bits", "uniform_bits", "elements", "macs", "sigma"):
            assert same(row[key], layer[key]), key
        for key, value in (layer["divergence"] or {}).items():
            assert same(row[f"divergence_{key}"], value)
        for side in ("before", "after"):
            for measure, value in layer[side].items():
                assert same(row[f"{measure}_{side}"], value), measure
    expected_steps = [(run, step) for run in document["runs"] for step in run["steps"]]
    for row, (run, step) in zip(steps, expected_steps, strict=True):
        assert row["run"] == run["label"]
        for key in ("step", "stage", "move", "accepted", "accuracy", "mean_bits", "seconds"):
            assert same(row[key], step[key]), key
        assert step["cost"].pop("operating_points") == []  # of several points: in the document alone
        for key, value in step["cost"].items():
            assert same(row[key], value), key
    assert [row["status"] for row in runs] == ["met", "met", "unfinished"]
    for row, run in zip(runs, document["runs"], strict=True):
        assert same(row["validation"], run["scores"]["validation"])
        assert same(row["total_bytes"], run["cost"]["total_bytes"])
        control = run["control"]
        assert same(row["uniform_total_bytes"], control and control["cost"]["total_bytes"])


def test_the_same_files_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = report_cases.write_run(tmp_path / "run", device=True)
    page = write_report([path])
    assert page == path / "report.html"
    before = {file: file.read_bytes() for file in path.glob("report*")}
    assert len(before) == 4
    monkeypatch.chdir(tmp_path)
    write_report(["run"])
    assert {file: file.read_bytes() for file in path.glob("report*")} == before


def test_where_the_page_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (report_cases.write_run(tmp_path / name) for name in ("one", "two"))
    monkeypatch.chdir(tmp_path)
    assert write_report([one, two]) == Path("report.html")
    assert (tmp_path / "report_runs.csv").exists()
    (tmp_path / "folder").mkdir()
    assert write_report([one], tmp_path / "folder") == tmp_path / "folder" / "report.html"
    assert write_report([one], tmp_path / "new" / "a.html").exists()
    with pytest.raises(SigmaQuantError, match=r"'text\.txt' should end in \.html"):
        write_report([one], "text.txt")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not write"):
        write_report([one], tmp_path / "file" / "a.html")
    for name in ("a" * 300, "a" * 300 + ".html", "a" * 300 + "/a.html"):
        with pytest.raises(StorageError, match=r"file name too long\. Nothing was written\. Choose a shorter name\."):
            write_report([one], tmp_path / name)


def test_a_run_ends_with_its_report(tmp_path: Path) -> None:
    path = tmp_path / "run"
    result = tiny.run("8x", run_dir=path, test_data=tiny.test_data(), control=True)
    page = (path / "report.html").read_text(encoding="utf-8")
    assert "✓ budget met" in page
    document = json.loads((path / "report.json").read_text())
    (run,) = document["runs"]
    assert run["scores"]["test"] == result.scores.test
    assert run["cost"]["total_bytes"] == result.cost.total_bytes
    assert run["control"]["weights"] == dict(result.control.plan.weights if result.control else {})
    assert run["missing"] == []
    assert run["limits"] == dict(result.limits)
    first = (path / "report.html").stat().st_mtime_ns
    with RunDirectory(path, config={"another": 1}, overwrite=True):
        assert not list(path.glob("report*"))
        assert not (path / "layers.json").exists()
    assert first


def test_a_report_that_fails_costs_a_warning_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> str:
        raise RuntimeError("no charts today")

    monkeypatch.setattr("sigmaquant.report.write.render", fails)
    with caplog.at_level(logging.WARNING, "sigmaquant"):
        result = tiny.run("8x", tiny.single(), post_training=True, run_dir=tmp_path / "run")
    assert result.plan.weights
    assert (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run" / "report.html").exists()
    said = f"the report could not be written (no charts today). Try: sigmaquant report {tmp_path / 'run'}"
    assert said in caplog.text
    assert said in (tmp_path / "run" / "log.txt").read_text()


def test_exported_files_are_in_the_report(tmp_path: Path) -> None:
    path = tmp_path / "run"
    tiny.run("8x", post_training=True, run_dir=path)
    assert "None yet" in (path / "report.html").read_text(encoding="utf-8")
    export_run(tiny.trained(), path, tiny.test_data(), to=("packed",), examples=20)
    page = (path / "report.html").read_text(encoding="utf-8")
    assert "None yet" not in page
    assert "✓ verified" in page
    assert "model.safetensors" in page
    digest = hashlib.sha256((path / "checkpoint.safetensors").read_bytes()).hexdigest()
    verification = path / "export" / "verification.json"
    document = json.loads(verification.read_text())
    assert document["checkpoint_sha256"] == digest
    # An earlier verdict on another file stays while the file is there and the network is the same.
    other = {**document["artifacts"][0], "target": "onnx", "path": "run/export/model.onnx"}
    verification.write_text(json.dumps({**document, "artifacts": [*document["artifacts"], other]}))
    verify_run(tiny.trained(), path / "export" / "model.safetensors", tiny.test_data(), examples=20)
    assert [item["target"] for item in json.loads(verification.read_text())["artifacts"]] == ["packed"]
    (path / "export" / "model.onnx").write_bytes(b"")
    for digests, kept in ((digest, ["packed", "onnx"]), ("another", ["packed"])):
        verification.write_text(
            json.dumps({**document, "checkpoint_sha256": digests, "artifacts": [*document["artifacts"], other]})
        )
        verify_run(tiny.trained(), path / "export" / "model.safetensors", tiny.test_data(), examples=20)
        assert [item["target"] for item in json.loads(verification.read_text())["artifacts"]] == kept
    before = (path / "report.html").read_bytes()
    export_run(tiny.trained(), path, tiny.test_data(), to=("packed",), examples=20, out=tmp_path / "elsewhere")
    assert (path / "report.html").read_bytes() == before


def test_the_command_line(tmp_path: Path) -> None:
    one, two = (report_cases.write_run(tmp_path / name) for name in ("one", "two"))
    found = command.main("report", one)
    assert found.code == 0
    assert f"Report: {one / 'report.html'}" in found.out
    found = command.main("report", one, two, "--out", tmp_path / "both.html", "--json")
    assert json.loads(found.out) == {
        "report": str(tmp_path / "both.html"),
        "numbers": str(tmp_path / "both.json"),
        **{kind: str(tmp_path / f"both_{kind}.csv") for kind in ("layers", "steps", "runs")},
    }
    assert all(Path(path).exists() for path in json.loads(found.out).values())
    wrong = command.main("report", tmp_path / "nowhere")
    assert wrong.code == 2
    assert "it is no run directory" in wrong.err.replace("\n", " ")
    assert command.main("report").code == 2


def test_a_damaged_run_leaves_an_old_report_alone(tmp_path: Path) -> None:
    path = report_cases.write_run(tmp_path / "run")
    page = write_report([path])
    before = page.read_bytes()
    (path / "layers.json").write_text("{}")
    with pytest.raises(RunDirectoryError):
        write_report([path])
    assert page.read_bytes() == before


def test_files_do_not_depend_on_threads_or_random_numbers(tmp_path: Path) -> None:
    """The report takes nothing from the process it is written in."""
    path = report_cases.write_run(tmp_path / "run")
    before = torch.random.get_rng_state()
    write_report([path])
    assert torch.equal(torch.random.get_rng_state(), before)
