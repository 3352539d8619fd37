"""Rounding a weight for several plans at once: one code, of which each plan reads its most significant planes.

Error-compensated rounding (see `sigmaquant.quant.rounding`) keeps, for every plan, what the weights that are not yet
rounded should become for it. One code serves all plans, so each weight takes the code whose planes are best for their
sum of squared errors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sigmaquant.numerics import SCALE_FLOOR
from sigmaquant.quant.nesting import LevelGrid, dropped
from sigmaquant.quant.rounding import BLOCK, DAMPING, feedback


def round_together(
    rows: Tensor, scales: Sequence[Tensor], moments: Sequence[Tensor], bits: Sequence[int], block: int = BLOCK
) -> list[Tensor]:
    """Nested codes of a layer's weights.

    Args:
        rows: float weights [groups, rows, K].
        scales: of every plan, the widest first, [groups, rows] each.
        moments: second moments [groups, K, K] of the inputs that each plan has.
        bits: of each plan; not ascending.
        block: columns of a block.

    Returns:
        codes of every plan, floats [groups, rows, K].
    """
    grids = [LevelGrid(b, zero=bits[0] == bits[-1]) for b in bits]
    powers = [moment.diagonal(dim1=1, dim2=2) for moment in moments]
    power = torch.stack([p / p.mean().clamp_min(1e-30) for p in powers]).sum(0)
    order = power.argsort(dim=1, descending=True, stable=True)
    shares = [feedback(moment, order, DAMPING * p.mean(1)) for moment, p in zip(moments, powers, strict=True)]
    columns = order[:, None].expand_as(rows)
    left = [rows.gather(2, columns) for _ in bits]
    chosen = torch.empty_like(left[0])
    for start in range(0, rows.shape[2], block):
        part, later = slice(start, start + block), slice(start + block, None)
        present = [side[:, :, part].permute(2, 0, 1).contiguous() for side in left]
        float_ = rows.gather(2, columns[:, :, part]).permute(2, 0, 1)
        errors = [float_.clone(memory_format=torch.contiguous_format) for _ in bits]
        inner = [share[:, part, part].permute(1, 2, 0).contiguous() for share in shares]
        for i in range(len(present[0])):
            levels = _best([side[i] for side in present], scales, grids)
            chosen[:, :, start + i] = levels
            for k, side in enumerate(present):
                value = grids[k].codes(dropped(levels, bits[0] - bits[k])) * scales[k]
                errors[k][i].sub_(value)
                side[i + 1 :].addcmul_(inner[k][i, i + 1 :, :, None], errors[k][i])
        for k, side in enumerate(left):
            side[:, :, later].baddbmm_(errors[k].permute(1, 2, 0), shares[k][:, part, later])
    levels = torch.empty_like(rows).scatter_(2, columns, chosen)
    return [grid.codes(dropped(levels, bits[0] - grid.bits)) for grid in grids]


def _best(targets: Sequence[Tensor], scales: Sequence[Tensor], grids: Sequence[LevelGrid]) -> Tensor:
    """Of the widest grid the levels that suit all plans best.

    Candidates are, for each plan, its nearest level and the two beside it, with the planes that come on top chosen for
    the wider plans one after the other.
    """
    ratios = [target / scale for target, scale in zip(targets, scales, strict=True)]
    nearest = [grid.nearest(ratio) for grid, ratio in zip(grids, ratios, strict=True)]
    best, lowest = nearest[0], torch.full_like(nearest[0], torch.inf)
    for k, grid in enumerate(grids):
        for beside in (0, -1, 1):
            level = (nearest[k] + beside).clamp_(0, grid.highest)
            for j in reversed(range(k)):
                planes = grids[j].bits - grids[j + 1].bits
                low = level * 2**planes
                level = torch.minimum(torch.maximum(nearest[j], low), low + (2**planes - 1))
            cost = torch.zeros_like(level)
            for own, target, scale in zip(grids, targets, scales, strict=True):
                value = own.codes(dropped(level, grids[0].bits - own.bits)) * scale
                cost += (value - target).square_()
            better = cost < lowest
            best, lowest = torch.where(better, level, best), torch.where(better, cost, lowest)
    return best


def fitted_scales(rows: Tensor, codes: Tensor, moment: Tensor, scale: Tensor) -> Tensor:
    """Scales [groups, rows] at which codes change a layer's outputs least; the given ones where there are none.

    Args:
        rows: float weights [groups, rows, K].
        codes: [groups, rows, K].
        moment: [groups, K, K], of the inputs.
        scale: what there is.
    """
    seen = codes @ moment
    found = (seen * rows).sum(2) / (seen * codes).sum(2)
    sound = found.isfinite() & (found > 0.5 * scale) & (found < 2 * scale)
    return torch.where(sound, found, scale).clamp_min(SCALE_FLOOR)
