"""What a network's outputs mean."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import sigmaquant
from sigmaquant.errors import DataError
from sigmaquant.outputs import are_logits, output_kind, outputs_note, scored_tensor

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


class Pair(nn.Module):
    def __init__(self, as_mapping):
        super().__init__()
        self.features, self.head, self.as_mapping = nn.Linear(6, 32), nn.Linear(32, 3), as_mapping

    def forward(self, x):
        features = self.features(x).relu()
        logits = self.head(features)
        return {"features": features, "logits": logits} if self.as_mapping else (features, logits)


@pytest.mark.parametrize(("as_mapping", "which"), [(False, "the first"), (True, "'logits'")])
def test_that_only_one_output_counts_is_said(as_mapping, which):
    inputs, targets = torch.randn(40, 6), torch.randint(3, (40,))
    result = sigmaquant.quantize(Pair(as_mapping), (inputs, targets), budget="2x", post_training=True)
    assert any(note.startswith(f"of the network's 2 outputs only {which} is scored") for note in result.notes)


def test_of_one_output_nothing_is_said():
    assert all(outputs_note(one) is None for one in (torch.zeros(2), (torch.zeros(2),), {"logits": torch.zeros(2)}))


@pytest.mark.parametrize("returned", [torch.tensor(0.5), (torch.tensor(0.5), X), {"logits": torch.tensor(0.5)}])
def test_a_single_number_for_a_batch_cannot_be_scored(returned):
    with pytest.raises(DataError, match="a single number for a whole batch"):
        scored_tensor(returned)


def test_the_output_that_counts_is_named_in_the_users_container():
    named = namedtuple("named", "features logits")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return named(torch.relu(x), self.layer(x))

    graph = sigmaquant.trace(Net(), X).module.graph
    assert "'logits'" in outputs_note(graph.process_outputs(graph.output_node().args[0]))
