"""Saving and restoring a network, and models with functional weights."""

from __future__ import annotations

import pytest
import torch
from quant_cases import Residual, Tied, images, plan_of, quantized, saved
from safetensors.torch import load_file, save_file
from torch import nn

from sigmaquant.errors import CheckpointError, CoverageError
from sigmaquant.quant import prepare, restore_plan_, set_plan_
from sigmaquant.quant.modules import QLinear, QParameter


def test_restore_brings_back_bit_identical_outputs(fresh):
    plan, state, x = fresh.plan, saved(fresh), images(5, seed=9)
    expected = fresh(x)
    set_plan_(fresh, plan.with_weights({"conv1": 2, "fc": 3}))
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(0.01)
    assert not torch.equal(fresh(x), expected)
    restore_plan_(fresh, plan, state)
    assert torch.equal(fresh(x), expected)
    blank = prepare(fresh.graph).eval()
    restore_plan_(blank, plan, state)
    assert torch.equal(blank(x), expected)
    assert blank.plan == plan


@pytest.mark.parametrize("build", [Residual, Tied])
def test_state_survives_a_safetensors_file(build, tmp_path):
    x = images() if build is Residual else torch.randint(0, 7, (4, 3), generator=torch.Generator().manual_seed(1))
    network = quantized(build(), x, bits=3)
    save_file(saved(network), tmp_path / "state.safetensors")
    blank = prepare(network.graph).eval()
    restore_plan_(blank, network.plan, load_file(tmp_path / "state.safetensors"))
    assert torch.equal(blank(x), network(x))


def test_float_names_are_kept(network):
    names = set(network.state())
    assert set(Residual().state_dict()) <= names
    assert {"conv1.weight_quantizer.scale", "activation_quantizers.relu.scale"} <= names


def without(state):
    del state["conv2.weight"], state["fc.bias"]


def with_more(state):
    state["conv9.weight"] = torch.zeros(1)


def reshaped(state):
    state["fc.weight"] = torch.zeros(5, 4)


def not_finite(state):
    state["bn1.running_var"][2] = float("nan")


def without_a_scale(state):
    state["activation_quantizers.relu.scale"].zero_()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (not_finite, r"is damaged: 'bn1\.running_var' is not finite everywhere"),
        (without_a_scale, r"'activation_quantizers\.relu\.scale' is a scale and not above zero everywhere"),
        (without, "lacks 'conv2.weight' and 1 more tensors"),
        (with_more, "has the unknown 'conv9.weight'"),
        (reshaped, r"'fc.weight' has the shape \(5, 4\), this model's has \(3, 4\)"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused_and_change_nothing(fresh, damage, message):
    before, plan, state = saved(fresh), fresh.plan, saved(fresh)
    for value in state.values():
        if value.is_floating_point():
            value.add_(1)
    damage(state)
    with pytest.raises(CheckpointError, match=message):
        fresh.load_state_(state)
    with pytest.raises(CheckpointError, match=message):
        restore_plan_(fresh, plan.with_weights({"fc": 2}), state)
    assert all(torch.equal(value, before[key]) for key, value in fresh.state().items())
    assert fresh.weight_quantizers["fc"].bits == 4
    assert fresh.plan is plan


class Masked(nn.Module):
    """Infinite on purpose."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))

    def forward(self, x):
        return (self.layer(x).unsqueeze(1) + self.mask).softmax(-1)


def test_infinite_buffers_come_back():
    network = quantized(Masked(), torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    state = saved(network)
    assert any(bool(value.isinf().any()) for value in state.values())
    restore_plan_(network, network.plan, state)


def test_activation_bitwidths_must_agree_with_the_plan(fresh):
    with pytest.raises(CoverageError, match=r"activation 'input' is planned at 4 bits but is at 8 bits"):
        restore_plan_(fresh, plan_of(fresh.graph, 4, activation_bits=4), saved(fresh))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 5, batch_first=True, bidirectional=True)
        self.head = nn.Linear(10, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0].mean(1))


@pytest.mark.parametrize(("build", "parameters"), [(Attention, 1), (Recurrent, 4)])
def test_functional_weights_are_really_quantized(build, parameters):
    x = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
    network = quantized(build(), x, bits=8)
    modules = [network.body.get_submodule(name) for name in network.weight_quantizers]
    assert sum(isinstance(module, QParameter) for module in modules) == parameters
    assert isinstance(network.body.head, QLinear)
    high = network(x)
    for name in network.weight_quantizers:
        set_plan_(network, network.plan.with_weights({name: 2}))
        assert not torch.equal(network(x), high), name
        set_plan_(network, network.plan.with_weights({name: 8}))
        assert torch.equal(network(x), high), name
    set_plan_(network, plan_of(network.graph, 4))
    network.train()
    network(x).square().sum().backward()
    for name, quantizer in network.weight_quantizers.items():
        assert bool(network.weight(name).grad.any()), name
        assert bool(quantizer.scale.grad.any()), name
    assert all(parameter.grad is None for parameter in network.graph.module.parameters())
