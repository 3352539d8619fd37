"""What of a run is saved besides tensors, and read back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sigmaquant.errors import CheckpointError
from sigmaquant.search.state import Progression
from sigmaquant.training.student import Judgement

STATE = Progression(
    "final", 7, {"conv": 4, "fc": 2}, 0.9, float("nan"), best=Judgement(0.91, float("inf")), seconds=3.0
)


def read_back(**changes: Any) -> Progression:
    return Progression.from_dict(json.loads(json.dumps({**STATE.to_dict(), **changes})))


def test_a_state_comes_back() -> None:
    assert repr(read_back()) == repr(STATE)  # a NaN equals nothing
    assert read_back(best=None).best is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stage", "foo"),
        ("best", 3),
        ("best", {}),
        ("seconds", "x"),
        ("weights", [1]),
        ("tabu", [3]),
        ("step", None),
        ("float_figures", [0.5, 1.0]),
    ],
)
def test_values_of_other_types_are_refused(key: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=f"the run's state is damaged, at '{key}.*Begin anew with overwrite"):
        read_back(**{key: value})
