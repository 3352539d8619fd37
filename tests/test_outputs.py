"""What a network's outputs mean."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch

from sigmaquant.errors import DataError
from sigmaquant.outputs import are_logits, output_kind, scored_tensor

X, Y = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])


def test_shapes_tell_logits_unless_told_otherwise():
    assert are_logits(torch.zeros(4, 3))
    assert not are_logits(torch.zeros(4, 1))  # one class: a softmax would hide every difference
    assert not are_logits(torch.zeros(4))
    assert not are_logits(torch.zeros(4, 3, 2))
    assert not are_logits(torch.zeros(4, 3), "values")
    assert are_logits(torch.zeros(4, 1), "logits")


def test_what_cannot_be_is_refused():
    with pytest.raises(DataError, match="'classes'"):
        are_logits(torch.zeros(4, 3), "classes")
    with pytest.raises(DataError, match="no class logits"):
        are_logits(torch.zeros(4, 3, 2), "logits")


def test_targets_tell_values_from_classes():
    outputs = torch.zeros(4, 3)
    assert output_kind(outputs, torch.tensor([0, 2, 1, 1])) == "logits"
    assert output_kind(outputs, torch.zeros(4, 3)) == "values"
    assert output_kind(outputs, torch.zeros(4, 3, dtype=torch.long)) == "values"  # several labels at once
    assert output_kind(torch.zeros(4, 1), torch.tensor([0, 1, 1, 0])) == "values"


def test_the_scored_tensor_of_any_usual_output():
    pair = namedtuple("pair", "first second")
    outputs = (X, (X, Y), [X], {"logits": X, "loss": Y}, SimpleNamespace(logits=X), pair(X, Y))
    assert all(scored_tensor(output) is X for output in outputs)
    for output in (None, {}, (), {"scores": X}, ("a",), 3.0):
        with pytest.raises(DataError, match="Wrap the model"):
            scored_tensor(output)
