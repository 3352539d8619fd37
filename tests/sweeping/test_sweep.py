"""Whole sweeps over the tiny network."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import command
import tiny
from sigmaquant import Budget, Sweep, sweep
from sigmaquant.errors import (
    MissingExtraError,
    RunDirectoryError,
    SigmaQuantError,
    TrainingError,
    UnreachableBudgetError,
)
from sigmaquant.runs import NullProgress, RunFiles
from sigmaquant.search.problem import SearchProblem
from sigmaquant.search.session import Statistics
from sigmaquant.search.strategies import STRATEGIES, Evidence
from sigmaquant.sweeping import workers
from sigmaquant.workflow.job import Job

SIZES = ("6x", "8x", "9x")


def tiny_sweep(out: Path, sizes: tuple[str, ...] = SIZES, **options: Any) -> Sweep:
    options = {"validation_data": tiny.validation_data(), **tiny.QUICK, "post_training": True, **options}
    budgets = [Budget(size=size, size_counts="weights") for size in sizes]
    return sweep(tiny.trained(), tiny.train_data(), budgets=budgets, out=out, **options)


def config(run: Path) -> dict[str, Any]:
    return RunFiles(run).read_config()


@contextmanager
def interrupted_at(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[None]:
    """A sweep in here is interrupted as its run of that number begins."""
    real, seen = Job.run, []

    def stop(self: Job, *args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["run_dir"])
        if len(seen) == number:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "run", stop)
        with pytest.raises(KeyboardInterrupt):
            yield


def test_each_budget_begins_from_the_nearest_finished_one(tmp_path: Path) -> None:
    found = tiny_sweep(tmp_path / "s", test_data=tiny.test_data(), control=True)
    assert [point.budget for point in found.points] == list(SIZES)
    assert [point.started_from for point in found.points] == ["", "size-6x", "size-8x"]
    assert found.met
    for point in found.points:
        result = RunFiles(found.path / point.run).read_result()
        assert point.validation == result["scores"]["validation"]
        assert point.control_test == result["control"]["scores"]["test"]
        assert result["cost"]["weight_bytes"] <= result["limits"]["size_bytes"]
    steps = tiny.trajectory(found.path / "size-8x")
    start = next(step for step in steps if step["move"] == "start")
    assert start["changes"]["run"] == "size-6x"
    candidates = {step["changes"]["candidate"]: step for step in steps if step["move"] == "candidate"}
    assert start["divergence"] == min(step["divergence"] for step in candidates.values())
    own = ("uniform", "integer", "clusters")
    assert any(name == "the plan of size-6x" or name.startswith(own) for name in candidates)
    with found.frontier_path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == [point.run for point in found.points]
    assert [float(row["cost"]) for row in rows] == [point.cost for point in found.points]
    assert found.report_path is not None
    assert found.report_path.exists()


def test_trained_weights_are_taken_over_and_counted(tmp_path: Path) -> None:
    found = tiny_sweep(tmp_path / "s", ("6x", "9x"), post_training=False, cycle_examples=0)
    first, second = found.points
    assert first.trained_examples >= 400
    assert second.trained_examples > first.trained_examples  # what was thrown away does not count
    notes = RunFiles(found.path / second.run).read_result()["notes"]
    assert any(f"{first.trained_examples:,}" in note for note in notes)
    steps = tiny.trajectory(found.path / second.run)
    assert steps[0]["accuracy"] == first.validation  # the very network of the first run


def test_statistics_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"draw_until_stable": 0, "evaluate": 0}
    from sigmaquant.search import session as session_module
    from sigmaquant.workflow import control as control_module
    from sigmaquant.workflow import job as job_module

    names = ((session_module, "draw_until_stable"), (job_module, "evaluate"), (control_module, "evaluate"))
    for module, name in names:
        real = getattr(module, name)

        def counting(*args: Any, _name: str = name, _real: Any = real, **kwargs: Any) -> Any:
            calls[_name] += 1
            return _real(*args, **kwargs)

        monkeypatch.setattr(module, name, counting)
    tiny_sweep(tmp_path / "s", test_data=tiny.test_data())
    assert calls == {"draw_until_stable": 1, "evaluate": 1 + len(SIZES)}  # the float network once, each result once


def test_killed_between_runs_it_goes_on_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiny_sweep(tmp_path / "whole")
    with interrupted_at(monkeypatch, 3):
        tiny_sweep(tmp_path / "broken")
    assert len((tmp_path / "broken" / "frontier.csv").read_text().splitlines()) == 1 + 2
    with pytest.raises(SigmaQuantError, match="--resume"):
        tiny_sweep(tmp_path / "broken")
    resumed = tiny_sweep(tmp_path / "broken", resume=True)
    assert [p.started_from for p in resumed.points] == [p.started_from for p in whole.points]
    for point in whole.points:
        one, other = (RunFiles(tmp_path / name / point.run) for name in ("whole", "broken"))
        assert one.checkpoint_path.read_bytes() == other.checkpoint_path.read_bytes()


def test_killed_within_a_run_it_keeps_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiny_sweep(tmp_path / "whole")
    from sigmaquant.runs import RunDirectory

    real = RunDirectory.save_state

    def stop(self: RunDirectory, step: int, tensors: Any, meta: Any) -> None:
        real(self, step, tensors, meta)
        if self.path.name == "size-9x":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "save_state", stop)
        with pytest.raises(KeyboardInterrupt):
            tiny_sweep(tmp_path / "broken")
    resumed = tiny_sweep(tmp_path / "broken", resume=True)
    assert [p.started_from for p in resumed.points] == [p.started_from for p in whole.points]
    one, other = (RunFiles(tmp_path / name / "size-9x") for name in ("whole", "broken"))
    assert one.checkpoint_path.read_bytes() == other.checkpoint_path.read_bytes()
    assert tiny.trajectory(one.path) == tiny.trajectory(other.path)


def test_a_run_that_fails_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Job.run

    def fail(self: Job, budget: Budget, **kwargs: Any) -> Any:
        if kwargs["run_dir"].name == "size-8x":
            raise TrainingError("the loss is NaN.")
        return real(self, budget, **kwargs)

    monkeypatch.setattr(Job, "run", fail)
    found = tiny_sweep(tmp_path / "s")
    assert found.failed == {"size-8x": "the loss is NaN."}
    assert not found.met
    assert [point.started_from for point in found.points] == ["", "size-6x"]


def test_what_cannot_be_reached_is_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UnreachableBudgetError):
        tiny_sweep(tmp_path / "s", ("6x", "40x"))
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["sweep.lock"]
    tiny_sweep(tmp_path / "s", ("6x", "8x"))
    before = {path: path.read_bytes() for path in (tmp_path / "s").iterdir() if path.is_file()}
    with pytest.raises(UnreachableBudgetError):
        tiny_sweep(tmp_path / "s", ("6x", "40x"), overwrite=True)
    assert {path: path.read_bytes() for path in (tmp_path / "s").iterdir() if path.is_file()} == before
    assert tiny_sweep(tmp_path / "s", ("6x", "8x"), resume=True).met


def test_a_worker_is_given_the_users_own_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lowest(problem: SearchProblem, evidence: Evidence) -> dict[str, int]:
        return dict(problem.lowest)

    def other_process(make: Any, statistics: Statistics, *_: Any) -> workers.ThisProcess:
        monkeypatch.delitem(STRATEGIES, "lowest")
        return workers.ThisProcess(workers.Jobs(pickle.loads(pickle.dumps(make)), statistics), NullProgress())

    monkeypatch.setitem(STRATEGIES, "lowest", lowest)
    pickle = pytest.importorskip("ray.cloudpickle", reason="needs Ray: pip install 'sigmaquant[ray]'")
    monkeypatch.setattr("sigmaquant.sweeping.run.RayWorkers", other_process)
    found = tiny_sweep(tmp_path / "s", ("6x", "8x"), strategy="lowest", jobs=2)
    assert found.failed == {}
    assert set(RunFiles(found.path / "size-6x").read_plan().weights.values()) == {2}


def test_another_strategy_begins_from_nothing(tmp_path: Path) -> None:
    found = tiny_sweep(tmp_path / "s", ("6x", "8x"), strategy="ilp")
    assert [point.started_from for point in found.points] == ["", ""]
    assert "start" not in config(tmp_path / "s" / "size-8x")


def test_two_limits_and_two_strategies_make_one_frontier(tmp_path: Path) -> None:
    budgets = [Budget(size=size, bops=bops, size_counts="weights") for size in ("5x", "8x") for bops in ("16x", "20x")]
    options = {"validation_data": tiny.validation_data(), **tiny.QUICK, "post_training": True}
    strategies = ("uniform", "ilp")
    found = sweep(
        tiny.trained(), tiny.train_data(), budgets=budgets, out=tmp_path / "s", strategies=strategies, **options
    )
    assert found.resources == ("size_bytes", "bops")
    assert len(found.points) == 8
    assert repr(found).startswith(f"Sweep({len(found.points)} runs by ")
    assert found._repr_html_().count("<tr>") == 1 + len(found.points)
    assert found.knee is None
    for point in found.points:
        files = RunFiles(found.path / point.run)
        assert files.read_config()["settings"]["strategy"] == point.strategy == point.run.partition("+")[0]
        cost = files.read_result()["cost"]
        assert point.costs == (cost["weight_bytes"], cost["bops"])
        beaten = [
            other.run
            for other in found.points
            if all(a <= b for a, b in zip(other.costs, point.costs, strict=True))
            and other.validation >= point.validation
            and (*other.costs, other.validation) != (*point.costs, point.validation)
        ]
        assert not (point.on_front and beaten)
    with found.frontier_path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["strategy"], row["budget"]) for row in rows} >= {("ilp", "5x, 16x"), ("uniform", "8x, 20x")}
    again = sweep(
        tiny.trained(),
        tiny.train_data(),
        budgets=budgets,
        out=tmp_path / "s",
        strategies=strategies,
        resume=True,
        **options,
    )
    assert again.points == found.points


def test_overwrite(tmp_path: Path) -> None:
    tiny_sweep(tmp_path / "s", ("6x", "8x"))
    found = tiny_sweep(tmp_path / "s", ("6x", "9x"), seed=1, overwrite=True)
    assert [point.budget for point in found.points] == ["6x", "9x"]
    assert config(tmp_path / "s" / "size-6x")["settings"]["seed"] == 1


def test_runs_of_a_replaced_sweep_do_not_count_as_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_sweep(tmp_path / "s", ("6x", "8x"))
    with interrupted_at(monkeypatch, 2):
        tiny_sweep(tmp_path / "s", ("6x", "8x"), seed=1, overwrite=True)
    found = tiny_sweep(tmp_path / "s", ("6x", "8x"), seed=1, resume=True)
    assert [point.budget for point in found.points] == ["6x", "8x"]
    assert [config(tmp_path / "s" / point.run)["settings"]["seed"] for point in found.points] == [1, 1]


CORRECTED = tiny.data(250, 7)
"""Validation data that no configuration tells from `tiny.validation_data()`."""


@pytest.mark.parametrize("number", [1, 2])
def test_no_result_of_a_replaced_sweep_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    tiny_sweep(tmp_path / "s", ("6x", "8x"))
    with interrupted_at(monkeypatch, number):
        tiny_sweep(tmp_path / "s", ("6x", "8x"), validation_data=CORRECTED, overwrite=True)
    found = tiny_sweep(tmp_path / "s", ("6x", "8x"), validation_data=CORRECTED, resume=True)
    fresh = tiny_sweep(tmp_path / "fresh", ("6x", "8x"), validation_data=CORRECTED)
    found_points, fresh_points = ([replace(point, seconds=0) for point in one.points] for one in (found, fresh))
    assert found_points == fresh_points


def test_a_worker_that_dies_before_it_begins_does_not_bring_back_the_replaced_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[workers.Task] = []

    class Dying(workers.ThisProcess):
        def wait(self, seconds: float) -> workers.Outcome | None:
            assert self._task is not None
            tasks.append(self._task)
            if len(tasks) > 1:
                return super().wait(seconds)
            task, self._task = self._task, None
            return workers.Outcome(task, SigmaQuantError("it died"), worker_died=True)

    tiny_sweep(tmp_path / "s", ("6x", "8x"))
    monkeypatch.setattr("sigmaquant.sweeping.run.ThisProcess", Dying)
    tiny_sweep(tmp_path / "s", ("6x", "8x"), overwrite=True)
    assert [(task.run, task.resume, task.overwrite) for task in tasks] == [
        ("size-6x", False, True),
        ("size-6x", False, True),
        ("size-8x", False, True),
    ]


@pytest.mark.parametrize(
    "text", ["", "{}", '{"sensitivity": [1], "float_test": null}', '{"sensitivity": {"a": {"x": 1}}']
)
def test_damaged_statistics_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with interrupted_at(monkeypatch, 1):
        tiny_sweep(tmp_path / "s")
    kept = tmp_path / "s" / "statistics.json"
    kept.write_text(text or re.sub(r"(\d)\.(\d)", r"\1.9\2", kept.read_text(), count=1))
    with pytest.raises(RunDirectoryError, match=r"statistics\.json"):
        tiny_sweep(tmp_path / "s", resume=True)
    kept.unlink()
    assert len(tiny_sweep(tmp_path / "s", resume=True).points) == len(SIZES)


def test_without_ray_several_workers_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"sigmaquant\[ray\]"):
        tiny_sweep(tmp_path / "s", jobs=2)
    assert not (tmp_path / "s").exists()


def test_command_line(tmp_path: Path) -> None:
    arguments = ("sweep", command.MODEL, "--train", command.TRAIN, "--val", command.VALIDATION, "--quiet")
    arguments += ("--post-training", "--size", "6x, 8x", "--size-counts", "weights", "--out", tmp_path / "s")
    outcome = command.main(*arguments, "--json")
    assert outcome.code == 0, outcome
    document = json.loads(outcome.out)
    assert [point["budget"] for point in document["points"]] == ["6x", "8x"]
    outcome = command.main(*arguments, "--resume")
    assert outcome.code == 0, outcome
    assert "size-6x" in outcome.out
    assert "frontier.csv" in outcome.out


@pytest.mark.parametrize(
    "limits", [("--size", "8x"), ("--size", "6x,8x", "--bops", "3x,4x", "--ram", "2x,3x"), ("--size", "6x,")]
)
def test_command_line_needs_one_list(tmp_path: Path, limits: tuple[str, ...]) -> None:
    start = ("sweep", command.MODEL, "--train", command.TRAIN, "--quiet", "--post-training")
    command.refused(command.main(*start, *limits, "--out", tmp_path / "s"))


def test_a_resumed_sweep_writes_the_reports_it_lacks(tmp_path: Path) -> None:
    tiny_sweep(tmp_path / "s", SIZES[:2])
    pages = [tmp_path / "s" / "size-6x" / name for name in ("report.html", "report_steps.csv")]
    for page in (*pages, tmp_path / "s" / "report.html"):
        page.unlink()
    pages[0].with_name(".report.html.999999999-0.tmp").write_text("half")
    tiny_sweep(tmp_path / "s", SIZES[:2], resume=True)
    assert all(page.exists() for page in (*pages, tmp_path / "s" / "report.html"))
    assert not list((tmp_path / "s").rglob("*.tmp"))
