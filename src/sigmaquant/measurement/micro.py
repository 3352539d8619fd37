"""Micro-models: one kind of layer each, of several sizes and depths, from which a device's costs can be told apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sigmaquant.graph import QuantGraph, trace
from sigmaquant.hardware.profile import LayerClass
from sigmaquant.lowering import IntegerModel, lower
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_


@dataclass(frozen=True)
class MicroModel:
    """A network of `depth` equal layers with random weights.

    Attributes:
        layer: what it is made of.
        channels: inputs and outputs of each layer.
        size: height and width of the image; 1 for linear layers.
        depth: number of layers.
        w_bits: bitwidth of the weights.
        weightless: what follows each layer: nothing more, a sum with its input, or a concatenation with it that a map
            by channel and a convolution of one tap bring back to its size.
    """

    layer: LayerClass
    channels: int
    size: int
    depth: int
    w_bits: int
    weightless: Literal["", "sum", "concatenation"] = ""

    @property
    def name(self) -> str:
        """A file name."""
        kind = f"{self.layer}-{self.weightless}" if self.weightless else self.layer
        return f"{kind}-c{self.channels}-s{self.size}-d{self.depth}-w{self.w_bits}"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one example."""
        return (self.channels,) if self.layer == "linear" else (self.channels, self.size, self.size)


_SIZES: dict[LayerClass, tuple[tuple[int, int], ...]] = {
    "conv": ((8, 32), (16, 32), (32, 16), (64, 8), (64, 16)),
    "pointwise": ((16, 32), (64, 16), (128, 8), (256, 8)),
    "depthwise": ((16, 32), (64, 16), (128, 8), (256, 8)),
    "linear": ((64, 1), (256, 1), (512, 1)),
}


_WEIGHTLESS: tuple[Literal["sum", "concatenation"], ...] = ("sum", "concatenation")


def micro_models(weight_bits: tuple[int, ...] = (2, 4, 8)) -> tuple[MicroModel, ...]:
    """All sizes at depth 1 and 4 for the widest weights, at depth 4 for the others.

    Every bitwidth has the same sizes: a device's time per MAC depends on them, and would else be taken for the bits'.
    """
    widest = max(weight_bits)
    found = []
    for layer, sizes in _SIZES.items():
        for bits in sorted(weight_bits):
            for channels, size in sizes:
                depths = (1, 4) if bits == widest else (4,)
                found += [MicroModel(layer, channels, size, depth, bits) for depth in depths]
    for kind in _WEIGHTLESS:
        found += [MicroModel("conv", channels, size, 2, widest, kind) for channels, size in _SIZES["conv"]]
    return tuple(found)


class _Sum(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.relu(self.layer(x) + x)
        return found


class _Concatenation(nn.Module):
    """As in DenseNet: everything before beside what is new, then BatchNorm, ReLU, and fewer channels."""

    def __init__(self, layer: nn.Module, channels: int) -> None:
        super().__init__()
        self.layer, self.norm = layer, nn.BatchNorm2d(2 * channels)
        self.back = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.back(torch.relu(self.norm(torch.cat((x, self.layer(x)), 1))))
        return found


def build(micro: MicroModel) -> tuple[QuantGraph, BitwidthPlan, IntegerModel]:
    """Graph, plan and integers of a micro-model; the same weights each time."""
    generator = torch.Generator().manual_seed(0)
    network = prepare(trace(nn.Sequential(*_layers(micro)).eval(), (_noise((2, *micro.input_shape), generator),)))
    graph = network.graph
    plan = BitwidthPlan(
        dict.fromkeys(graph.layer, micro.w_bits), dict.fromkeys(graph.activation_names, 8), graph.fingerprint, 2
    )
    set_plan_(network, plan)
    calibrate_(network, [_noise((4, *micro.input_shape), generator)])
    return graph, plan, lower(network)


def _noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _layers(micro: MicroModel) -> list[nn.Module]:
    c = micro.channels
    layers: list[nn.Module] = []
    for _ in range(micro.depth):
        if micro.layer == "linear":
            layers.append(nn.Linear(c, c))
        else:
            kernel, groups = (1 if micro.layer == "pointwise" else 3), (c if micro.layer == "depthwise" else 1)
            layer: nn.Module = nn.Conv2d(c, c, kernel, padding=kernel // 2, groups=groups)
            if micro.weightless:
                layer = _Sum(layer) if micro.weightless == "sum" else _Concatenation(layer, c)
            layers.append(layer)
        layers.append(nn.ReLU())
    return layers
