"""What a plan costs, against numbers counted by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sigmaquant.budget import Cost
from sigmaquant.graph import QuantGraph, trace
from sigmaquant.graph.specs import LayerSpec
from sigmaquant.hardware.costs import (
    IdealCosts,
    constant_bytes,
    input_bits,
    output_channels,
    packed_bytes,
)
from sigmaquant.plan import BitwidthPlan


def plan_of(graph: QuantGraph, bits=8, activation_bits=8, **weights: int) -> BitwidthPlan:
    return BitwidthPlan(
        {**{spec.name: bits for spec in graph.layers}, **weights},
        dict.fromkeys(graph.activation_names, activation_bits),
    )


@pytest.fixture(scope="module")
def graph():
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(3, 5, 3, padding=1, bias=False))
    model.add_module("bn", nn.BatchNorm2d(5))
    model.add_module("relu", nn.ReLU())
    model.add_module("flatten", nn.Flatten())
    model.add_module("fc", nn.Linear(5 * 4 * 4, 7))
    return trace(model, torch.zeros(1, 3, 4, 4))


# conv: 5 x 3 x 3 x 3 = 135 weights, 16 positions x 135 = 2160 multiply-accumulates
# fc: 7 x 80 = 560 weights and multiply-accumulates
# activations: input, relu, fc


def test_costs_of_a_small_network_by_hand(graph):
    cost = IdealCosts(graph).cost(plan_of(graph, conv=3, fc=2))
    assert cost == Cost(
        weight_bytes=51 + 140,  # 135 x 3 bits = 50.6 bytes, 560 x 2 bits = 140 bytes
        scale_bytes=4 * (5 + 7) + (4 + 1) * 3,
        other_bytes=4 * (5 + 7),  # the bias that BatchNorm leaves, and the classifier's own
        bops=2160 * 3 * 8 + 560 * 2 * 8,
        macs=2160 + 560,
    )
    assert cost.total_bytes == 191 + 63 + 48
    assert cost.resource("size_bytes", "weights") == 191


def test_float_reference_by_hand(graph):
    reference = IdealCosts(graph).reference()
    assert reference == Cost(4 * (135 + 560), 0, 4 * (5 + 7), bops=(2160 + 560) * 32 * 32, macs=2160 + 560)


def test_bit_operations_follow_the_bitwidth_of_what_feeds_a_layer(graph):
    plan = plan_of(graph, 4).with_activations({"relu": 2})
    assert input_bits(graph.layer["conv"], plan) == 8
    assert input_bits(graph.layer["fc"], plan) == 2
    assert IdealCosts(graph).cost(plan).bops == 2160 * 4 * 8 + 560 * 4 * 2


@given(st.integers(0, 10_000), st.integers(2, 8))
def test_packed_bytes_are_rounded_up(elements, bits):
    assert 0 <= 8 * packed_bytes(elements, bits) - elements * bits < 8


def test_layers_add_up_to_the_network(graph):
    costs = IdealCosts(graph)
    plan = plan_of(graph, conv=3, fc=6)
    rows = [costs.layer(name, bits, plan, "total") for name, bits in plan.weights.items()]
    whole, least = costs.cost(plan), costs.cost(plan_of(graph, 2))
    fixed = least.total_bytes - sum(costs.layer(name, 2, plan, "total")["size_bytes"] for name in plan.weights)
    assert sum(row["size_bytes"] for row in rows) + fixed == whole.total_bytes
    assert sum(row["bops"] for row in rows) == whole.bops


def test_float_inputs_count_with_32_bits():
    spec = LayerSpec("fc", "linear", "fc.weight", (10, 64), 0, 1, False, 640, (64,), (10,))
    costs = IdealCosts(QuantGraph(None, (spec,)))
    assert costs.cost(BitwidthPlan({"fc": 3})).bops == 640 * 3 * 32


def test_tied_weights_are_stored_once_and_computed_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6, bias=False)
            self.second = nn.Linear(6, 6)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(torch.relu(self.first(x)))

    graph = trace(Twice(), torch.zeros(2, 6))
    cost = IdealCosts(graph).cost(plan_of(graph, 4))
    assert cost.weight_bytes == 18
    assert cost.scale_bytes == 4 * 6 + 5 * 3
    assert cost.other_bytes == 4 * 6
    assert cost.bops == 2 * 36 * 4 * 8


def test_biases_that_batch_norm_leaves_are_those_of_the_output_channels():
    """A grouped transposed convolution has fewer scales than output channels; BatchNorm tells all of these apart."""
    model = nn.Sequential(nn.ConvTranspose2d(8, 12, 2, stride=2, groups=4, bias=False), nn.BatchNorm2d(12))
    graph = trace(model, torch.zeros(1, 8, 3, 3))
    spec = graph.layers[0]
    assert (spec.channels, output_channels(spec), spec.batch_norm) == (3, 12, "1")
    cost = IdealCosts(graph).cost(plan_of(graph))
    assert cost.other_bytes == 4 * 12
    assert cost.scale_bytes == 4 * 12 + 5 * 2
    alone = trace(model[:1], torch.zeros(1, 8, 3, 3))
    assert IdealCosts(alone).cost(plan_of(alone)).scale_bytes == 4 * 3 + 5 * 2
    plain = LayerSpec("c", "conv2d", "c.weight", (12, 2, 3, 3), 0, 4, False, 0, (), ())
    assert output_channels(plain) == 12


def test_parameters_and_buffers_that_stay_float_are_counted():
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(6)
            self.fc = nn.Linear(6, 2)
            self.register_buffer("table", torch.zeros(5, 6))
            self.register_buffer("unused", torch.zeros(1000))

        def forward(self, x):
            return self.fc(self.norm(x + self.table))

    graph = trace(Positions(), torch.zeros(2, 5, 6))
    assert constant_bytes(graph) == 4 * 30
    costs = IdealCosts(graph)
    assert costs.cost(plan_of(graph)).other_bytes == costs.reference().other_bytes == 4 * (6 + 6 + 2 + 30)


def test_products_between_activations_count_with_the_widest_of_them():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.q(x) @ self.k(x).transpose(1, 2)

    graph = trace(Attention(), torch.zeros(2, 3, 4))
    costs = IdealCosts(graph)
    assert graph.weightless_macs == 3 * 3 * 4
    assert costs.cost(plan_of(graph, 2, 4)).bops == 2 * (3 * 16 * 2 * 4) + 36 * 4 * 4
    assert costs.reference().bops == (2 * 48 + 36) * 1024
