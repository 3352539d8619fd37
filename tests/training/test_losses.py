"""What training minimises."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmaquant.errors import DataError, TrainingError
from sigmaquant.tasks import as_task, cross_entropy, mean_distance
from sigmaquant.training.losses import Distillation, check_finite


def distance(student, teacher, temperature):
    return mean_distance(as_task(), student, teacher, temperature)


def logits(seed, shape=(5, 4)):
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 999), st.floats(0.5, 8))
@settings(max_examples=30, deadline=None)
def test_distillation_is_the_softened_divergence(seed, temperature):
    student, teacher = logits(seed), logits(seed + 1)
    p = (teacher.double() / temperature).softmax(1)
    q = (student.double() / temperature).softmax(1)
    expected = float((p * (p / q).log()).sum(1).mean()) * temperature**2
    assert float(distance(student, teacher, temperature)) == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert float(distance(teacher, teacher, temperature)) == 0
    assert float(distance(student + 2.5, teacher, temperature)) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_other_outputs_use_the_error_relative_to_the_teachers_variance():
    for shape in ((6, 1), (6,), (3, 4, 5), (2, 3, 4, 4)):
        teacher, noise = 7 + logits(0, shape), logits(1, shape)
        expected = float(noise.square().mean() / teacher.var(correction=0))
        assert float(distance(teacher + noise, teacher, 2.0)) == pytest.approx(expected, rel=1e-4)
        assert float(distance(10 * (teacher + noise), 10 * teacher, 2.0)) == pytest.approx(expected, rel=1e-4)
        assert float(distance(teacher, teacher, 2.0)) == 0


def test_alpha_weighs_teacher_and_task():
    student, teacher, targets = logits(0), logits(1), torch.tensor([0, 1, 2, 3, 0])
    far, task = distance(student, teacher, 2.0), F.cross_entropy(student, targets)
    assert torch.equal(Distillation(1.0)(student, teacher, targets), far)
    assert torch.allclose(Distillation(0.3)(student, teacher, targets), 0.3 * far + 0.7 * task)
    assert torch.equal(Distillation(0.0)(student, teacher, targets), task)
    assert torch.equal(Distillation(0.3)(student, None, targets), task)  # nothing to distil from: the task in full


def test_half_precision_outputs_are_compared_in_float32():
    student, teacher = logits(0).bfloat16().requires_grad_(), logits(1).bfloat16()
    loss = Distillation(0.5)(student, teacher, torch.zeros(5, dtype=torch.long))
    assert loss.dtype == torch.float32
    loss.backward()
    assert student.grad.dtype == torch.bfloat16


def test_the_users_loss_is_used():
    def absolute(outputs, targets):
        return (outputs - targets).abs().mean()

    outputs, targets = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [4.0]])
    assert float(Distillation(0.0, task=as_task(loss=absolute))(outputs, None, targets)) == 1.5


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (lambda outputs, targets: outputs, "must return one number as a tensor, it returned a tensor of shape"),
        (lambda outputs, targets: 1.0, "must return one number as a tensor, it returned float"),
        (lambda outputs, targets: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_wrong_loss_of_the_users_is_told(task, message):
    with pytest.raises(TrainingError, match=message):
        Distillation(0.0, task=as_task(loss=task))(logits(0), None, torch.zeros(5, dtype=torch.long))


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (logits(0), torch.rand(5), "integer class targets"),
        (logits(0), torch.zeros(5, 4, dtype=torch.long), "integer class targets"),
        (logits(0), torch.zeros(4, dtype=torch.long), "integer class targets"),
        (torch.rand(5), torch.zeros(5, dtype=torch.long), "integer class targets"),
        (logits(0), torch.tensor([0, 1, 4, 0, 0]), "target class 4 does not exist: the model has 4 classes"),
        (logits(0), torch.tensor([0, 1, -1, 0, 0]), "target class -1 does not exist"),
    ],
)
def test_targets_that_are_no_classes_are_told(outputs, targets, message):
    with pytest.raises(DataError, match=message):
        cross_entropy(outputs, targets)


def test_class_targets_of_pixels_and_left_out_examples():
    outputs, targets = logits(0, (2, 4, 3, 3)), torch.zeros(2, 3, 3, dtype=torch.int32)
    assert torch.equal(cross_entropy(outputs, targets), F.cross_entropy(outputs, targets.long()))
    assert math.isfinite(float(cross_entropy(logits(0), torch.tensor([0, -100, 2, 3, -100]))))


def test_check_finite():
    assert check_finite(torch.tensor(1.0))
    assert not check_finite(torch.tensor(math.nan))
    assert not check_finite(torch.tensor(math.inf))


def test_values_are_not_compared_as_distributions_where_that_is_known():
    student, teacher, targets = logits(0), logits(1), torch.zeros(5, 4)
    expected = float((student - teacher).square().mean() / teacher.var(correction=0))
    assert float(Distillation(task=as_task(outputs="values"))(student, teacher, targets)) == pytest.approx(
        expected, rel=1e-5
    )
    assert float(Distillation()(student, teacher, targets)) != pytest.approx(expected, rel=0.1)
