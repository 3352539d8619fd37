"""What calibration sees of an activation, and the range it concludes."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from sigmaquant.errors import DataError
from sigmaquant.quant.numerics import activation_range, affine_from_range


class Observer(Protocol):
    """Sees every activation during calibration, then gives the affine grid."""

    def __call__(self, x: Tensor) -> None:
        """See one batch."""

    def affine(self, bits: int) -> tuple[float, int]:
        """Scale and zero-point for a bitwidth."""


class MinMaxObserver:
    """The exact range seen."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.finite = True

    def __call__(self, x: Tensor) -> None:
        """See one batch."""
        low, high = torch.aminmax(x.detach())
        self.finite = self.finite and math.isfinite(low) and math.isfinite(high)
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))

    def affine(self, bits: int) -> tuple[float, int]:
        """Scale and zero-point that cover the range seen.

        Raises:
            DataError: nothing was seen, or NaN or infinite values.
        """
        if not self.finite:
            raise DataError(
                "calibration saw NaN or infinite activations. Check the calibration data and the model for them."
            )
        if self.low > self.high:
            raise DataError("calibration saw no activation. Give at least one batch of calibration data.")
        return affine_from_range(self.low, self.high, bits)


class MseObserver(MinMaxObserver):
    """The range that minimises the squared quantization error over a regular sample of the values seen.

    Below 8 bits, clipping rare large values pays. At 8 bits it does not: the squared error falls, but the large values
    matter more than their number says, so that the full range is kept.
    """

    samples_per_batch = 4096

    def __init__(self) -> None:
        super().__init__()
        self._samples: list[Tensor] = []

    def __call__(self, x: Tensor) -> None:
        """See one batch."""
        super().__call__(x)
        flat = x.detach().float().reshape(-1)
        # A stride that shares no factor with the usual power-of-two shapes visits all channels and positions.
        stride = max(1, flat.numel() // self.samples_per_batch) | 1
        self._samples.append(flat[::stride].clone())

    def affine(self, bits: int) -> tuple[float, int]:
        """Scale and zero-point of the least error among clipped ranges.

        Raises:
            DataError: nothing was seen, or NaN or infinite values.
        """
        best = super().affine(bits)
        if bits >= 8:
            return best
        values = torch.cat(self._samples)
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        qmin, qmax = activation_range(bits)
        lowest = math.inf
        for ratio in torch.linspace(1.0, 0.3, 15).tolist():
            scale, zero_point = affine_from_range(low * ratio, high * ratio, bits)
            codes = (values / scale).round_().add_(zero_point).clamp_(qmin, qmax).sub_(zero_point)
            error = float(codes.mul_(scale).sub_(values).square_().mean())
            if error < lowest:
                lowest, best = error, (scale, zero_point)
        return best
