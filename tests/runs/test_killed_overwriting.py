"""An overwriting that is killed at any of its steps can be repeated, and resuming works or says how to go on."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from sigmaquant.errors import RunDirectoryError
from sigmaquant.plan import BitwidthPlan
from sigmaquant.runs import RunDirectory

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
STEPS = 12


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "run"
    with RunDirectory(path, config={"seed": 0}) as run:
        run.append_step({"step": 1})
        run.save_state(1, {"w": torch.zeros(2)}, {})
        run.write_plan(BitwidthPlan({"a": 4}, {}, ""))
        digest = run.write_checkpoint({"w": torch.zeros(2)})
        run.write_layers({})
        run.write_result({"checkpoint_sha256": digest})
        for page in run.report_paths:
            page.write_text("report")
        run.log_path.write_text("log")
    return path


def overwrite_until(path: Path, step: int) -> bool:
    """Whether the process was killed at that step: a file that goes, or one that takes its name."""
    child = os.fork()
    if child == 0:
        seen = 0
        unlink, replace = Path.unlink, Path.replace

        def counted(original):
            def call(self, *given, **named):
                nonlocal seen
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(self, *given, **named)

            return call

        Path.unlink, Path.replace = counted(unlink), counted(replace)
        code = 1
        try:
            RunDirectory(path, config={"seed": 1}, overwrite=True).close()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("step", range(1, STEPS))
def test_killed_at_any_step(finished: Path, step: int, tmp_path: Path) -> None:
    for again in ("overwrite", "resume new", "resume old"):
        path = tmp_path / again
        shutil.copytree(finished, path)
        assert overwrite_until(path, step)
        if again == "overwrite":
            with RunDirectory(path, config={"seed": 1}, overwrite=True) as run:
                assert not run.begun
                assert not run.finished
            continue
        try:
            with RunDirectory(path, config={"seed": int(again == "resume new")}, resume=True) as run:
                # either nothing of the old run counts, or all of it, and its own configuration asked for it
                assert not run.finished or (again == "resume old" and step == 1)
        except RunDirectoryError as error:
            assert "--overwrite" in str(error)  # noqa: PT017
