"""Worker processes through Ray: they share the work, and one that dies costs its own step only."""

from __future__ import annotations

import importlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import tiny
from sigmaquant import Budget, Sweep, sweep
from sigmaquant.runs import RunFiles

pytest.importorskip("ray", reason="needs Ray: pip install 'sigmaquant[ray]'")

SIZES = ("6x", "9x")


def two_workers(out: Path, model: Any = None, **options: Any) -> Sweep:
    budgets = [Budget(size=size, size_counts="weights") for size in SIZES]
    options = {**tiny.QUICK, "validation_data": tiny.validation_data(), **options}
    return sweep(model or tiny.trained(), tiny.train_data(), budgets=budgets, out=out, jobs=2, **options)


class Killer(threading.Thread):
    """Kills the worker of one run once that run has a step on disk."""

    def __init__(self, run: Path) -> None:
        super().__init__(daemon=True)
        self.files, self.killed = RunFiles(run), 0

    def run(self) -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end and not self.files.finished:
            if self.files.state_path.exists():  # the first step is complete
                self.killed = int(self.files.lock_path.read_text())
                assert self.killed != os.getpid()
                os.kill(self.killed, signal.SIGKILL)
                return
            time.sleep(0.01)


def test_a_worker_that_dies_costs_its_own_step_only(tmp_path: Path) -> None:
    killer = Killer(tmp_path / "s" / "size-6x")
    killer.start()
    found = two_workers(tmp_path / "s", final_epochs=4.0)
    killer.join(1)
    assert killer.killed, "the worker was never killed, so nothing was tested"
    assert found.failed == {}
    assert [point.started_from for point in found.points] == ["", ""]
    for point in found.points:
        files = RunFiles(found.path / point.run)
        steps = files.read_trajectory()
        assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
        alone = tiny.run(Budget(size=point.budget, size_counts="weights"), final_epochs=4.0)
        assert files.read_result()["weights"] == dict(alone.plan.weights)
    log = (found.path / "size-6x" / "log.txt").read_text()
    assert "resumed after step" in log


def test_an_error_in_a_worker_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from torch import nn\n\n\nclass Around(nn.Sequential):\n    pass\n"
    (tmp_path / "found_late.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)  # as a program does that has its networks in another folder
    model = importlib.import_module("found_late").Around(tiny.trained())
    found = two_workers(tmp_path / "s", model, lr=1e30, cycle_examples=0)
    assert set(found.failed) == {"size-6x", "size-9x"}
    assert all("diverged" in why or "NaN" in why or "finite" in why for why in found.failed.values()), found.failed
    assert found.points == ()
    assert found.report_path is None
