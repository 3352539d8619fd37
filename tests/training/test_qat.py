"""The training loop and its optimizer."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from training_cases import CPU, network, plan_of, problem

from sigmaquant.errors import CheckpointError, TrainingError
from sigmaquant.graph import trace
from sigmaquant.numerics import SCALE_FLOOR
from sigmaquant.quant import calibrate_, prepare, set_plan_
from sigmaquant.training.devices import Device
from sigmaquant.training.losses import Distillation
from sigmaquant.training.qat import (
    Recipe,
    cosine_with_warmup,
    load_optimizer_tensors_,
    make_optimizer,
    optimizer_tensors,
    train_,
)
from sigmaquant.training.teacher import make_teacher


@pytest.fixture(scope="module")
def prepared():
    graph = trace(network(), problem()[0])
    quantized = prepare(graph)
    set_plan_(quantized, plan_of(graph))
    calibrate_(quantized, [problem()[0]])
    return quantized


@pytest.fixture
def fresh(prepared):
    return copy.deepcopy(prepared)


def batches(steps, batch=16, seed=0):
    x, y = problem(steps * batch, seed)
    return list(zip(x.split(batch), y.split(batch), strict=True))


TASK = Recipe(lr=0.05, loss=Distillation(0.0))


def test_training_lowers_the_loss_with_and_without_a_teacher(fresh):
    teacher = make_teacher(fresh.graph)
    set_plan_(fresh, plan_of(fresh.graph, 2))
    for guide, recipe in ((teacher, Recipe(lr=0.01, scale_lr=0.001)), (None, TASK)):
        student = copy.deepcopy(fresh)
        losses = []
        report = train_(
            student,
            guide,
            batches(30),
            make_optimizer(student, recipe),
            recipe,
            CPU,
            progress=lambda examples, loss, losses=losses: losses.append((examples, loss)),
        )
        assert [examples for examples, _ in losses] == [16] * 30
        assert (report.steps, report.examples) == (30, 480)
        assert report.loss == pytest.approx(sum(loss for _, loss in losses[-3:]) / 3)
        assert report.loss < 0.8 * sum(loss for _, loss in losses[:5]) / 5
        assert report.seconds > 0
        assert not student.training


def test_every_parameter_and_scale_moves_and_batch_norm_follows(fresh):
    before = {name: p.detach().clone() for name, p in fresh.named_parameters()}
    statistics = fresh.body.get_submodule("1").running_mean.clone()
    train_(fresh, None, batches(4), make_optimizer(fresh, TASK), TASK, CPU)
    still = [name for name, p in fresh.named_parameters() if torch.equal(p, before[name])]
    assert still == []
    assert not torch.equal(fresh.body.get_submodule("1").running_mean, statistics)
    assert all(torch.equal(p, q) for p, q in zip(network().parameters(), fresh.graph.module.parameters(), strict=True))


def test_training_in_bf16_autocast(fresh):
    report = train_(
        fresh, make_teacher(fresh.graph), batches(3), make_optimizer(fresh, TASK), TASK, Device("cpu", True)
    )
    assert math.isfinite(report.loss)
    assert all(parameter.dtype == torch.float32 for parameter in fresh.parameters())


def test_decay_falls_on_kernels_and_matrices_only(fresh):
    groups = make_optimizer(fresh, Recipe(weight_decay=0.1, lr=1.0, scale_lr=0.5)).param_groups
    assert [(group["weight_decay"], group["lr"]) for group in groups] == [(0.1, 1.0), (0.0, 1.0), (0.0, 0.5)]
    assert all(parameter.dim() > 1 for parameter in groups[0]["params"])
    assert all(parameter.dim() == 1 for parameter in groups[1]["params"])
    assert {id(p) for p in groups[2]["params"]} == {id(p) for p in fresh.scales()}
    assert sum(len(group["params"]) for group in groups) == len(list(fresh.parameters()))
    fresh.body.get_submodule("3").weight.requires_grad_(False)
    frozen = fresh.body.get_submodule("3").weight
    assert all(p is not frozen for group in make_optimizer(fresh, Recipe()).param_groups for p in group["params"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_is_told_before_the_weights_are_spoilt(fresh, bad):
    data = batches(3)
    data[1] = (torch.full_like(data[1][0], bad), data[1][1])
    optimizer = make_optimizer(fresh, TASK)
    with pytest.raises(TrainingError, match=r"diverged at step 1: .* gradient nan.*rate \(lr is 0\.05;"):
        train_(fresh, None, data, optimizer, TASK, CPU, schedule=lambda position: 0.1)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in fresh.parameters())
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.05, TASK.scale_lr]
    assert not fresh.training


def test_the_schedule_scales_every_rate_and_is_undone(fresh):
    optimizer, seen = make_optimizer(fresh, TASK), []

    def schedule(position):
        seen.append(position)
        return 0.0

    before = {name: p.detach().clone() for name, p in fresh.named_parameters()}
    train_(fresh, None, batches(3), optimizer, TASK, CPU, schedule=schedule)
    assert seen == [8, 24, 40]  # the middle of each batch
    assert all(torch.equal(p, before[name]) for name, p in fresh.named_parameters())
    assert optimizer.param_groups[2]["lr"] == TASK.scale_lr


def test_scales_stay_positive_however_large_the_step(fresh):
    wild = Recipe(lr=0.0, scale_lr=1e4, loss=Distillation(0.0))
    train_(fresh, None, batches(2), make_optimizer(fresh, wild), wild, CPU)
    lowest = min(float(scale.detach().min()) for scale in fresh.scales())
    assert lowest == pytest.approx(SCALE_FLOOR)


def test_small_scales_are_left_alone(fresh):
    """A channel of tiny weights before a BatchNorm has tiny scales: no floor above theirs."""
    quantizer = fresh.weight_quantizers["0"]
    with torch.no_grad():
        quantizer.scale.fill_(1e-10)
    still = Recipe(lr=0.0, scale_lr=0.0, loss=Distillation(0.0))
    train_(fresh, None, batches(1), make_optimizer(fresh, still), still, CPU)
    assert torch.equal(quantizer.scale.detach(), torch.full((6,), 1e-10))


def test_optimizer_tensors_make_training_go_on_bit_for_bit(fresh):
    data = batches(8)
    whole, optimizer = fresh, make_optimizer(fresh, TASK)
    half, first = copy.deepcopy(fresh), None
    train_(whole, None, data, optimizer, TASK, CPU)

    first = make_optimizer(half, TASK)
    train_(half, None, data[:4], first, TASK, CPU)
    resumed = copy.deepcopy(half)
    second = make_optimizer(resumed, TASK)
    saved = {key: value.clone() for key, value in optimizer_tensors(first).items()}
    assert len(saved) == len(list(half.parameters()))
    load_optimizer_tensors_(second, saved)
    train_(resumed, None, data[4:], second, TASK, CPU)
    assert all(torch.equal(value, whole.state()[key]) for key, value in resumed.state().items())

    forgetful = copy.deepcopy(half)
    train_(forgetful, None, data[4:], make_optimizer(forgetful, TASK), TASK, CPU)
    assert not torch.equal(forgetful.weight("3"), whole.weight("3"))  # without momentum it is another training


def test_optimizer_tensors_of_another_model_are_refused(fresh):
    optimizer = make_optimizer(fresh, TASK)
    assert optimizer_tensors(optimizer) == {}
    load_optimizer_tensors_(optimizer, {})
    for tensors in ({"999": torch.zeros(1)}, {"0": torch.zeros(7, 7)}, {"conv": torch.zeros(1)}):
        with pytest.raises(CheckpointError, match="optimizer state"):
            load_optimizer_tensors_(optimizer, tensors)


@given(st.integers(1, 500), st.floats(0, 0.5))
def test_the_learning_rate_rises_then_falls(total, warmup):
    factors = [cosine_with_warmup(step + 0.5, total, warmup) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    assert cosine_with_warmup(total * warmup, total, warmup) == 1
    assert cosine_with_warmup(total, total, warmup) == cosine_with_warmup(2 * total, total, warmup) == 0
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_the_loss_of_a_network_that_is_right_already_stays_zero():
    """Eight bits on a grid-friendly identity: distilling it from itself changes next to nothing."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
    graph = trace(model, torch.zeros(2, 2))
    student = prepare(graph)
    set_plan_(student, plan_of(graph, 8))
    x = torch.tensor([[-1.28, 1.27], [0.5, 0.25]])
    calibrate_(student, [x])
    report = train_(student, graph.module.eval(), [(x, torch.zeros(2))], make_optimizer(student, TASK), Recipe(), CPU)
    assert report.loss < 1e-4
