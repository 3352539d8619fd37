"""A run in a process of its own that is killed at a chosen moment. Preloaded by the fork server of `test_resume`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import sigmaquant
import tiny
from sigmaquant import Budget
from sigmaquant.runs import RunDirectory

sigmaquant.trace(tiny.trained(), tiny.train_data()[0][:2])  # what the first run of a process loads, loaded once

CASES: dict[str, dict[str, Any]] = {
    # three cycles of phase 1, rejected moves, two segments of final training; then the same of the control
    "accuracy": {"budget": Budget(accuracy="97 %"), "control": True, "max_cycles": 3},
    # rejected and accepted moves
    "three limits": {"budget": Budget(size="9x", bops="40x", accuracy="-1 %"), "test_data": tiny.test_data()},
    # a step for each upgrade
    "greedy": {"budget": Budget(size="9x"), "strategy": "greedy", "post_training": True, "rounding": "nearest"},
    # a step for each block that is reconstructed
    "reconstruction": {
        "budget": Budget(size="9x"),
        "strategy": "uniform",
        "bitwidths": (2, 3, 4),
        "post_training": True,
        "reconstruction_steps": 10,
    },
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def counted(original: Callable[..., Any], number: int, after: bool) -> Callable[..., Any]:
    """`original`, killed before or after its call with this number (from 1)."""
    calls = 0

    def call(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and not after:
            die()
        result = original(*given, **named)
        if calls == number:
            die()
        return result

    return call


def arm(moment: str, number: int) -> None:
    """Let this process be killed at a moment; ``"never"`` for not at all."""
    if moment == "before sync":  # a file is written, but neither sure to be on the disk nor under its name
        os.fsync = counted(os.fsync, number, after=False)
    elif moment == "after line":  # the trajectory is ahead of the state
        RunDirectory.append_step = counted(RunDirectory.append_step, number, after=True)
    elif moment == "after state":
        RunDirectory.save_state = counted(RunDirectory.save_state, number, after=True)
    elif moment in ("write_plan", "write_checkpoint", "write_layers", "write_result"):
        setattr(RunDirectory, moment, counted(getattr(RunDirectory, moment), number, after=True))


def work(path: Path, case: str, moment: str, number: int, pipe: Connection) -> None:
    """Start or resume a run; sends ``"begins"``, then the result's status and how many examples were trained on."""
    torch.set_num_threads(1)  # here: a thread pool made before the fork is none after it, and PyTorch 2.15 aborts
    arm(moment, number)
    options = dict(CASES[case])
    pipe.send("begins")
    try:
        result = tiny.run(options.pop("budget"), run_dir=path, resume=True, **options)
    except BaseException as error:
        pipe.send(repr(error))
        raise
    pipe.send((result.status, dict(result.plan.weights), result.scores.validation, result.scores.test))
