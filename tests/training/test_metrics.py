"""Metrics and what they are given."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn
from training_cases import CPU

from sigmaquant.errors import DataError, MetricError
from sigmaquant.tasks import as_task, score, top1
from sigmaquant.training.metrics import call, evaluate, outputs_of

X, Y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
TASK = as_task()


def test_top1():
    outputs = torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]])
    assert top1(outputs, Y) == 0.75
    for outputs, targets in ((torch.rand(4), Y), (torch.rand(4, 3), torch.rand(4, 3)), (torch.rand(3, 3), Y)):
        with pytest.raises(MetricError, match=r"outputs \[N, C\]"):
            top1(outputs, targets)


@pytest.mark.parametrize(("targets", "told"), [([1, 2, 3, 1], "target 3"), ([0, -100, 2, 0], "target -100")])
def test_top1_knows_no_other_classes(targets, told):
    with pytest.raises(MetricError, match=rf"{told}, but the network has 3 outputs, classes 0 to 2\. Number the cl"):
        top1(X, torch.tensor(targets))


@pytest.mark.parametrize("value", [0.5, torch.tensor(0.5), np.float32(0.5), torch.tensor([0.5])])
def test_anything_that_is_one_number_is_a_score(value):
    assert score(lambda outputs, targets: value, X, Y) == 0.5


@pytest.mark.parametrize(
    "value", [None, "high", (0.5, 0.6), {"top1": 0.5}, torch.tensor([0.5, 0.6]), np.array([1, 2]), 1 + 2j, 10**400]
)
def test_anything_else_is_told(value):
    with pytest.raises(MetricError, match="must return one number"):
        score(lambda outputs, targets: value, X, Y)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), torch.tensor(float("nan"))])
def test_scores_must_be_finite(value):
    with pytest.raises(MetricError, match="must be finite"):
        score(lambda outputs, targets: value, X, Y)


def test_a_metric_that_raises_is_named_with_its_shapes():
    def broken(outputs, targets):
        return outputs[:, 17]

    with pytest.raises(MetricError, match=r"'broken' failed on outputs \(4, 3\) and targets \(4,\): IndexError"):
        score(broken, X, Y)
    with pytest.raises(MetricError, match=r"outputs \[N, C\]"):
        score(top1, X[0], Y)
    with pytest.raises(MetricError, match="SystemExit: 0"):
        score(lambda outputs, targets: sys.exit(0), X, Y)


def test_batches_that_do_not_fit_together_are_told():
    network = nn.Identity()
    with pytest.raises(DataError, match=r"outputs of an example have the shape \(3,\) in one batch and \(2,\)"):
        outputs_of(network, [(X, Y), (X[:, :2], Y)], TASK, CPU)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, a, b):
        return {"logits": self.norm(a) + b}


def test_outputs_are_collected_in_evaluation_mode_on_the_cpu_in_float32():
    network = Two().train()
    batches = [((X, X.bfloat16()), Y), ([X[:2], X[:2]], np.array([1, 2]))]
    outputs, targets = outputs_of(network, batches, TASK, CPU)
    assert outputs.shape == (6, 3)
    assert outputs.dtype == torch.float32
    assert targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert network.training
    assert int(network.norm.num_batches_tracked) == 0
    assert not outputs.requires_grad
    assert call(network, [X, X], TASK).requires_grad


def test_empty_data_are_told():
    with pytest.raises(DataError, match="empty"):
        evaluate(nn.Linear(3, 3), [], TASK, CPU)


def test_evaluate():
    model = nn.Linear(3, 3)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3))
        model.bias.zero_()
    x = torch.eye(3)
    assert evaluate(model, [(x, torch.tensor([0, 1, 2])), (x[:1], torch.tensor([1]))], TASK, CPU) == 0.75


def test_a_network_that_draws_numbers_is_a_function_of_its_inputs():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, _ = outputs_of(Noisy(), [(X, Y), (X, Y)], TASK, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(outputs_of(Noisy(), [(X, Y), (X, Y)], TASK, CPU)[0], first)
    assert not torch.equal(first[:4], first[4:])


def test_top1_takes_no_values_for_classes():
    with pytest.raises(MetricError, match="integer classes as targets, and found other numbers"):
        top1(X, torch.tensor([0.2, 0.5, 1.7, 0.3]))
    assert top1(torch.eye(4)[:, :3], torch.tensor([0.0, 1.0, 2.0, 1.0])) == 0.75
