"""Real factors as integers: what replaces floating point between two integer tensors.

A `Factor` is ``mantissa * 2**-shift`` with a mantissa below 2**31, applied to an int32 accumulator in 64 bits and
rounded half up: ``(accumulator * mantissa + 2**(shift - 1)) >> shift`` with an arithmetic shift. This is the scheme of
Jacob et al. (CVPR 2018, arXiv 1712.05877) with one rounding instead of two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigmaquant.errors import LoweringError

MANTISSA_BITS = 31
_LARGEST_SHIFT = 62


@dataclass(frozen=True)
class Factor:
    """Non-negative real factors, one for a tensor or one for each channel.

    Attributes:
        mantissa: int64 [C], in ``0..2**31 - 1``.
        shift: int64 [C], in 1..62.
    """

    mantissa: NDArray[np.int64]
    shift: NDArray[np.int64]

    def apply_(self, accumulator: Tensor, axis: int) -> Tensor:
        """Rounded products in place of an int64 tensor; `axis` is the channel axis."""
        view = [1] * accumulator.dim()
        view[axis] = -1
        mantissa, shift = torch.from_numpy(self.mantissa).view(view), torch.from_numpy(self.shift).view(view)
        return accumulator.mul_(mantissa).add_(torch.ones_like(shift) << (shift - 1)).bitwise_right_shift_(shift)

    @property
    def value(self) -> NDArray[np.float64]:
        """The factors as floats."""
        result: NDArray[np.float64] = self.mantissa * 2.0**-self.shift
        return result


def factor(real: NDArray[np.float64] | float, where: str) -> Factor:
    """The nearest factors; what is too small to move an int32 accumulator becomes zero.

    Raises:
        LoweringError: a factor that is negative, not finite, or 2**30 and more.

    Example:
        >>> found = factor(np.array([0.75, 1e-30]), "here")
        >>> found.value.tolist(), bool(found.mantissa[0] == 3 * 2**29)
        ([0.75, 0.0], True)
    """
    values = np.atleast_1d(np.asarray(real, dtype=np.float64))
    if not np.isfinite(values).all() or (values < 0).any() or (values >= 2.0**30).any():
        raise LoweringError(
            f"{where}: the ratio of its scales, {float(values.max()):.3g}, is no factor that integers can apply "
            "(0 to 2**30). Its output's range is probably degenerate: calibrate on data like those of use."
        )
    fraction, exponent = np.frexp(values)  # values = fraction * 2**exponent, fraction in [0.5, 1)
    mantissa = np.rint(fraction * 2.0**MANTISSA_BITS).astype(np.int64)
    carried = mantissa == 2**MANTISSA_BITS
    mantissa, exponent = np.where(carried, mantissa >> 1, mantissa), exponent + carried
    shift = MANTISSA_BITS - exponent.astype(np.int64)
    vanishing = (shift > _LARGEST_SHIFT) | (mantissa == 0)
    return Factor(np.where(vanishing, 0, mantissa), np.where(vanishing, 1, shift))


def common_multipliers(reals: list[float], offset: float, bits: int, where: str) -> tuple[list[int], int, int]:
    """Integers for ``sum reals[k] * x_k + offset`` under one shift, such that everything fits into 32 bits.

    Args:
        reals: factors of integers below 2**8; may be negative.
        offset: a constant; below ``2**29`` after the shift.
        bits: each multiplier is at most ``2**bits``; 21 for one factor, 20 for two.
        where: for the error.

    Returns:
        multipliers, offset, and the shift, 1..30.

    Raises:
        LoweringError: a number that is not finite or too large.

    Example:
        >>> common_multipliers([0.5, 0.25], 1.0, 8, "here")
        ([128, 64], 256, 8)
    """
    shift = 0
    if all(map(math.isfinite, [*reals, offset])):
        room = bits - max(math.frexp(real)[1] for real in reals)
        shift = min(30, room, 29 - math.frexp(offset)[1])
    if shift < 1:
        shown = ", ".join(f"{real:.3g}" for real in reals)
        raise LoweringError(
            f"{where}: the ratios of its scales ({shown}; offset {offset:.3g}) are no factors that integers can apply. "
            "Its output's range is probably degenerate: calibrate on data like those of use."
        )
    return [round(real * 2**shift) for real in reals], round(offset * 2**shift), shift


def broadcast_multipliers(
    factor: NDArray[np.float64], offset: NDArray[np.float64], rank: int, where: str
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """`common_multipliers` of 21 bits for each factor and offset: multipliers, offsets and shifts.

    Args:
        factor: real factors; broadcast against `offset`.
        offset: real offsets, in the same units.
        rank: axes of the results, ones before those that are given.
        where: for the error.

    Raises:
        LoweringError: a number that is not finite or too large.
    """
    shape = np.broadcast_shapes(factor.shape, offset.shape)
    pairs = zip(*(np.broadcast_to(v, shape).ravel().tolist() for v in (factor, offset)), strict=True)
    rows = [common_multipliers([real], constant, 21, where) for real, constant in pairs]
    whole = (1,) * (rank - len(shape)) + shape
    return (
        np.array([multipliers[0] for multipliers, _, _ in rows], dtype=np.int32).reshape(whole),
        np.array([constant for _, constant, _ in rows], dtype=np.int32).reshape(whole),
        np.array([shift for _, _, shift in rows], dtype=np.int64).reshape(whole),
    )
