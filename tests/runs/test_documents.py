"""Plain JSON: what is written is what is read."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmaquant.plan import BitwidthPlan
from sigmaquant.runs.documents import dumps, first_difference, plain

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


@settings(max_examples=40, deadline=None)
@given(VALUES)
def test_json_round_trip(value: object) -> None:
    assert json.loads(dumps(value)) == plain(value)
    assert json.loads(dumps(value, finite=False)) == plain(value, finite=False) == value


@settings(max_examples=40, deadline=None)
@given(VALUES, VALUES)
def test_difference_of_equal_values_is_none(a: object, b: object) -> None:
    assert first_difference(a, a) is None
    if a != b:
        assert first_difference(a, b) is not None


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: tuple[int, ...]


def test_conversions() -> None:
    value = {
        1: Colour.RED,
        "point": Point(1, (2, 3)),
        "path": PurePosixPath("a/b"),
        "set": {3, 1, 2},
        "numpy": np.float32(0.5),
        "array": np.arange(3),
        "tensor": torch.tensor([[1.0, math.nan]]),
        "scalar": torch.tensor(4),
        "plan": BitwidthPlan({"a": 2}),
    }
    assert plain(value) == {
        "1": "red",
        "point": {"x": 1, "y": [2, 3]},
        "path": "a/b",
        "set": [1, 2, 3],
        "numpy": 0.5,
        "array": [0, 1, 2],
        "tensor": [[1.0, None]],
        "scalar": 4,
        "plan": {"weights": {"a": 2}, "activations": {}, "model": "", "midrise_up_to": 0, "removed": {}},
    }


def test_infinities() -> None:
    assert json.loads(dumps([math.inf, math.nan])) == [None, None]
    assert json.loads(dumps([math.inf, -math.inf], finite=False)) == [math.inf, -math.inf]


def test_what_json_cannot_say() -> None:
    with pytest.raises(TypeError, match="a object cannot be written as JSON"):
        plain(object())
