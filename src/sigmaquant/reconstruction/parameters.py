"""What of a block is learned: codes, scales of weights and activations, biases and the affine part of norms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from sigmaquant.numerics import SCALE_FLOOR, channel_view, round_to_codes_, weight_qmax
from sigmaquant.quant.modules import ActivationQuantizer, WeightQuantizer
from sigmaquant.quant.network import QuantizedNetwork
from sigmaquant.reconstruction.blocks import Block


class _Round(torch.autograd.Function):
    """Codes of positions on the grid, straight-through inside of it."""

    @staticmethod
    def forward(ctx, position: Tensor, qmax: int, midrise: bool) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(position)
        ctx.spacing, ctx.reach = _spacing(midrise), _reach(qmax, midrise)
        return round_to_codes_(position * ctx.spacing, qmax, midrise)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        (position,) = ctx.saved_tensors
        return grad * (position.abs() <= ctx.reach) * ctx.spacing, None, None


def _spacing(midrise: bool) -> int:
    """Between neighbouring codes."""
    return 2 if midrise else 1


def _reach(qmax: int, midrise: bool) -> float:
    """How far a position may be from zero and still be rounded, not clipped."""
    return qmax / _spacing(midrise) + 0.5


class LearnedWeight(nn.Module):
    """In place of a `WeightQuantizer`: a weight as positions between the codes, in steps, and a factor of each scale.

    In steps all layers' weights are of one size, so that one learning rate serves all.

    Args:
        quantizer: at its bitwidth.
        weight: where to begin; its rounding is the codes to begin with.
    """

    def __init__(self, quantizer: WeightQuantizer, weight: Tensor) -> None:
        super().__init__()
        assert quantizer.bits is not None, "set_plan_ comes first"
        self.quantizer = (quantizer,)  # in a tuple it is no submodule, and its scale no parameter of this one
        self.grid = weight_qmax(quantizer.bits, quantizer.midrise), quantizer.midrise
        self.scale = channel_view(quantizer.scale.detach().clone(), weight.dim(), quantizer.axis)
        reach = _reach(*self.grid)
        position = weight.detach() / (self.scale * _spacing(quantizer.midrise))
        self.position = nn.Parameter(position.clamp_(-reach, reach))
        self.log_factor = nn.Parameter(torch.zeros_like(self.scale))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight on its grid; the argument is not looked at."""
        codes: Tensor = _Round.apply(self.position, *self.grid)  # type: ignore[no-untyped-call]
        return codes * (self.scale * self.log_factor.exp())

    @torch.no_grad()
    def settle_(self, weight: Tensor) -> None:
        """Write what was learned: the scales into the quantizer, into the weight what its codes stand for."""
        scale = (self.scale * self.log_factor.exp()).clamp_min_(SCALE_FLOOR)
        codes = round_to_codes_(self.position * _spacing(self.grid[1]), *self.grid)
        self.quantizer[0].scale.copy_(scale.reshape(-1))
        weight.copy_(codes * scale)


@dataclass(frozen=True)
class Learned:
    """The parameters that are learned.

    Attributes:
        weights: by layer name.
        others: with the unit of each, in which its steps are measured.
    """

    weights: Mapping[str, LearnedWeight]
    others: tuple[tuple[nn.Parameter, float], ...]

    def groups(self, travel: float, other: float) -> list[dict[str, Any]]:
        """One parameter each, for an optimizer whose steps are of one size whatever the gradients' are.

        Args:
            travel: rate of the positions, in steps of the grid.
            other: rate of everything else, relative to its size.
        """
        rated = [(weight.position, travel) for weight in self.weights.values()]
        rated += [(weight.log_factor, other) for weight in self.weights.values()]
        rated += [(parameter, other * unit) for parameter, unit in self.others]
        return [{"params": [parameter], "lr": rate} for parameter, rate in rated]


@contextmanager
def learnable(network: QuantizedNetwork, block: Block, sizes: Mapping[str, float]) -> Iterator[Learned]:
    """While active, the block's weights are `LearnedWeight`s; afterwards the network has what was learned.

    Args:
        network: at its plan.
        block: whose parameters.
        sizes: magnitude of the outputs of modules, by name: the unit of biases.
    """
    body = network.body
    weights = {name: LearnedWeight(network.weight_quantizers[name], network.weight(name)) for name in block.layers}
    others = tuple((p, unit) for p, unit in _others(network, block, sizes) if unit > 0)
    trainable = [p.requires_grad for p, _ in others]
    for name, learned in weights.items():
        body.set_submodule(f"{name}.weight_quantizer", learned)
    for parameter, _ in others:
        parameter.requires_grad_(True)
    try:
        yield Learned(weights, others)
    finally:
        for name, learned in weights.items():
            body.set_submodule(f"{name}.weight_quantizer", learned.quantizer[0])
            learned.settle_(network.weight(name))
        for (parameter, _), before in zip(others, trainable, strict=True):
            parameter.requires_grad_(before)
            parameter.grad = None


def _others(
    network: QuantizedNetwork, block: Block, sizes: Mapping[str, float]
) -> Iterator[tuple[nn.Parameter, float]]:
    """Scales of activations, biases and norms' parameters of modules that are called in this block alone."""
    fixed = {spec.node for spec in network.graph.activations if spec.known_range is not None}
    everywhere, here = _calls(network.body.graph.nodes), _calls(block.nodes)
    learned = {id(network.weight(spec.name)) for spec in network.graph.layers}
    done: set[int] = set()
    for node in block.nodes:
        name = str(node.target)
        if node.op != "call_module" or everywhere[name] != here[name]:
            continue
        module = network.body.get_submodule(name)
        if isinstance(module, ActivationQuantizer):
            before = node.args[0]
            if module.enabled and isinstance(before, fx.Node) and before.name not in fixed and id(module) not in done:
                done.add(id(module))
                yield module.scale, float(module.scale.detach())
            continue
        for key in ("weight", "bias"):
            parameter = getattr(module, key, None)
            if isinstance(parameter, nn.Parameter) and id(parameter) not in learned | done:
                done.add(id(parameter))
                own = float(parameter.detach().square().mean().sqrt())
                yield parameter, own if key == "weight" else sizes.get(name, own)


def _calls(nodes: Iterable[fx.Node]) -> Counter[str]:
    return Counter(str(node.target) for node in nodes if node.op == "call_module")
