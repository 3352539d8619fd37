"""What calibration sees of an activation, and the range it concludes."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from sigmaquant.errors import DataError
from sigmaquant.numerics import activation_range, affine_from_range


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


class ExampleObserver(MinMaxObserver):
    """The range that minimises the mean over the examples of the logarithm of each one's squared quantization error.

    The squared error of all values together is that of the few examples with the largest ones; a range that suits them
    is wide for all others, and one example that is not like the data (an image that was not divided by 255) decides
    alone. In the logarithm every example counts by its own relative gain or loss. Each example has a part of its values
    and its extremes in the sum. With fewer than `least_examples` the full range is kept.
    """

    samples_per_example = 254
    most_examples = 256
    least_examples = 8

    def __init__(self) -> None:
        super().__init__()
        self._samples: list[Tensor] = []  # [examples, values], the last two are the extremes
        self._weights = torch.ones(0)

    def __call__(self, x: Tensor) -> None:
        """See one batch, examples first."""
        super().__call__(x)
        left = self.most_examples - sum(len(part) for part in self._samples)
        if left <= 0 or x.dim() == 0:
            return
        rows = x.detach()[:left].float().reshape(min(left, len(x)), -1)
        if not rows.shape[1]:
            return
        # A stride that shares no factor with the usual power-of-two shapes visits all channels and positions.
        stride = max(1, rows.shape[1] // self.samples_per_example) | 1
        part = rows[:, ::stride]
        ends = torch.stack(torch.aminmax(rows, dim=1), dim=1)
        weights = torch.full((part.shape[1] + 2,), rows.shape[1] / part.shape[1])
        weights[-2:] = 1.0  # an extreme is one value, each of the sample stands for many
        if self._samples and self._samples[0].shape[1] != part.shape[1] + 2:
            return  # a shape of its own: the first one decides
        self._samples.append(torch.cat([part, ends], 1))
        self._weights = weights.to(part.device) / weights.sum()

    def affine(self, bits: int) -> tuple[float, int]:
        """Scale and zero-point of the least error among the ranges that examples have, and parts of these.

        Raises:
            DataError: nothing was seen, or NaN or infinite values.
        """
        best = super().affine(bits)
        values = torch.cat(self._samples) if self._samples else torch.zeros(0, 2)
        if len(values) < self.least_examples:
            return best
        low, high = values[:, -2].clamp(max=0).sort().values, values[:, -1].clamp(min=0).sort().values
        lowest, buffer = math.inf, torch.empty_like(values)
        tried: set[tuple[float, int]] = set()
        for share in _SHARES:
            at = round(share * (len(values) - 1))
            for ratio in _RATIOS:
                grid = affine_from_range(float(low[-1 - at]) * ratio, float(high[at]) * ratio, bits)
                if grid in tried:
                    continue
                tried.add(grid)
                error = self._error(values, grid, bits, buffer)
                if error < lowest:
                    lowest, best = error, grid
        return best

    def _error(self, values: Tensor, grid: tuple[float, int], bits: int, buffer: Tensor) -> float:
        scale, zero_point = grid
        qmin, qmax = activation_range(bits)
        codes = torch.div(values, scale, out=buffer).round_().clamp_(qmin - zero_point, qmax - zero_point)
        squared = codes.mul_(scale).sub_(values).square_() @ self._weights
        power = values.square() @ self._weights
        # An example that is nearly exact on one grid by chance, such as one of zeros, is to decide nothing.
        return float((squared + 1e-6 * power + 1e-30).log().mean())


_SHARES = (1.0, 0.97, 0.9, 0.75, 0.5)
_RATIOS = (1.0, 0.85, 0.7, 0.55, 0.4)
