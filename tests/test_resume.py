"""A run that is killed at any moment and resumed ends exactly like one that was never interrupted."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sigmaquant
import tiny
from resume_cases import CASES, work
from sigmaquant.runs import RunDirectory
from sigmaquant.training import student

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


@dataclass(frozen=True)
class Ending:
    """What a process came to: its last message, and whether it was killed."""

    message: Any
    killed: bool


@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    """Starts runs in processes forked from one that has loaded everything and trained nothing."""
    folders = [str(Path(sigmaquant.__file__).parents[1]), str(tiny.HERE.parent)]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*folders, *([before] if before else [])])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["resume_cases"])

    def start(path: Path, case: str, moment: str = "never", number: int = 0, kill_after: float | None = None) -> Ending:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(path, case, moment, number, sender))
        process.start()
        sender.close()
        message = None
        try:
            assert receiver.recv() == "begins"
            if kill_after is not None and not receiver.poll(kill_after):
                process.kill()
            message = receiver.recv()
        except EOFError:
            pass
        process.join(60)
        return Ending(message, process.exitcode == -signal.SIGKILL)

    yield start
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def unbroken(processes: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run directory of each case, without any interruption."""
    paths = {case: tmp_path_factory.mktemp("unbroken") / "run" for case in CASES}
    for case, path in paths.items():
        assert isinstance(processes(path, case).message, tuple)
    return paths


def check_same(path: Path, whole: Path) -> None:
    for name in ("plan.json", "checkpoint.safetensors", "config.json", "layers.json"):
        assert (path / name).read_bytes() == (whole / name).read_bytes(), name
    results = [json.loads((folder / "result.json").read_text()) for folder in (path, whole)]
    for result in results:
        assert result.pop("seconds") > 0
        assert result.pop("document_sha256")  # of the seconds, too
    assert results[0] == results[1]
    assert tiny.trajectory(path) == tiny.trajectory(whole)
    assert not list(path.glob("*.tmp"))
    if (whole / "control").exists():
        assert tiny.trajectory(path / "control") == tiny.trajectory(whole / "control")


def test_the_cases_go_through_every_stage(unbroken: dict[str, Path]) -> None:
    steps = [tiny.trajectory(path) for path in unbroken.values()]
    kinds = {
        (step["stage"], step["move"] in ("cluster", "batch norm"), step["accepted"]) for run in steps for step in run
    }
    assert len([step for step in steps[0] if step["stage"] == "phase1"]) == 3
    assert {("phase2", False, True), ("phase2", False, False), ("final", False, True)} <= kinds
    assert (unbroken["accuracy"] / "control" / "state.json").exists()


@pytest.mark.parametrize(
    ("case", "moment", "kills"),
    [
        ("accuracy", "after state", 6),
        ("three limits", "after line", 4),
        ("greedy", "after state", 3),
        ("reconstruction", "after state", 1),
    ],
)
def test_killed_again_and_again(
    processes: Any, unbroken: dict[str, Path], tmp_path: Path, case: str, moment: str, kills: int
) -> None:
    """Each process gets two states further, or one state and the next one's line, before it is killed."""
    path, killed = tmp_path / "run", 0
    while (ending := processes(path, case, moment, 2)).killed:
        killed += 1
        assert killed < 30
    assert isinstance(ending.message, tuple), ending.message
    assert killed >= kills
    check_same(path, unbroken[case])


@pytest.mark.parametrize("number", [1, 17, 30])
def test_killed_while_a_file_is_written(processes: Any, unbroken: dict[str, Path], tmp_path: Path, number: int) -> None:
    path = tmp_path / "run"
    assert processes(path, "three limits", "before sync", number).killed
    assert isinstance(processes(path, "three limits").message, tuple)
    check_same(path, unbroken["three limits"])


