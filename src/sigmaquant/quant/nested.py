"""Whether plans and networks nest: every one a mask over the bit planes of the one before it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from sigmaquant.errors import PlanError
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant.nesting import is_nested_midrise, narrowed
from sigmaquant.quant.network import QuantizedNetwork


def check_nested(plans: Sequence[BitwidthPlan]) -> None:
    """Raise unless every plan is a mask over the planes of the one before it.

    Raises:
        PlanError: a layer is wider than in the plan before, or the grids do not nest.
    """
    for wide, narrow in pairwise(plans):
        for name, bits in narrow.weights.items():
            if bits > wide.weights[name]:
                raise PlanError(
                    f"layer {name!r} has {bits} bits in a plan and {wide.weights[name]} in the one before it. Order "
                    "the plans from the largest to the smallest; no layer may grow."
                )
            for plan in (wide, narrow):
                if plan.is_midrise(name) != is_nested_midrise(plan.weights[name]):
                    raise PlanError(
                        f"layer {name!r} has {plan.weights[name]} bits on a grid that does not nest: plans with nested "
                        "codes have midrise_up_to=7."
                    )


def are_nested(networks: Sequence[QuantizedNetwork]) -> None:
    """Raise unless every network's codes are the most significant planes of those before it.

    Raises:
        PlanError: they are not; names the layer.
    """
    for wide, narrow in pairwise(networks):
        assert wide.plan is not None, "quantized"
        assert narrow.plan is not None, "quantized"
        for name in wide.graph.layer:
            bits = wide.plan.weights[name], narrow.plan.weights[name]
            if not torch.equal(narrowed(wide.codes(name), *bits), narrow.codes(name)):
                raise PlanError(f"the codes of layer {name!r} at {bits[1]} bits are not in those of {bits[0]} bits.")


def link_(networks: Sequence[QuantizedNetwork]) -> None:
    """Let networks with nested codes share their weights, so that training one trains the planes of all.

    Everything with two or more dimensions is shared; scales, biases, BatchNorm and activation grids are each one's own.

    Args:
        networks: from the largest plan to the smallest, of one float network.
    """
    first = networks[0]
    own = dict(first.body.named_parameters(remove_duplicate=False))
    for network in networks[1:]:
        for name, parameter in list(network.body.named_parameters(remove_duplicate=False)):
            if parameter.dim() > 1:
                owner, _, key = name.rpartition(".")
                setattr(network.body.get_submodule(owner), key, own[name])
    for name, widest in first.weight_quantizers.items():
        quantizers = [network.weight_quantizers[name] for network in networks]
        narrowed_by_one = any(quantizer.bits != widest.bits for quantizer in quantizers)
        for quantizer in quantizers:
            quantizer.widest, quantizer.narrowed = (widest,), narrowed_by_one


@torch.no_grad()
def unlink_(networks: Sequence[QuantizedNetwork]) -> None:
    """Give every network weights of its own again, which lie where its codes are."""
    values = [
        {name: quantizer(network.weight(name)) for name, quantizer in network.weight_quantizers.items()}
        for network in networks
    ]
    for network, own in zip(networks, values, strict=True):
        taken: dict[int, torch.nn.Parameter] = {}
        for name, parameter in list(network.body.named_parameters(remove_duplicate=False)):
            if parameter.dim() > 1:
                owner, _, key = name.rpartition(".")
                copy = taken.setdefault(id(parameter), torch.nn.Parameter(parameter.detach().clone()))
                setattr(network.body.get_submodule(owner), key, copy)
        for name, quantizer in network.weight_quantizers.items():
            quantizer.widest, quantizer.narrowed = (), False
            network.weight(name).copy_(own[name])
