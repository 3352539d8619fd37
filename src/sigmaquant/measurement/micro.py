"""Micro-models: one kind of layer each, of several sizes and depths, from which a device's costs can be told apart."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    layer: LayerClass
    channels: int
    size: int
    depth: int
    w_bits: int

    @property
    def name(self) -> str:
        """A file name."""
        return f"{self.layer}-c{self.channels}-s{self.size}-d{self.depth}-w{self.w_bits}"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one example."""
        return (self.channels,) if self.layer == "linear" else (self.channels, self.size, self.size)


_SIZES: dict[LayerClass, tuple[tuple[int, int], ...]] = {
    "conv": ((8, 32), (16, 32), (32, 16), (64, 8), (64, 16)),
    "pointwise": ((16, 32), (64, 16), (128, 8), (256, 8)),
    "depthwise": ((16, 32), (64, 16), (128, 8), (256, 8)),
    "linear": ((64, 1), (256, 1), (1024, 1)),
}


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
    return tuple(found)


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
            layers.append(nn.Conv2d(c, c, kernel, padding=kernel // 2, groups=groups))
        layers.append(nn.ReLU())
    return layers
