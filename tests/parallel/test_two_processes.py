"""Two processes through gloo: the plan and the weights of one, killed and resumed alike, and clear ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from parallel import steps, two
from sigmaquant.errors import DistributedError
from sigmaquant.parallel import function_processes
from sigmaquant.runs import RunFiles

SIZES = (16, 17, 10, 1, 33, 16)
"""Of batches: cut evenly, unevenly, and not at all."""


def test_steps_are_those_of_one_process() -> None:
    alone = steps.trained(SIZES)
    with function_processes(2, "cpu", steps.in_another, {"sizes": SIZES}):
        both = steps.trained(SIZES)
    moved = max(float((alone[-1][key] - alone[0][key]).abs().max()) for key in alone[0] if "weight" in key)
    assert moved > 1e-4, "nothing was trained, so nothing was compared"
    for one, other in zip(alone, both, strict=True):
        for key, value in one.items():
            assert float((value - other[key]).abs().max()) <= 2e-6 * max(float(value.abs().max()), 1e-3), key


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("both")
    return two.run(train_data=two.Dying("nowhere", "never"), devices=2, run_dir=folder / "r")


def test_the_plan_is_that_of_one_process(both: Any, tmp_path: Path) -> None:
    """Before training all is equal; training's rounding makes last digits grow, in one process as in two."""
    one = two.run(train_data=two.Dying("nowhere", "never"), run_dir=tmp_path / "one")
    assert both.plan == one.plan
    found = [RunFiles(folder).read_trajectory() for folder in (tmp_path / "one", both.run_dir)]
    searched = [[step for step in steps if step["stage"] == "phase1"] for steps in found]
    for mine, theirs in zip(*searched, strict=True):
        assert mine["weights"] == theirs["weights"]
        assert mine["divergence"] == pytest.approx(theirs["divergence"], rel=1e-3)
    assert [step["step"] for step in found[1]] == list(range(1, len(found[1]) + 1))  # one process wrote them
    assert "2 processes compute together" in RunFiles(both.run_dir).log_path.read_text()
    assert not torch.distributed.is_initialized()


def test_a_killed_process_ends_all_and_the_run_goes_on_alike(both: Any, tmp_path: Path) -> None:
    out = tmp_path / "r"
    with pytest.raises(DistributedError, match=r"process 1 of 2 ended.*signal 9"):
        two.run(train_data=two.Dying(str(out), "killed"), devices=2, run_dir=out)
    assert not RunFiles(out).finished
    resumed = two.run(train_data=two.Dying("nowhere", "never"), devices=2, run_dir=out, resume=True)
    assert resumed.plan == both.plan
    for key, value in two.weights(both).items():
        assert torch.equal(value, two.weights(resumed)[key]), key


def test_a_run_of_two_goes_on_in_one_and_errors_are_told(tmp_path: Path) -> None:
    out = tmp_path / "r"
    with pytest.raises(DistributedError, match=r"process 1 of 2 ended.*the disk is on fire"):
        two.run(train_data=two.Dying(str(out), "failed"), devices=2, run_dir=out)
    assert two.run(train_data=two.Dying("nowhere", "never"), run_dir=out, resume=True).met


def test_different_batches_are_told() -> None:
    with pytest.raises(DistributedError, match="different training batches"):
        two.run(train_data=two.Unseeded(), devices=2)


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, message in (
        ({"devices": 0}, "at least one"),
        ({"devices": 4096}, "processors"),
        ({"devices": 2, "device": "cuda:0"}, "a single one"),
        ({"devices": 2, "device": "mps"}, "'cpu' or 'cuda'"),
        ({"devices": 2, "model": _with_lambda()}, "cannot be sent"),
    ):
        with pytest.raises(DistributedError, match=message):
            two.run(**options)
    if not torch.cuda.is_available():
        with pytest.raises(DistributedError, match="GPUs, and there are 0"):
            two.run(devices=2, device="cuda")
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DistributedError, match="4 processes were started"):
        two.run(devices=2)


def _with_lambda() -> torch.nn.Module:
    model = tiny.trained()
    model.forget = lambda: None  # type: ignore[assignment]
    return model
