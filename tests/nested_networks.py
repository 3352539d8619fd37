"""Networks whose codes are nested, made without data to judge them by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sigmaquant.graph import trace
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import QuantizedNetwork, calibrate_, prepare, set_plan_
from sigmaquant.quant.nested import are_nested
from sigmaquant.quant.nesting import codes_of, levels_of, narrowed


def nested(model: nn.Module, images: Tensor, widths: Sequence[Sequence[int]]) -> dict[str, QuantizedNetwork]:
    """A network for every plan; `widths` are bitwidths by layer, over and over, the largest plan first."""
    graph = trace(model, (images[:2],))
    networks: dict[str, QuantizedNetwork] = {}
    largest: QuantizedNetwork | None = None
    for number, own in enumerate(widths):
        bits = {name: own[i % len(own)] for i, name in enumerate(graph.layer)}
        plan = BitwidthPlan(bits, dict.fromkeys(graph.activation_names, 8), graph.fingerprint, 7)
        network = prepare(graph)
        set_plan_(network, plan)
        with torch.no_grad():
            for name, quantizer in network.weight_quantizers.items():
                codes = network.codes(name)
                if largest is None and bits[name] == 8:
                    codes = codes_of(levels_of(codes, 8), 8)  # without a zero
                if largest is not None:
                    assert largest.plan is not None
                    codes = narrowed(largest.codes(name), largest.plan.weights[name], bits[name])
                quantizer.scale.mul_(1 + 0.05 * number)
                shape = [1] * codes.dim()
                shape[quantizer.axis] = -1
                network.weight(name).copy_(codes.float() * quantizer.scale.view(shape))
        calibrate_(network, [images])
        networks[f"{number}x"] = network.eval()
        largest = largest or network
    are_nested(list(networks.values()))
    return networks
