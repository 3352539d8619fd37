"""Batch-wise augmentation and normalisation of images: a few tensor operations a batch, no loop over examples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sigmaquant.errors import DataError


class CropAndFlip:
    """A random crop of the zero-padded image and a random horizontal flip, each example its own.

    The augmentation of the CIFAR experiments in He et al., "Deep Residual Learning" (arXiv 1512.03385, section 4.2).
    Apply it to unnormalised images, where zero is black.

    Args:
        padding: pixels added on every side; 0: no crop.
        flip: whether half of the images are mirrored.

    Example:
        >>> images = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8)
        >>> CropAndFlip()(images, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(self, padding: int = 4, flip: bool = True) -> None:
        self.padding = padding
        self.flip = flip

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A new batch of the same shape and dtype.

        Args:
            images: ``[batch, channels, height, width]``.
            generator: where the random numbers come from.
        """
        batch, channels, height, width = images.shape
        offsets = torch.randint(0, 2 * self.padding + 1, (2, batch, 1), generator=generator)
        rows = offsets[0] + torch.arange(height)
        columns = offsets[1] + torch.arange(width)
        if self.flip:
            mirrored = torch.rand(batch, 1, generator=generator) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        padded = nn.functional.pad(images, [self.padding] * 4)
        # One gather does crop and flip: example i takes its own rows and columns. Over flattened pixels it is ten times
        # faster than indexing four dimensions.
        pixels = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
        index = pixels.reshape(batch, 1, height * width).expand(batch, channels, height * width)
        return padded.flatten(2).gather(2, index.to(images.device)).reshape(images.shape)


class Normalize:
    """``(x / scale - mean) / std`` per channel, as float32.

    Args:
        mean: of each channel, of values in 0..1.
        std: of each channel.
        scale: largest input value; 255 for uint8 images.

    Raises:
        DataError: a standard deviation that is not above zero, or means and deviations of different number.

    Example:
        >>> Normalize([0.5], [0.25])(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)).item()
        2.0
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], scale: float = 255.0) -> None:
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise DataError(
                f"mean {list(mean)} and std {list(std)} must have one number per channel, and every std must be above "
                "zero."
            )
        deviation = torch.tensor(std, dtype=torch.float64)[:, None, None]
        self._factor = (1 / (deviation * scale)).float()
        self._shift = (torch.tensor(mean, dtype=torch.float64)[:, None, None] / deviation).float()

    def __call__(self, images: Tensor) -> Tensor:
        """Float32 images of the same shape.

        Args:
            images: ``[batch, channels, height, width]``.
        """
        factor, shift = self._factor.to(images.device), self._shift.to(images.device)
        return (images * factor).sub_(shift)  # uint8 times float32 is a new float32 tensor
