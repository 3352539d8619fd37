"""Small networks with blocks of every kind, rounded with error compensation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sigmaquant.graph import trace
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import QuantizedNetwork, calibrate_, compensate_rounding_, prepare, set_plan_


class Unit(nn.Module):
    """A residual block with a depthwise convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(2 * channels)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.project = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.expand(x)))
        return x + self.project(torch.relu(self.depthwise(y)))


class Convolutional(nn.Module):
    """A stem, two residual blocks, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first, self.second = Unit(8), Unit(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(torch.relu(self.stem(x)))).mean((2, 3)))


class Attention(nn.Module):
    """Attention and feed-forward around a residual stream; the batch's size is in its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n = self.norm(x)
        weights = (self.q(n) @ self.k(n).transpose(1, 2) / 8**0.5).softmax(-1)
        x = x + self.out(weights @ self.v(n)).reshape(x.shape[0], -1, 8)
        x = x + self.down(torch.nn.functional.gelu(self.up(x)))
        return self.head(x.mean(1))


class Dense(nn.Module):
    """Every layer sees the outputs of all before it: no single tensor passes on."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(8))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(torch.relu(layer(torch.cat(features, 1))))
        return torch.cat(features, 1).mean((2, 3))


class Recurrent(nn.Module):
    """A recurrent layer, whose matrices are left alone, between two linear ones."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.cell, self.after = nn.Linear(6, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.cell(self.before(x))[0][:, -1])


def examples(count: int, *shape: int, seed: int = 0) -> Tensor:
    """Inputs of noise."""
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def rounded(model: nn.Module, x: Tensor, bits: int = 3) -> QuantizedNetwork:
    """The quantized network, rounded with error compensation, its weights where they were rounded."""
    network = prepare(trace(model.eval(), (x[:2],)))
    graph = network.graph
    plan = BitwidthPlan(
        {spec.name: bits for spec in graph.layers}, dict.fromkeys(graph.activation_names, 8), graph.fingerprint
    )
    set_plan_(network, plan)
    compensate_rounding_(network, x.split(32), settle=False)
    calibrate_(network, x.split(32))
    return network.eval()
