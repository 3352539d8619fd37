"""Several plans from one set of weights: rounded together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sigmaquant.numerics import mse_weight_scales, quantize_weight
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant.nested import are_nested, check_nested
from sigmaquant.quant.nested_rounding import fitted_scales, round_together
from sigmaquant.quant.nesting import is_nested_midrise, nested_scales
from sigmaquant.training.student import Student


@torch.no_grad()
def round_nested_(students: Sequence[Student], plans: Sequence[BitwidthPlan], compensated: bool = True) -> None:
    """Put untrained students at their plans, with codes that are nested.

    Every plan has scales, BatchNorm statistics and activation ranges of its own.

    Args:
        students: of the same float network, one for each plan.
        plans: from the largest to the smallest.
        compensated: error-compensated rounding; False: nearest.

    Raises:
        PlanError: the plans are not nested.
    """
    check_nested(plans)
    moments: list[dict[str, Tensor]] = []
    for student, plan in zip(students, plans, strict=True):
        student.calibrate_like_(students[0])
        student.apply(plan)
        moments.append(student.input_moments() if compensated else {})
    networks = [student.network for student in students]
    for spec in networks[0].graph.layers:
        name, axis = spec.name, spec.channel_axis
        weight = networks[0].weight(name).detach().clone()
        bits = [plan.weights[name] for plan in plans]
        known = [found.get(name) for found in moments]
        scales = _scales(weight, bits, axis)
        first = known[0]
        groups = 1 if first is None else len(first)
        flat = weight.float().movedim(axis, 0)
        rows = flat.reshape(groups, flat.shape[0] // groups, -1)
        seen = [_identity(rows) if moment is None else moment for moment in known]
        shaped = [scale.reshape(groups, -1) for scale in scales]
        codes = round_together(rows, shaped, seen, bits)
        for network, own, moment, scale in zip(networks, codes, seen, shaped, strict=True):
            fitted = fitted_scales(rows, own, moment, scale)
            network.weight_quantizers[name].scale.copy_(fitted.reshape(-1))
            network.weight(name).copy_((own * fitted[:, :, None]).reshape(flat.shape).movedim(0, axis))
    for student in students:
        student.recalibrate()
    are_nested(networks)


def _scales(weight: Tensor, bits: Sequence[int], axis: int) -> list[Tensor]:
    """Scales of every plan: the narrowest as if it were alone, each wider one inside its cells."""
    narrow = is_nested_midrise(bits[-1])
    found = [mse_weight_scales(weight, bits[-1], axis, midrise=narrow)]
    codes = quantize_weight(weight, found[0], bits[-1], axis, narrow)
    for wider in reversed(bits[:-1]):
        found.insert(0, nested_scales(weight, codes, found[-1], bits[-1], wider, axis))
    return found


def _identity(rows: Tensor) -> Tensor:
    return torch.eye(rows.shape[2], dtype=rows.dtype, device=rows.device).expand(len(rows), -1, -1)
