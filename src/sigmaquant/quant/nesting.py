"""Nested codes: the b most significant bits of a wider code are a b-bit code on a grid of its own.

The *level* of a code is its place on the grid, counted from the lowest: an unsigned number of `bits` bits, which is
what bit planes hold. A narrower code has the level ``level >> planes dropped``.

On a mid-rise grid that is exact: ``2**k`` neighbouring levels have their mean where the narrower grid, with ``2**k``
times the step, has its level; and the sign flips that a negative BatchNorm makes are complements of the level, which
dropping planes commutes with. On a mid-tread grid neither holds: there is one level too few, and halves of cells
overlap. So nested weights are mid-rise up to 7 bits (AdaBits, Jin et al., CVPR 2020, finds the same). Mid-rise codes of
8 bits would not fit into int8; there the mid-tread codes -127..127 without their zero are the levels, which are half a
step of the 8 bits away from where mid-rise codes would be.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sigmaquant.numerics import SCALE_FLOOR, round_to_codes_, weight_qmax
from sigmaquant.plan import MIDRISE_LARGEST

_STRETCHES = torch.linspace(0.8, 1.6, 33)
"""Of a wider grid's step against the halved steps of the narrower one: rare large weights want a wider range."""


def is_nested_midrise(bits: int) -> bool:
    """Whether a nested weight of so many bits is mid-rise: all are but those of 8 bits."""
    return bits <= MIDRISE_LARGEST


def levels_of(codes: Tensor, bits: int) -> Tensor:
    """Levels, uint8, of nested codes; of 8 bits without a zero.

    Example:
        >>> levels_of(torch.tensor([-3, -1, 1, 3]), 2).tolist(), levels_of(torch.tensor([-127, -1, 1, 127]), 8).tolist()
        ([0, 1, 2, 3], [1, 127, 128, 254])
    """
    wide = codes.to(torch.int16)
    if is_nested_midrise(bits):
        return ((wide + weight_qmax(bits, midrise=True)) >> 1).to(torch.uint8)
    return (wide + 127 + (wide < 0)).to(torch.uint8)


def codes_of(levels: Tensor, bits: int) -> Tensor:
    """Inverse of `levels_of`: codes, int8."""
    wide = levels.to(torch.int16)
    if is_nested_midrise(bits):
        return (2 * wide - weight_qmax(bits, midrise=True)).to(torch.int8)
    return (wide - 127 - (wide < 128).to(torch.int16)).clamp_(-127, 127).to(torch.int8)


def narrowed(codes: Tensor, bits: int, fewer: int) -> Tensor:
    """The codes of `fewer` bits in codes of `bits` bits, int8: those of the most significant planes.

    Example:
        >>> narrowed(torch.tensor([-15, -3, 5, 15]), 4, 2).tolist()
        [-3, -1, 1, 3]
    """
    if fewer == bits:
        return codes.to(torch.int8)
    return codes_of(levels_of(codes, bits) >> (bits - fewer), fewer)


def cells(codes: Tensor, bits: int, wider: int) -> tuple[Tensor, Tensor]:
    """Smallest and largest codes of `wider` bits that have these codes of `bits` bits in them; int8 each.

    Example:
        >>> [side.tolist() for side in cells(torch.tensor([-1, 3]), 2, 4)]
        [[-7, 9], [-1, 15]]
    """
    if wider == bits:
        return codes.to(torch.int8), codes.to(torch.int8)
    planes = wider - bits
    lowest = levels_of(codes, bits).to(torch.int16) << planes
    return codes_of(lowest, wider), codes_of(lowest + (1 << planes) - 1, wider)


def nested_scales(weight: Tensor, codes: Tensor, scale: Tensor, bits: int, wider: int, axis: int = 0) -> Tensor:
    """Per-channel scales of `wider` bits that minimise the squared error of codes inside the cells of narrower ones.

    Args:
        weight: what is approximated.
        codes: of `bits` bits.
        scale: [C], theirs.
        bits: of the narrower codes.
        wider: at least as many.
        axis: the channel axis.

    Returns:
        [C] float32; where no plane is added, the same scales.
    """
    if wider == bits:
        return scale.detach().clone()
    low, high = (side.movedim(axis, 0).flatten(1).float() for side in cells(codes, bits, wider))
    rows = weight.detach().float().movedim(axis, 0).flatten(1)
    midrise = is_nested_midrise(wider)
    # codes of a mid-rise grid count half steps
    base = scale.detach().float() * ((1.0 if midrise else 2.0) / float(2 ** (wider - bits)))
    best, lowest = base, torch.full_like(base, torch.inf)
    for stretch in _STRETCHES.tolist():
        step = (base * stretch).clamp_min_(SCALE_FLOOR)
        inside = clamped_codes(rows / step[:, None], wider, low, high)
        error = (inside * step[:, None] - rows).square_().sum(1)
        better = error < lowest
        best, lowest = torch.where(better, step, best), torch.where(better, error, lowest)
    return best


def clamped_codes(ratio: Tensor, bits: int, low: Tensor, high: Tensor) -> Tensor:
    """The nearest codes of a nested grid between two codes, as floats; changes `ratio`."""
    midrise = is_nested_midrise(bits)
    inside: Tensor = torch.minimum(
        torch.maximum(round_to_codes_(ratio, weight_qmax(bits, midrise), midrise), low), high
    )
    return inside
