"""Mean, variance and largest magnitude of every channel of a weight, streamed in pieces that stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sigmaquant.errors import ModelError

# Pieces of two megabytes stay in a processor's cache between the passes over them; a GPU wants long kernels instead.
_CHUNK_ELEMENTS = {"cpu": 1 << 19}
_CHUNK_ELEMENTS_ELSEWHERE = 1 << 24


@dataclass(frozen=True)
class ChannelMoments:
    """Moments of C channels with the same number of weights each.

    Attributes:
        count: weights per channel.
        mean: [C] float64.
        variance: [C] float64, about the channel's own mean, divided by `count`.
    """

    count: int
    mean: Tensor
    variance: Tensor

    def std(self, factors: Tensor | None = None) -> float:
        """Standard deviation of all weights together, each channel multiplied by its factor.

        Args:
            factors: [C], or None for ones.
        """
        mean, variance = self.mean, self.variance
        if factors is not None:
            factors = factors.to(mean)
            mean, variance = mean * factors, variance * factors.square()
        return float((variance.mean() + mean.var(correction=0)).sqrt())


def channel_chunks(weight: Tensor, axis: int) -> Iterator[tuple[slice, Tensor]]:
    """The weight as rows, a few channels at a time; nothing is copied when `axis` is 0 and the weight is float32.

    Args:
        weight: any floating-point tensor with at least one element.
        axis: the channel axis.

    Yields:
        The channels' slice and their weights: [channels of the piece, weights per channel] float32.

    Raises:
        ModelError: the weight has no elements.
    """
    weight = weight.detach()
    if weight.numel() == 0:
        raise ModelError(f"a weight of shape {tuple(weight.shape)} has no elements. Remove the layer.")
    channels = weight.shape[axis]
    step = _chunk_channels(weight, axis)
    for start in range(0, channels, step):
        stop = min(start + step, channels)
        part = weight.narrow(axis, start, stop - start).movedim(axis, 0)
        yield slice(start, stop), part.reshape(stop - start, -1).float()


def _chunk_channels(weight: Tensor, axis: int) -> int:
    budget = _CHUNK_ELEMENTS.get(weight.device.type, _CHUNK_ELEMENTS_ELSEWHERE)
    channels = weight.shape[axis]
    return min(channels, max(1, budget * channels // weight.numel()))


def channel_moments(weight: Tensor, axis: int = 0) -> ChannelMoments:
    """Moments of every channel in one pass over memory.

    Raises:
        ModelError: the weight contains NaN or infinity.

    Example:
        >>> moments = channel_moments(torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 2.0, 2.0, 2.0]]))
        >>> moments.mean.tolist(), moments.variance.tolist()
        ([2.0, 2.0], [1.0, 0.0])
    """
    channels = weight.shape[axis]
    count = weight.numel() // max(1, channels)
    mean = torch.empty(channels, dtype=torch.float64, device=weight.device)
    variance = torch.empty_like(mean)
    for part, rows in channel_chunks(weight, axis):
        centre = rows.sum(1).double().div_(count)
        square = torch.linalg.vector_norm(rows, dim=1).double().square_().div_(count)
        spread = square - centre.square()
        if not bool((2 * spread >= square).all()):
            # A mean that outweighs the spread: E[w^2] - E[w]^2 would lose a constant channel's zero in rounding.
            # torch.var_mean computes the same an order of magnitude more slowly on a processor, because its Welford
            # recurrence is not vectorised.
            deviation = rows - rows.mean(1, keepdim=True)
            spread = torch.linalg.vector_norm(deviation, dim=1).double().square_().div_(count)
        mean[part], variance[part] = centre, spread
    _check_finite(variance, weight)
    return ChannelMoments(count, mean, variance)


def channel_maxima(weight: Tensor, axis: int = 0) -> Tensor:
    """Largest magnitude of every channel, [C] float32, in one pass over memory.

    Raises:
        ModelError: the weight contains NaN or infinity.

    Example:
        >>> channel_maxima(torch.tensor([[1.0, -3.0], [2.0, 0.0]])).tolist()
        [3.0, 2.0]
    """
    largest = torch.empty(weight.shape[axis], dtype=torch.float32, device=weight.device)
    for part, rows in channel_chunks(weight, axis):
        # abs: of a channel of zeros, the negated minimum is -0.0, by which a division gives minus infinity
        largest[part] = torch.maximum(rows.amax(1), -rows.amin(1)).abs_()
    _check_finite(largest, weight)
    return largest


def _check_finite(values: Tensor, weight: Tensor) -> None:
    # A NaN or an infinity in a channel survives every reduction, so the C results are enough to see it.
    if not bool(values.isfinite().all()):
        raise ModelError(
            f"a weight of shape {tuple(weight.shape)} contains NaN or infinity, or numbers whose squares are infinite, "
            "so it has no statistics. Check that the checkpoint is intact and that training did not diverge."
        )