def test_killed_while_the_result_is_written(processes: Any, unbroken: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "run"
    for moment in ("write_plan", "write_checkpoint", "write_layers"):
        assert processes(path, "three limits", moment, 1).killed
        assert not (path / "result.json").exists()
    assert processes(path, "three limits", "write_result", 1).killed
    check_same(path, unbroken["three limits"])
    assert not (path / "report.html").exists()
    assert isinstance(processes(path, "three limits").message, tuple)
    check_same(path, unbroken["three limits"])
    assert (path / "report.html").exists()


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_times(processes: Any, unbroken: dict[str, Path], tmp_path: Path, seed: int) -> None:
    path, delays, scale, killed = tmp_path / "run", random.Random(seed), 1.0, 0
    while True:
        ending = processes(path, "accuracy", kill_after=scale * delays.uniform(0.1, 0.5))
        if ending.killed:
            killed += 1
            scale *= 1.3  # however slow the machine, it ends
        elif killed:
            break
        else:
            assert isinstance(ending.message, tuple), ending.message
            shutil.rmtree(path)
            scale /= 4  # however fast, it is killed
    assert isinstance(ending.message, tuple), ending.message
    check_same(path, unbroken["accuracy"])


def test_a_finished_run_gives_its_result_again_without_training(
    unbroken: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for case, path in unbroken.items():
        before = {file: file.read_bytes() for file in path.glob("*.*") if file.name not in ("run.lock", "log.txt")}
        with monkeypatch.context() as patched:
            patched.setattr(student, "train_", lambda *_, **__: pytest.fail("trained"))
            options = dict(CASES[case])
            began = time.perf_counter()
            result = tiny.run(options.pop("budget"), run_dir=path, resume=True, **options)
            assert time.perf_counter() - began < 30
        assert {file: file.read_bytes() for file in before} == before
        assert result.to_dict()["scores"] == json.loads((path / "result.json").read_text())["scores"]
        assert result.seconds > 0


def test_a_resumed_run_must_be_the_same_run(unbroken: dict[str, Path]) -> None:
    options = {**CASES["three limits"], "run_dir": unbroken["three limits"], "resume": True}
    budget = options.pop("budget")
    for changed, key in (
        ({"seed": 1}, "settings.seed"),
        ({"metric": lambda outputs, targets: 0.5}, "metric"),
        ({"loss": lambda outputs, targets: outputs.sum()}, "loss"),
        ({"model": tiny.fit_(tiny.untrained())}, "float_sha256"),
        ({"validation_data": tiny.data(240, 5)}, "validation_examples"),
    ):
        with pytest.raises(sigmaquant.SigmaQuantError, match=f"another configuration: '{key}' was"):
            tiny.run(budget, **{**options, **changed})
    with pytest.raises(sigmaquant.SigmaQuantError, match=r"another configuration: 'budget\.size' was '9x'"):
        tiny.run("8x", **options)


def test_a_resumed_run_must_have_the_same_validation_data_and_metric(tmp_path: Path) -> None:
    """As many other examples, and another function of the same name."""
    options: dict[str, Any] = {"post_training": True, "run_dir": tmp_path, "metric": lambda o, t: float(o.mean())}
    tiny.run("8x", **options)
    before = (tmp_path / "result.json").read_bytes()
    images, labels = tiny.validation_data()
    other = {"validation_data": (images.flip(0) * 0.9, labels)}
    for changed, words in (
        (other, "other validation data, or another metric of the same n"),
        ({"metric": lambda o, t: float(o.mean()) + 0.1}, r"another configuration: 'task\.options\.metric'"),
    ):
        with pytest.raises(sigmaquant.SigmaQuantError, match=words):
            tiny.run("8x", **{**options, **changed}, resume=True)
        assert (tmp_path / "result.json").read_bytes() == before
    options["metric"] = lambda o, t: float(o.mean())  # the same function, in another place
    turned = (images.flip(0), labels.flip(0))  # the same examples in another order
    tiny.run("8x", **{**options, "validation_data": turned}, resume=True)


class Drawing(nn.Module):
    """A network that draws random numbers in evaluation, too: ``F.dropout`` does so unless it is told not to."""

    def __init__(self) -> None:
        super().__init__()
        self.body = tiny.trained()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(F.dropout(x, 0.1))


def test_a_network_that_draws_random_numbers_gives_the_same_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"model": Drawing(), "max_cycles": 2}
    whole = tiny.run("8x", run_dir=tmp_path / "whole", **options)

    class StopError(Exception):
        pass

    def save(self: RunDirectory, *args: Any, original: Any = RunDirectory.save_state) -> None:
        original(self, *args)
        raise StopError

    monkeypatch.setattr(RunDirectory, "save_state", save)
    for stops in range(3):
        torch.manual_seed(stops)  # the caller's random numbers are none of the run's
        with pytest.raises(StopError):
            tiny.run("8x", run_dir=tmp_path / "broken", resume=stops > 0, **options)
    monkeypatch.undo()
    torch.manual_seed(9)
    resumed = tiny.run("8x", run_dir=tmp_path / "broken", resume=True, **options)
    assert dict(resumed.plan.weights) == dict(whole.plan.weights)
    assert tiny.same_tensors(resumed.network.state(), whole.network.state())
