"""BatchNorm re-estimation, and taking the sampling's error out of it."""

from __future__ import annotations

import copy

import pytest
import torch
from quant_cases import Residual, images, quantized, saved
from torch import nn

from sigmaquant.errors import DataError
from sigmaquant.graph import trace
from sigmaquant.quant import SamplingError, prepare, reestimate_batch_norm_


def test_batch_norm_is_reestimated_as_by_hand(fresh):
    batches = [images(6, seed=1), images(6, seed=2), images(2, seed=3)]
    fresh.body.bn2.momentum = None
    seen = {"bn1": [], "bn2": []}
    hooks = [
        fresh.body.get_submodule(name).register_forward_pre_hook(lambda _, args, kept=kept: kept.append(args[0]))
        for name, kept in seen.items()
    ]
    before = saved(fresh)
    reestimate_batch_norm_(fresh, [batches[0], (batches[1],), [batches[2]]])
    for hook in hooks:
        hook.remove()
    for name, inputs in seen.items():
        norm = fresh.body.get_submodule(name)
        weights = torch.tensor([6.0, 6.0, 2.0], dtype=torch.double)[:, None] / 14
        mean = (torch.stack([x.double().mean((0, 2, 3)) for x in inputs]) * weights).sum(0)
        var = (torch.stack([x.double().var((0, 2, 3), correction=1) for x in inputs]) * weights).sum(0)
        assert torch.allclose(norm.running_mean.double(), mean, atol=1e-6)
        assert torch.allclose(norm.running_var.double(), var, rtol=1e-5)
    assert (fresh.body.bn1.momentum, fresh.body.bn2.momentum) == (0.1, None)
    assert not any(module.training for module in fresh.modules())
    changed = {key for key, value in fresh.state().items() if not torch.equal(value, before[key])}
    assert {key.rpartition(".")[2] for key in changed} <= {"running_mean", "running_var", "num_batches_tracked"}
    assert len(changed) >= 4


@pytest.mark.parametrize("failing", [False, True])
def test_without_batches_the_statistics_stay(fresh, failing):
    def batches():
        if failing:
            yield images()
            yield torch.zeros(2, 7, 5, 5)  # too many channels

    before = saved(fresh)
    fresh.train()
    with pytest.raises(RuntimeError if failing else DataError):
        reestimate_batch_norm_(fresh, batches())
    assert all(torch.equal(value, before[key]) for key, value in fresh.state().items())
    assert fresh.training
    assert fresh.body.bn1.momentum == 0.1


def test_networks_without_batch_norm_need_no_reestimation():
    reestimate_batch_norm_(nn.Linear(2, 2), [])


def test_a_batch_norm_that_sees_single_values_is_told():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(DataError, match="batch_size"):
        reestimate_batch_norm_(network, [torch.ones(4, 2), torch.ones(1, 2)])
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())


def trained(batches):
    """A float network whose statistics are those of many batches."""
    model = Residual().eval()
    reestimate_batch_norm_(model, batches)
    return model


def distance(network, reference):
    """Of the running means and logarithms of variances, squared."""
    total = 0.0
    for name in ("bn1", "bn2"):
        own, other = network.body.get_submodule(name), reference.get_submodule(name)
        total += float((own.running_mean - other.running_mean).square().sum())
        total += float((own.running_var.log() - other.running_var.log()).square().sum())
    return total


def test_without_quantization_any_batch_gives_the_trained_statistics():
    model = trained([images(16, seed=s) for s in range(8)])
    network = prepare(trace(model, images())).eval()
    few = [3 + 2 * images(5, seed=99)]  # of another mean and spread, too
    reestimate_batch_norm_(network, few)
    assert distance(network, model) > 0.1
    SamplingError(network, few).remove_(network)
    assert distance(network, model) < 1e-8


@pytest.mark.parametrize("variance", [1e-6, 1e-3, 1.0])
def test_channels_with_hardly_any_variance_in_the_batches_get_their_trained_statistics_too(variance):
    """Where the batches' variance is not far above eps, a factor between (variance + eps) is none between variances."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, eps=1e-3)).eval()
    model[1].running_var.fill_(variance)
    few = [images(8, seed=5)[:, :2] * 1e-3]
    network = prepare(trace(model, few[0])).eval()
    reestimate_batch_norm_(network, few)
    SamplingError(network, few).remove_(network)
    found = network.body.get_submodule("1")
    assert torch.allclose(found.running_var, model[1].running_var, rtol=1e-3, atol=1e-8)
    assert torch.allclose(found.running_mean, model[1].running_mean, atol=1e-6)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_few_batches_give_nearly_what_many_give(bits):
    many = [images(16, seed=s) for s in range(30)]
    model = trained(many)
    network = quantized(model, images(), bits=bits)
    reestimate_batch_norm_(network, many)
    truth = copy.deepcopy(network.body)
    plain = corrected = 0.0
    for seed in range(100, 110):
        few = [images(16, seed=seed)]
        reestimate_batch_norm_(network, few)
        plain += distance(network, truth)
        SamplingError(network, few).remove_(network)
        corrected += distance(network, truth)
    assert corrected < plain / 3


def test_the_sampling_error_is_the_float_networks_who_stays_as_it_was(fresh):
    before = {key: value.clone() for key, value in fresh.graph.module.state_dict().items()}
    own = saved(fresh)
    error = SamplingError(fresh, [images(6, seed=1), (images(6, seed=2),)])
    assert all(torch.equal(value, before[key]) for key, value in fresh.graph.module.state_dict().items())
    assert all(torch.equal(value, own[key]) for key, value in fresh.state().items())
    error.remove_(fresh)
    changed = {key.rpartition(".")[2] for key, value in fresh.state().items() if not torch.equal(value, own[key])}
    assert changed == {"running_mean", "running_var"}


def test_channels_that_never_vary_stay_finite():
    model = Residual().eval()
    with torch.no_grad():
        model.conv1.weight[0] = 0
    network = quantized(model, images())
    few = [images(4, seed=1)]
    reestimate_batch_norm_(network, few)
    SamplingError(network, few).remove_(network)
    assert all(bool(value.isfinite().all()) for value in network.state().values())
    assert float(network.body.bn1.running_var.min()) >= 0


def test_a_network_without_batch_norm_has_no_sampling_error():
    network = quantized(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.randn(4, 2))
    before = saved(network)
    SamplingError(network, []).remove_(network)
    assert all(torch.equal(value, before[key]) for key, value in network.state().items())


class Siamese(nn.Module):
    """One tower, called for each of two inputs that differ."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tower, self.norm, self.head = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.norm(self.tower(x)), self.norm(self.tower(3 * x + 1))
        return self.head(torch.relu(first) * second)


@pytest.mark.parametrize("sizes", [(8,), (8, 8), (8, 4, 2)])
def test_every_call_of_a_batch_norm_counts(sizes):
    network = quantized(Siamese().eval(), torch.randn(4, 4))
    for quantizer in network.activation_quantizers.values():
        quantizer.enabled = False
    x = torch.randn(sum(sizes), 4, generator=torch.Generator().manual_seed(1))
    reestimate_batch_norm_(network, x.split(sizes))
    values = network.body.tower(torch.cat([x, 3 * x + 1]))
    assert torch.allclose(network.body.norm.running_mean, values.mean(0), atol=1e-5)
    parts = [
        part for batch in x.split(sizes) for part in (network.body.tower(batch), network.body.tower(3 * batch + 1))
    ]
    variance = sum(part.var(0) * len(part) for part in parts) / len(values)
    assert torch.allclose(network.body.norm.running_var, variance, rtol=1e-4)
