"""An `IntegerModel` as LiteRT computes it: the containers' biases, its kernels' rounding, its operators.

LiteRT has weights of 2, 4 and 8 bits. Codes go into the narrowest type that holds their range and whose kernel is exact
and fast; the range decides, not the bitwidth: on a mid-rise grid b bits reach ``2**b - 1``.

The runtime's default kernels (XNNPACK) take products of matrices, 1x1 convolutions among them, at 2, 4 and 8 bits, and
every other convolution at 8 bits only. Those of 4 bits fall to a slower kernel that rounds twice. Grouped and depthwise
convolutions stay at 8 bits: theirs at 4 bits were measured 5 to 13 times slower, for few weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigmaquant.lowering.executor import IntegerExecutor, compute
from sigmaquant.lowering.fixed_point import Factor, factor
from sigmaquant.lowering.model import Affine, Convolution, IntegerModel, Linear, Operator, Sum, Weighted
from sigmaquant.quant.numerics import weight_qmax

_QMAX = {2: 1, 4: 7, 8: 127}
_SUM_BITS = 21


def container_bits(operator: Weighted, pack: bool) -> int:
    """Bits of the type that a layer's weights are stored in: 2, 4 or 8."""
    fitting = [bits for bits, qmax in _QMAX.items() if weight_qmax(operator.bits, operator.midrise) <= qmax]
    if not pack:
        return 8
    if is_matrix_product(operator):  # their kernel wants rows of whole bytes
        return next(bits for bits in fitting if operator.codes.shape[1] % (8 // bits) == 0)
    dense = isinstance(operator, Convolution) and operator.groups == 1
    return 4 if dense and 4 in fitting else 8


def is_matrix_product(operator: Weighted) -> bool:
    """Whether the layer is the same matrix at every place: a linear layer, or a 1x1 convolution without padding."""
    if not isinstance(operator, Convolution):
        return True
    plain = operator.groups == 1 and not operator.transposed and not np.any(operator.padding)
    return plain and all(size == 1 for size in operator.codes.shape[2:])


def litert_form(model: IntegerModel, pack: bool = True) -> IntegerModel:
    """The model whose executor gives what the file gives in LiteRT's default runtime.

    Weights have the gain that their container holds, at most lowering's, and biases the unit that follows; sums,
    channel-wise maps and the layers whose kernel rounds twice are computed as the runtime does. What is left is a step
    where float32, in which the runtime applies factors, cannot tell a value from a tie: measured in none of the values
    of most operators, and in at most 2 of 1,000.

    Args:
        model: as `lower` gives it.
        pack: as for `export_litert`.
    """

    def formed(operator: Operator) -> Operator:
        if isinstance(operator, Convolution | Linear):
            return _layer(operator, model, pack)
        if isinstance(operator, Affine):
            return _taps(operator, model)
        return _sum(operator, model) if isinstance(operator, Sum) else operator

    return replace(model, operators=tuple(map(formed, model.operators)))


def _layer(operator: Convolution | Linear, model: IntegerModel, pack: bool) -> Operator:
    bits = container_bits(operator, pack)
    room = _QMAX[bits] // weight_qmax(operator.bits, operator.midrise)
    gain = min(operator.gain, 1 << (room.bit_length() - 1))
    source, target = model.edges[operator.inputs[0]], model.edges[operator.output]
    unit = source.scale * operator.scale.astype(np.float64) / gain
    real = factor(unit / target.scale, f"layer {operator.layer!r}")
    if bits == 4 and not is_matrix_product(operator):
        real = RoundedTwice(real.mantissa, real.shift)
    bias = np.rint(operator.bias * (gain / operator.gain)).astype(np.int32)
    return replace(operator, gain=gain, bias=bias, factor=real)


@dataclass(frozen=True)
class RoundedTwice(Factor):
    """Factors as LiteRT's own matrix kernels apply them: the product is rounded to an integer before it is shifted."""

    def apply_(self, accumulator: Tensor, axis: int) -> Tensor:
        """Rounded products in place of an int64 tensor; `axis` is the channel axis."""
        view = [1] * accumulator.dim()
        view[axis] = -1
        mantissa, exponent = torch.from_numpy(self.mantissa).view(view), 31 - torch.from_numpy(self.shift).view(view)
        left, right = exponent.clamp(min=0), (-exponent).clamp(min=0)
        accumulator.bitwise_left_shift_(left).mul_(mantissa).add_(1 << 30).bitwise_right_shift_(31)
        return accumulator.add_((torch.ones_like(right) << right) >> 1).bitwise_right_shift_(right)


def _sum(operator: Sum, model: IntegerModel) -> Sum:
    """Two edges added or subtracted, with the runtime's multipliers: they have one bit more than lowering's."""
    signs = unit_signs(operator, model)
    if len(operator.inputs) != 2 or operator.offset or signs is None:
        return operator
    output = np.float32(model.edges[operator.output].scale)
    ratios = [float(np.float32(model.edges[name].scale) / output) for name in operator.inputs]
    shift = _SUM_BITS - math.frexp(max(ratios))[1]
    if not 1 <= shift <= 30:
        return operator
    multipliers = tuple(sign * round(ratio * 2.0**shift) for sign, ratio in zip(signs, ratios, strict=True))
    return replace(operator, multipliers=multipliers, shift=shift)


def unit_signs(operator: Sum, model: IntegerModel) -> list[int] | None:
    """The signs of a sum whose terms have no factors; None for any other."""
    step = 2.0**operator.shift / model.edges[operator.output].scale
    signs = [1 if multiplier > 0 else -1 for multiplier in operator.multipliers]
    units = (sign * model.edges[name].scale * step for sign, name in zip(signs, operator.inputs, strict=True))
    near = all(abs(m - unit) <= 1 for m, unit in zip(operator.multipliers, units, strict=True))
    return signs if near else None


@dataclass(frozen=True)
class Taps(Operator):
    """A channel-wise map as a depthwise convolution with one tap: ``clamp(z + factor * (code * (x - z_x) + bias))``.

    Attributes:
        codes: int8 [C].
        scale: float32 [C], of the codes.
        bias: int32 [C], in units of input scale x `scale`.
        factor: input scale x `scale` / output scale, [C].
        low: smallest output code.
        high: largest output code.
    """

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.int32]
    factor: Factor
    low: int
    high: int


def _taps(operator: Affine, model: IntegerModel) -> Taps:
    """Of the codes that stand for a channel's factor, the one with which its offset is nearest to a whole number."""
    source, target = model.edges[operator.inputs[0]], model.edges[operator.output]
    steps = 2.0 ** -operator.shift.astype(np.float64)
    slope, offset = operator.multiplier * steps, operator.offset * steps  # in steps of the output
    # Where the offset dwarfs the slope, the unit comes from the offset, which int32 must hold.
    units = np.maximum(np.abs(slope) / np.arange(64, 128)[:, None], np.maximum(np.abs(offset) * 2.0**-30, 2.0**-40))
    errors = np.abs(offset / units - np.rint(offset / units)) * units
    unit = np.take_along_axis(units, errors.argmin(0)[None], 0)[0]
    scale = (unit * target.scale / source.scale).astype(np.float32)
    unit = scale.astype(np.float64) * source.scale / target.scale
    codes, bias = np.rint(slope / unit).astype(np.int8), np.rint(offset / unit).astype(np.int32)
    real = factor(unit, operator.name)
    return Taps(operator.name, operator.inputs, operator.output, codes, scale, bias, real, operator.low, operator.high)


@compute.register
def _(operator: Taps, executor: IntegerExecutor, codes: Tensor) -> Tensor:
    source, target = executor.model.edges[operator.inputs[0]], executor.model.edges[operator.output]
    view = (-1, *[1] * (codes.dim() - 2))
    x = codes.to(torch.int64).sub_(source.zero_point)
    x.mul_(torch.from_numpy(operator.codes).view(view)).add_(torch.from_numpy(operator.bias).view(view))
    relative = operator.factor.apply_(x, 1)
    return relative.add_(target.zero_point).clamp_(operator.low, operator.high).to(torch.int8)
