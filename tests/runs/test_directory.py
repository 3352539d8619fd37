"""The run directory: one owner, no foreign files harmed, and a state that loads after any crash."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from sigmaquant.errors import CheckpointError, PlanError, RunDirectoryError, StorageError
from sigmaquant.plan import BitwidthPlan
from sigmaquant.runs import RunDirectory, RunFiles

CONFIG = {"budget": {"size": "8x"}, "seed": 0}


def test_files_round_trip(tmp_path: Path) -> None:
    plan = BitwidthPlan({"conv": 4}, {"input": 8}, "abc")
    with RunDirectory(tmp_path / "new" / "run", config=CONFIG) as run:
        assert not run.resumed
        assert not run.finished
        run.append_step({"step": 0, "accuracy": 0.5, "bad": float("nan"), "plan": plan})
        run.append_step({"step": 1, "name": "µ"})
        run.write_plan(plan)
        run.write_checkpoint({"w": torch.ones(2)}, {"kind": "best"})
        run.write_result({"status": "met", "floor": float("inf")})
    files = RunFiles(tmp_path / "new" / "run")
    assert files.finished
    assert files.read_config() == CONFIG
    assert files.read_plan() == plan
    assert files.read_result() == {"status": "met", "floor": None}
    steps = files.read_trajectory()
    assert steps[0]["bad"] is None
    assert steps[0]["plan"]["weights"] == {"conv": 4}
    assert steps[1] == {"step": 1, "name": "µ"}
    tensors, metadata = files.read_checkpoint()
    assert torch.equal(tensors["w"], torch.ones(2))
    assert metadata == {"kind": "best"}
    names = sorted(path.name for path in files.path.iterdir())
    assert names == [
        "checkpoint.safetensors",
        "config.json",
        "plan.json",
        "result.json",
        "run.lock",
        "trajectory.jsonl",
    ]


def test_a_run_is_not_written_over(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "r", config=CONFIG).close()
    with pytest.raises(RunDirectoryError, match=r"already holds a started run\. .*--resume.*other path.*--overwrite"):
        RunDirectory(tmp_path / "r", config=CONFIG)
    with RunDirectory(tmp_path / "r", config=CONFIG, resume=True) as run:
        run.write_result({})
    with pytest.raises(RunDirectoryError, match="already holds a finished run"):
        RunDirectory(tmp_path / "r", config=CONFIG)


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_foreign_files_are_never_touched(tmp_path: Path, options: dict[str, bool]) -> None:
    (tmp_path / "plan.json").write_text("mine")
    with pytest.raises(RunDirectoryError, match=r"is not empty and holds no run \(it has 'plan.json'\)"):
        RunDirectory(tmp_path, config=CONFIG, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    (tmp_path / "config.json").write_text('{"architectures": ["Bert"]}')
    with pytest.raises(
        RunDirectoryError, match=r"is no run directory: its config\.json has no schema 'sigmaquant\.run'"
    ):
        RunDirectory(tmp_path, config=CONFIG, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "plan.json"]
    assert (tmp_path / "plan.json").read_text() == "mine"
    assert (tmp_path / "config.json").read_text() == '{"architectures": ["Bert"]}'


def test_overwrite_discards_the_run_and_nothing_else(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, config=CONFIG) as run:
        run.append_step({"step": 0})
        run.save_state(0, {"w": torch.ones(1)}, {})
        run.write_result({})
        run.write_plan(BitwidthPlan({"a": 2}))
        run.write_layers({"layers": []})
        for path in (run.log_path, *run.report_paths):
            path.write_text("old")
    (tmp_path / "notes.md").write_text("mine")
    with RunDirectory(tmp_path, config={"seed": 1}, overwrite=True) as run:
        assert run.load_state() is None
        assert run.read_trajectory() == []
        assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "notes.md", "run.lock"]
        assert run.read_config() == {"seed": 1}


@pytest.mark.parametrize("killed", [False, True])
def test_a_discarded_run_takes_its_control_with_it(tmp_path: Path, killed: bool) -> None:
    run, control = RunFiles(tmp_path), RunFiles(tmp_path / "control")
    for files in (run, control):
        with RunDirectory(files.path, config=CONFIG) as directory:
            directory.save_state(0, {}, {})
            directory.write_result({})
        assert files.begun
    if killed:  # an overwriting, before it came to the control
        run.result_path.unlink()
        run.state_path.unlink()
    RunDirectory(tmp_path, config=CONFIG, resume=killed, overwrite=not killed).close()
    assert not run.begun
    assert not control.begun


def test_a_refused_run_leaves_a_directory_that_the_next_one_may_have(tmp_path: Path) -> None:
    def refused(**options: bool) -> None:
        with pytest.raises(PlanError), RunDirectory(tmp_path / "run", config=CONFIG, **options):
            raise PlanError("no.")

    refused()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["run.lock"]
    RunDirectory(tmp_path / "run", config=CONFIG).close()
    (tmp_path / "run" / "export").mkdir()  # of the run that is overwritten
    refused(overwrite=True)
    RunDirectory(tmp_path / "run", config=CONFIG, overwrite=True).close()


def test_resume_or_overwrite(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="Give only one of the two"):
        RunDirectory(tmp_path, resume=True, overwrite=True)


def test_resume_of_nothing_is_a_start(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "r", config=CONFIG, resume=True) as run:
        assert not run.resumed
        assert run.load_state() is None


def test_another_configuration_names_the_key(tmp_path: Path) -> None:
    RunDirectory(tmp_path, config={"budget": {"size": "8x"}, "bits": (2, 4), "lr": 0.1}).close()
    RunDirectory(tmp_path, config={"budget": {"size": "8x"}, "bits": (2, 4), "lr": 0.1}, resume=True).close()
    with pytest.raises(RunDirectoryError, match=r"another configuration: 'budget.size' was '8x' and is now '9x'"):
        RunDirectory(tmp_path, config={"budget": {"size": "9x"}, "bits": (2, 4), "lr": 0.1}, resume=True)
    with pytest.raises(RunDirectoryError, match=r"'lr' was 0.1 and is now 'nothing'"):
        RunDirectory(tmp_path, config={"budget": {"size": "8x"}, "bits": [2, 4]}, resume=True)
    with pytest.raises(RunDirectoryError, match=r"'seed' was 'nothing' and is now 1"):
        RunDirectory(tmp_path, config={"budget": {"size": "8x"}, "bits": (2, 4), "lr": 0.1, "seed": 1}, resume=True)


def test_whether_a_run_is_of_a_configuration(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    assert not files.is_of(CONFIG)
    RunDirectory(tmp_path, config={**CONFIG, "widths": (2, 4)}).close()
    assert files.is_of({**CONFIG, "widths": [2, 4]})
    assert not files.is_of(CONFIG)
    assert files.is_of(CONFIG, besides=("widths",))
    assert not files.is_of({**CONFIG, "seed": 1}, besides=("widths",))


def test_newer_version(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"schema": "sigmaquant.run", "version": 9, "config": {}}')
    with pytest.raises(RunDirectoryError, match="has version 9, this program reads 1"):
        RunDirectory(tmp_path, resume=True)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"settings": 3}, "settings"),
        ({"settings": {"batch_size": "x"}}, r"settings\.batch_size"),
        ({"start": 1}, "start"),
    ],
)
def test_a_configuration_of_other_types(tmp_path: Path, config: dict[str, object], key: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"schema": "sigmaquant.run", "version": 1, "config": config}))
    with pytest.raises(
        RunDirectoryError, match=rf"config\.json is damaged, at '{key}': .*run again in another directory"
    ):
        RunFiles(tmp_path).read_config()


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(RunDirectoryError, match="is a file, not a directory"):
        RunDirectory(tmp_path / "f")
    with pytest.raises(StorageError, match="could not write"):
        RunDirectory(tmp_path / "f" / "below")
    with pytest.raises(StorageError, match=r"file name too long\. The run has not begun\. Choose a shorter name\."):
        RunDirectory(tmp_path / ("f" * 300))


def test_a_directory_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(
        StorageError, match=rf"permission denied\. The run has not begun\. Make the folder {tmp_path} w"
    ):
        RunDirectory(tmp_path)


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    with pytest.raises(RunDirectoryError, match=r"has no result\.json"):
        files.read_result()
    with pytest.raises(RunDirectoryError, match=r"has no config\.json: it is no run directory"):
        files.read_config()
    with pytest.raises(CheckpointError):
        files.read_checkpoint()
    files.result_path.write_text("[]")
    with pytest.raises(RunDirectoryError, match="holds no JSON object"):
        files.read_result()
    files.result_path.write_text("{")
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        files.read_result()
    files.result_path.write_text('{"trained_examples": "many"}')
    with pytest.raises(RunDirectoryError, match=r"result\.json is damaged, at 'trained_examples'"):
        files.read_result()


# --- the lock


def test_second_use_in_one_process(tmp_path: Path) -> None:
    with (
        RunDirectory(tmp_path, config=CONFIG),
        pytest.raises(RunDirectoryError, match=rf"already in use by process {os.getpid()} \(this one\)"),
    ):
        RunDirectory(tmp_path, config=CONFIG, resume=True)
    RunDirectory(tmp_path, config=CONFIG, resume=True).close()


HOLD = """
import sys, time
from sigmaquant.runs import RunDirectory
run = RunDirectory(sys.argv[1], config={}, resume=True)
print("ready", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def forked(work: Callable[[Callable[[], None]], None]) -> Iterator[int]:
    """A child process that does `work(ready)`; entered when it has called `ready`, killed at the end."""
    receive, send = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            work(lambda: os.write(send, b"1") and None)
        finally:
            os._exit(1)
    os.close(send)
    try:
        assert os.read(receive, 1) == b"1"
        yield process
    finally:
        os.close(receive)
        os.kill(process, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL


def test_lock_between_processes_ends_with_sigkill(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(RunDirectoryError, match=rf"already in use by process {process.pid}\. Wait until it ends"):
            RunDirectory(tmp_path, config={}, resume=True)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    with RunDirectory(tmp_path, config={}, resume=True) as run:
        assert run.resumed


def test_a_forked_worker_does_not_keep_the_lock(tmp_path: Path) -> None:
    receive, send = os.pipe()

    def work(ready: Callable[[], None]) -> None:
        RunDirectory(tmp_path, config={})
        worker = os.fork()
        if worker == 0:
            time.sleep(5)
            os._exit(0)
        os.write(send, str(worker).encode())
        ready()
        time.sleep(60)

    with forked(work):
        worker = int(os.read(receive, 32))
        with pytest.raises(RunDirectoryError, match="already in use"):
            RunDirectory(tmp_path, config={}, resume=True)
    try:
        RunDirectory(tmp_path, config={}, resume=True).close()
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(receive)
        os.close(send)


# --- the trajectory


def test_torn_last_line_is_dropped(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, config=CONFIG) as run:
        run.append_step({"step": 0})
        run.append_step({"step": 1})
    data = run.trajectory_path.read_bytes()
    first = data.index(b"\n") + 1
    for cut in range(len(data) + 1):
        run.trajectory_path.write_bytes(data[:cut])
        whole = [{"step": index} for index in range(2 if cut == len(data) else cut >= first)]
        assert run.read_trajectory() == whole
    run.trajectory_path.write_bytes(data + b'{"step": 2')
    with RunDirectory(tmp_path, config=CONFIG, resume=True) as run:
        run.append_step({"step": 3})
        assert run.read_trajectory() == [{"step": 0}, {"step": 1}, {"step": 3}]


def test_blocks_lost_at_a_power_failure_read_as_torn(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    files.trajectory_path.write_bytes(b'{"step": 0}\n\0\0\0\0\n')
    assert files.read_trajectory() == [{"step": 0}]


def test_a_damaged_earlier_line_is_named(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    files.trajectory_path.write_bytes(b'{"step": 0}\nnonsense\n{"step": 2}\n')
    with pytest.raises(RunDirectoryError, match=r"trajectory\.jsonl, line 2, is damaged"):
        files.read_trajectory()


def test_full_disk_while_appending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunDirectory(tmp_path, config=CONFIG) as run:
        run.append_step({"step": 0})
        real = os.write

        def some_then_full(descriptor: int, data: bytes) -> int:
            if len(data) < 10:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(descriptor, bytes(data)[:5])

        monkeypatch.setattr(os, "write", some_then_full)
        with pytest.raises(StorageError, match=r"trajectory\.jsonl: the disk is full .* The earlier steps are intact"):
            run.append_step({"step": 1, "more": "text"})
        monkeypatch.undo()
        run.append_step({"step": 2})
        assert run.read_trajectory() == [{"step": 0}, {"step": 2}]


# --- the state


def test_state_round_trips_and_rolls_the_trajectory_back(tmp_path: Path) -> None:
    meta = {"best": -math.inf, "names": ["a"], "nested": {"x": 1.5}, "nothing": None}
    with RunDirectory(tmp_path, config=CONFIG) as run:
        run.append_step({"step": 0})
        run.save_state(0, {"w": torch.zeros(1)}, {})
        run.append_step({"step": 1})
        run.save_state(1, {"w": torch.full((2, 2), math.pi), "rng": torch.get_rng_state()}, meta)
        run.append_step({"step": 2})
        assert [path.name for path in tmp_path.glob("state-*")] == ["state-1.safetensors"]
    with RunDirectory(tmp_path, config=CONFIG, resume=True) as run:
        assert run.resumed
        assert len(run.read_trajectory()) == 3
        state = run.load_state()
        assert state is not None
        step, tensors, read = state
        assert (step, read) == (1, meta)
        assert torch.equal(tensors["w"], torch.full((2, 2), math.pi))
        assert torch.equal(tensors["rng"], torch.get_rng_state())
        assert run.read_trajectory() == [{"step": 0}, {"step": 1}]


def test_state_without_tensors_and_without_steps(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, config=CONFIG) as run:
        run.save_state(0, {}, {"a": 1})
        assert run.load_state() == (0, {}, {"a": 1})


def test_same_step_twice_never_overwrites_the_state_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunDirectory(tmp_path, config=CONFIG) as run:
        for value in range(3):
            run.save_state(7, {"w": torch.tensor(value)}, {})
            assert run.load_state() == (7, {"w": torch.tensor(value)}, {})

        def dies(*_args: object) -> None:
            raise KeyboardInterrupt

        from sigmaquant.runs import state

        monkeypatch.setattr(state, "write_text_atomic", dies)
        with pytest.raises(KeyboardInterrupt):
            run.save_state(7, {"w": torch.tensor(9)}, {})
        assert run.load_state() == (7, {"w": torch.tensor(2)}, {})
        assert len(list(tmp_path.glob("state-*"))) == 1


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_full_disk_keeps_the_previous_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    with RunDirectory(tmp_path, config=CONFIG) as run:
        run.append_step({"step": 0})
        run.save_state(0, {"w": torch.zeros(1)}, {"ok": True})
        real = getattr(os, call)
        for allowed in range(4):  # fail at the n-th call: the tensors, their folder, the JSON, its folder
            count = iter(range(100))

            def full(*args: object, count=count, allowed=allowed):
                if next(count) >= allowed:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(*args)

            monkeypatch.setattr(os, call, full)
            try:
                run.save_state(1, {"w": torch.ones(1)}, {"ok": False})
            except StorageError as error:
                assert "the disk is full" in str(error)  # noqa: PT017 (the last calls are allowed)
            monkeypatch.undo()
            state = run.load_state()
            assert state is not None
            step, tensors, meta = state
            assert (tensors["w"].item(), meta["ok"]) in {(0.0, True), (1.0, False)}
            assert tensors["w"].item() == step
            assert not list(tmp_path.glob(".*.tmp"))


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, config=CONFIG) as run:
        run.append_step({"step": 0})
        run.save_state(3, {"w": torch.zeros(100)}, {})
        path = tmp_path / "state-3.safetensors"
        data = path.read_bytes()
        path.write_bytes(data[:-1] + b"\1")
        with pytest.raises(CheckpointError, match=r"state-3\.safetensors has changed since it was saved"):
            run.load_state()
        path.unlink()
        with pytest.raises(CheckpointError, match="there is no file"):
            run.load_state()
        path.write_bytes(data)
        run.trajectory_path.write_bytes(b"")
        with pytest.raises(RunDirectoryError, match="has 0 steps, but the saved state was made after 1"):
            run.load_state()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "no saved state of version 1"),
        ({"schema": "x"}, "no saved state of version 1"),
        ({"extra": 1}, "is damaged, at 'extra'"),
        ({"file": 3}, "is damaged, at 'file': input should be a valid string"),
        ({"trajectory_lines": -1}, "is damaged, at 'trajectory_lines'"),
        ({"trajectory_lines": "0"}, "is damaged, at 'trajectory_lines'"),
        ({"meta": []}, "is damaged, at 'meta'"),
        ({"file": "../other.safetensors"}, "names a file outside the run directory"),
    ],
)
def test_a_malformed_state_record(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with RunDirectory(tmp_path, config=CONFIG) as run:
        run.save_state(0, {}, {})
        run.state_path.write_text(json.dumps({**json.loads(run.state_path.read_text()), **changes}))
        with pytest.raises(CheckpointError, match=message):
            run.load_state()


def test_a_changed_number_in_a_state_is_refused(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, config=CONFIG) as run:
        run.append_step({"step": 0, "accuracy": 0.75})
        run.save_state(3, {}, {"best": float("inf"), "rate": 0.1})
        whole = run.state_path.read_text()
        for old, new in (('"rate": 0.1', '"rate": 0.2'), ('"step": 3', '"step": 4'), ("Infinity", "1.0")):
            assert whole.count(old) == 1
            run.state_path.write_text(whole.replace(old, new))
            with pytest.raises(CheckpointError, match="has changed since it was written"):
                run.load_state()
        run.state_path.write_text(whole)
        steps = run.trajectory_path.read_text()
        run.append_step({"step": 1})
        run.trajectory_path.write_text(run.trajectory_path.read_text().replace("0.75", "0.85"))
        with pytest.raises(RunDirectoryError, match="SHA-256 of its first 1 steps differs"):
            run.load_state()
        run.trajectory_path.write_text(steps + '{"step": 1}\n')
        found = run.load_state()
        assert found is not None
        assert found[2] == {"best": float("inf"), "rate": 0.1}


def test_states_and_results_of_earlier_releases_are_read(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, config=CONFIG) as run:
        run.save_state(0, {}, {"rate": 0.1})
        document = json.loads(run.state_path.read_text())
        del document["document_sha256"], document["trajectory_sha256"]
        run.state_path.write_text(json.dumps(document))
        found = run.load_state()
        assert found is not None
        assert found[2] == {"rate": 0.1}
        run.write_result({"status": "met"})
        run.result_path.write_text('{"status": "met"}')
        assert run.read_result() == {"status": "met"}


def test_a_changed_number_in_a_result_is_refused(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, config=CONFIG) as run:
        run.write_result({"status": "met", "scores": {"test": 0.5}})
        run.result_path.write_text(run.result_path.read_text().replace("0.5", "0.9"))
        with pytest.raises(RunDirectoryError, match=r"result\.json has changed since it was written"):
            run.read_result()


def test_sigkill_at_any_instant_leaves_a_loadable_state(tmp_path: Path) -> None:
    # The tensors are too small for several threads: OpenMP does not survive a fork.
    def work(ready: Callable[[], None]) -> None:
        run = RunDirectory(tmp_path, config={"seed": 0}, resume=True)
        state = run.load_state()
        step = 0 if state is None else state[0] + 1
        ready()
        while True:
            run.append_step({"step": step})
            run.save_state(step, {"w": torch.full((100, 100), float(step))}, {"step": step})
            step += 1

    rng = random.Random(0)
    reached = -1
    for _ in range(25):
        with forked(work):
            time.sleep(rng.uniform(0.0, 0.15))
        with RunDirectory(tmp_path, config={"seed": 0}, resume=True) as run:
            state = run.load_state()
            if state is None:
                assert reached == -1
                continue
            step, tensors, meta = state
            assert step >= reached
            assert meta == {"step": step}
            assert torch.equal(tensors["w"], torch.full((100, 100), float(step)))
            assert run.read_trajectory() == [{"step": index} for index in range(step + 1)]
            current = json.loads(run.state_path.read_text())["file"]
            kept = {"config.json", "run.lock", "trajectory.jsonl", "state.json", current}
            assert {path.name for path in tmp_path.iterdir()} == kept
            reached = step
    assert reached > 0


def die_at_call(number: int) -> None:
    """From now on the process kills itself at its `number`-th call to the system that concerns a file."""
    count = iter(range(1000))

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            if next(count) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in ("open", "write", "fsync", "close", "replace", "unlink"):
        setattr(os, name, counted(getattr(os, name)))


def test_sigkill_before_every_single_system_call(tmp_path: Path) -> None:
    """A child dies at the n-th call to the system while it takes a step, for every n."""
    outcomes = set()
    for calls in range(60):
        folder = tmp_path / str(calls)
        with RunDirectory(folder, config={}) as run:
            run.append_step({"step": 0})
            run.save_state(0, {"w": torch.zeros(3)}, {"step": 0})
        process = os.fork()
        if process == 0:
            try:
                run = RunDirectory(folder, config={}, resume=True)
                run.load_state()
                die_at_call(calls)
                run.append_step({"step": 1})
                run.save_state(1, {"w": torch.ones(3)}, {"step": 1})
            finally:
                os._exit(0)
        status = os.waitpid(process, 0)[1]
        with RunDirectory(folder, config={}, resume=True) as run:
            state = run.load_state()
            assert state is not None
            step, tensors, meta = state
            assert meta == {"step": step}
            assert torch.equal(tensors["w"], torch.full((3,), float(step)))
            assert run.read_trajectory() == [{"step": index} for index in range(step + 1)]
            assert not list(folder.glob(".*.tmp"))
        if os.WIFEXITED(status):
            assert step == 1
            break
        outcomes.add(step)
    else:
        pytest.fail("the step never ended")
    assert calls > 12
    assert outcomes == {0, 1}
