"""Tensors drawn by Hypothesis and small networks for the tests of the quantizer."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from sigmaquant.graph import QuantGraph, trace
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import QuantizedNetwork, calibrate_, prepare, set_plan_

BITS = st.integers(2, 8)


@st.composite
def weights(draw, dims: int | None = None) -> Tensor:
    """Weights of 2 to 4 dimensions: normal or heavy-tailed, of any usual magnitude, with zero channels."""
    shape = [draw(st.integers(1, 5)) for _ in range(dims or draw(st.integers(2, 4)))]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randn(shape, generator=generator)
    if draw(st.booleans()):
        values = values**3
    values *= 10.0 ** draw(st.integers(-6, 4))
    if draw(st.booleans()):
        values[0] = 0
    return values


@st.composite
def scales_for(draw, channels: int, magnitude: float) -> Tensor:
    factors = draw(st.lists(st.floats(0.01, 3), min_size=channels, max_size=channels))
    return torch.tensor(factors, dtype=torch.float32) * max(magnitude, 1e-6)


class Residual(nn.Module):
    """Two convolutions with BatchNorm, a residual addition, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(x + self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


class Tied(nn.Module):
    """The embedding's matrix is also the classifier's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(7, 6, padding_idx=0)
        self.middle = nn.Linear(6, 6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.middle(self.embedding(x).mean(1))))


def images(count: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, 5, 5, generator=torch.Generator().manual_seed(seed))


def graph_of(model: nn.Module, *examples: Tensor) -> QuantGraph:
    """The model's graph after a few steps of BatchNorm statistics."""
    model.train()
    for _ in range(3):
        model(*examples)
    return trace(model.eval(), examples)


def plan_of(graph: QuantGraph, bits: int = 4, activation_bits: int = 8) -> BitwidthPlan:
    return BitwidthPlan(
        {spec.name: bits for spec in graph.layers},
        dict.fromkeys(graph.activation_names, activation_bits),
        graph.fingerprint,
    )


def quantized(model: nn.Module, *examples: Tensor, bits: int = 4) -> QuantizedNetwork:
    """Prepared, at a uniform plan, calibrated on the examples."""
    network = prepare(graph_of(model, *examples))
    set_plan_(network, plan_of(network.graph, bits))
    calibrate_(network, [examples])
    return network.eval()


def saved(network: QuantizedNetwork) -> dict[str, Tensor]:
    """Copies of everything that restores the network."""
    return {key: value.clone() for key, value in network.state().items()}


GRIDS = st.one_of(st.tuples(BITS, st.just(False)), st.tuples(st.integers(2, 4), st.just(True)))
"""Bitwidth and whether mid-rise."""
