"""Small networks at a plan, calibrated, for the tests of lowering."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sigmaquant.graph import trace
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import QuantizedNetwork, calibrate_, prepare, set_plan_


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantized(
    model: nn.Module, *shape: int, bits: int = 8, activation_bits: int = 8, midrise_up_to: int = 2, seed: int = 0
) -> QuantizedNetwork:
    """The model with random weights, BatchNorms away from their starting values, calibrated on noise."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.weight)  # negative ones too
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    network = prepare(trace(model.eval(), (noise(2, *shape),)))
    graph = network.graph
    plan = BitwidthPlan(
        dict.fromkeys(graph.layer, bits), dict.fromkeys(graph.activation_names, activation_bits), "", midrise_up_to
    )
    set_plan_(network, plan)
    calibrate_(network, [noise(16, *shape, seed=1)])
    return network.eval()
