"""Learning rates for weights of any size: the unit of inputs or outputs is nobody's choice of a rate.

Where outputs are given in units a hundred times as large, the last layer's weights are a hundredth, their gradient a
hundred times as large: one step of gradient descent moves them ten thousand times as far, relative to themselves. A
step whose rate goes with the square of the weights' size does not depend on the unit. The size that rates are meant for
is that of He's initialisation; weights within a factor of `_USUAL` of it, as nearly all are, keep their rate.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sigmaquant.quant import QuantizedNetwork
from sigmaquant.quant.modules import ActivationQuantizer

_USUAL = 8.0
_ACTIVATIONS = 4.0
"""Magnitude that activations usually reach."""


@torch.no_grad()
def rate_factors(network: QuantizedNetwork) -> dict[nn.Parameter, float]:
    """Factor of the learning rate of each parameter that is not of the usual size; all others have 1.

    A layer's bias is of its outputs' size, which large weights do not tell: small inputs may be behind them. So it
    follows its weight downwards only.
    """
    factors: dict[nn.Parameter, float] = {}
    for spec in network.graph.layers:
        layer = network.body.get_submodule(spec.name)
        weight = network.weight(spec.name)
        fan_in = max(1, weight.numel() // max(1, spec.channels))
        size = float(weight.float().square().mean().sqrt()) / math.sqrt(2 / fan_in)
        factor = _factor(size)
        factors[weight] = factors[network.weight_quantizers[spec.name].scale] = factor  # type: ignore[index]
        bias = getattr(layer, "bias", None)
        if isinstance(bias, nn.Parameter):
            factors[bias] = min(1.0, factor)
    for quantizer in network.body.modules():
        if isinstance(quantizer, ActivationQuantizer) and quantizer.enabled:
            reach = float(quantizer.scale) * 2 ** (quantizer.bits - 1)
            factors[quantizer.scale] = _factor(reach / _ACTIVATIONS)
    return {parameter: factor for parameter, factor in factors.items() if factor != 1}


def _factor(size: float) -> float:
    return 1.0 if 1 / _USUAL <= size <= _USUAL or size == 0 else size * size


@torch.no_grad()
def clip_and_scale_(parameters: list[nn.Parameter], factors: dict[nn.Parameter, float], largest: float) -> Tensor:
    """Clip the gradients' norm in units of the usual size, then give each its own rate; returns the norm before.

    Without factors that is `torch.nn.utils.clip_grad_norm_`.
    """
    scaled = [(p.grad, factors[p]) for p in parameters if p in factors and p.grad is not None]
    for gradient, factor in scaled:
        gradient.mul_(math.sqrt(factor))
    norm: Tensor = nn.utils.clip_grad_norm_(parameters, largest)
    for gradient, factor in scaled:
        gradient.mul_(math.sqrt(factor))
    return norm
