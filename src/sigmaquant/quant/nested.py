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
