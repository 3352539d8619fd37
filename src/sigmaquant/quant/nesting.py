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

from dataclasses import dataclass

import torch
from torch import Tensor

from sigmaquant.numerics import SCALE_FLOOR, channel_view, round_to_codes_, weight_qmax
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


@dataclass(frozen=True)
class LevelGrid:
    """The levels of one plan's codes of a layer.

    Attributes:
        bits: of the codes.
        zero: whether the codes of 8 bits have their zero, because no plan narrows them.
    """

    bits: int
    zero: bool = False

    @property
    def highest(self) -> int:
        """The largest level."""
        return int(2**self.bits) - 1

    def nearest(self, ratio: Tensor) -> Tensor:
        """Levels, as floats, of weights in units of the scale."""
        if is_nested_midrise(self.bits):
            return ratio.add(weight_qmax(self.bits, midrise=True)).mul_(0.5).round_().clamp_(0, self.highest)
        codes = ratio.round().clamp_(-127, 127)
        if self.zero:
            return codes.add_(127)
        codes = torch.where(codes == 0, torch.where(ratio < 0, -1.0, 1.0), codes)
        return codes + 127 + (codes < 0)

    def codes(self, levels: Tensor) -> Tensor:
        """Codes, as floats, of levels as floats."""
        if is_nested_midrise(self.bits):
            return 2 * levels - weight_qmax(self.bits, midrise=True)
        if self.zero:
            return (levels - 127).clamp_(max=127)
        return (levels - 127 - (levels < 128).to(levels.dtype)).clamp_(-127, 127)


def dropped(levels: Tensor, planes: int) -> Tensor:
    """Levels, as floats, without so many of the least significant planes."""
    return levels if not planes else (levels / 2**planes).floor()


class _FakeQuantizeNested(torch.autograd.Function):
    """A weight at the most significant planes of a wider code: straight-through, with LSQ's gradient of the scale.

    The wider grid's scale decides the code and the plan's own what it stands for. Where both are the same, as for the
    widest plan, this is `sigmaquant.numerics.fake_quantize_weight`.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, weight: Tensor, scale: Tensor, wide_scale: Tensor, wide: LevelGrid, own: LevelGrid, axis: int
    ) -> Tensor:
        ratio = weight / channel_view(wide_scale, weight.dim(), axis)
        codes = own.codes(dropped(wide.nearest(ratio), wide.bits - own.bits))
        ctx.save_for_backward(ratio, codes)
        ctx.axis, ctx.same = axis, wide is own
        ctx.reach = weight_qmax(wide.bits, is_nested_midrise(wide.bits))
        ctx.qmax = weight_qmax(own.bits, is_nested_midrise(own.bits))
        return codes * channel_view(scale, weight.dim(), axis)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        ratio, codes = ctx.saved_tensors
        inside = ratio.abs() <= ctx.reach
        per_element = grad * (codes - ratio * inside) if ctx.same else grad * codes
        axes = [d for d in range(grad.dim()) if d != ctx.axis % grad.dim()]
        grad_scale = per_element.sum(axes) * (ctx.qmax * per_element.numel() / codes.shape[ctx.axis]) ** -0.5
        return grad * inside, grad_scale, None, None, None, None


def fake_quantize_nested(
    weight: Tensor, scale: Tensor, wide_scale: Tensor, wide: LevelGrid, own: LevelGrid, axis: int = 0
) -> Tensor:
    """The weight that a plan's planes of the widest plan's codes stand for, differentiable.

    Args:
        weight: float tensor.
        scale: [C] positive, the plan's own.
        wide_scale: [C] positive, the widest plan's; the very same tensor for that plan.
        wide: the widest plan's grid.
        own: the plan's grid; the very same object for the widest plan.
        axis: the channel axis.
    """
    result: Tensor = _FakeQuantizeNested.apply(  # type: ignore[no-untyped-call]
        weight, scale, wide_scale.detach(), wide, own, axis
    )
    return result
