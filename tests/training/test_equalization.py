"""Channels of very different ranges cost nothing where factors can take the difference away."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sigmaquant.graph import QuantGraph, trace
from sigmaquant.graph.rescaling import find_rescaling
from sigmaquant.plan import BitwidthPlan
from sigmaquant.tasks import as_task
from sigmaquant.training.devices import choose_device
from sigmaquant.training.equalization import equalize_

DEVICE = choose_device("cpu")


def bottlenecks() -> nn.Module:
    """Depthwise blocks whose outputs are linear, as in EtinyNet and MobileNetV2."""

    def block(ins: int, outs: int) -> list[nn.Module]:
        linear = [nn.Conv2d(ins, ins, 3, padding=1, groups=ins, bias=False), nn.BatchNorm2d(ins)]
        return [*linear, nn.Conv2d(ins, outs, 1, bias=False), nn.BatchNorm2d(outs), nn.ReLU()]

    stem = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)]
    return nn.Sequential(*stem, *block(16, 24), *block(24, 24), *block(24, 24), *head)


def settled(graph: QuantGraph, x: Tensor) -> None:
    """BatchNorm statistics of its own, and outputs of some confidence."""
    graph.module.train()
    with torch.no_grad():
        for _ in range(30):
            graph.module(x)
        graph.module.eval()
        graph.module.get_submodule("20").weight.mul_(20)


@pytest.fixture(scope="module")
def data() -> list[Tensor]:
    torch.manual_seed(0)
    return list(torch.randn(96, 3, 12, 12).split(16))


def plan_of(graph: QuantGraph) -> BitwidthPlan:
    return BitwidthPlan(dict.fromkeys(graph.layer, 8), dict.fromkeys(graph.activation_names, 8), graph.fingerprint)


def scrambled(data: list[Tensor], spread: float) -> QuantGraph:
    torch.manual_seed(0)
    graph = trace(bottlenecks().eval(), data[0][:2])
    settled(graph, data[0])
    rescaling = find_rescaling(graph)
    factors = torch.exp(spread * torch.randn(rescaling.classes))
    factors[0] = 1
    rescaling.apply_(graph.module, factors)
    return graph


def test_ranges_that_differ_are_brought_together(data: list[Tensor]) -> None:
    graph = scrambled(data, 2.0)
    with torch.no_grad():
        before = graph.module(data[0])
        found = equalize_(graph, plan_of(graph), data, DEVICE, as_task(), 0)
        after = graph.module(data[0])
    assert found is not None
    assert found.before > 0.02
    assert found.after < 0.1 * found.before
    assert "at 8-bit weights and 8-bit activations" in found.sentence
    assert torch.allclose(before, after, rtol=1e-3, atol=1e-4 * float(before.abs().max()))


def test_what_costs_nothing_is_left(data: list[Tensor]) -> None:
    graph = scrambled(data, 0.0)
    kept = {name: value.clone() for name, value in graph.module.state_dict().items()}
    assert equalize_(graph, plan_of(graph), data, DEVICE, as_task(), 0) is None
    assert all(torch.equal(value, kept[name]) for name, value in graph.module.state_dict().items())


def test_no_activation_that_can_be_rescaled_is_no_error(data: list[Tensor]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(800, 10))
    graph = trace(model.eval(), data[0][:2])
    plan = replace(plan_of(graph), activations=dict.fromkeys(graph.activation_names, 3))
    assert equalize_(graph, plan, data, DEVICE, as_task(), 0) is None
