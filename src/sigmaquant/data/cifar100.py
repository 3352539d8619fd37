"""CIFAR-100 (Krizhevsky 2009): its original archive, unpacked, or mosaics like those of `sigmaquant.data.cifar10`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sigmaquant.data.cifar10 import cifar_arrays
from sigmaquant.data.cifar_archives import CIFAR100, Images

MEAN = (0.5071, 0.4865, 0.4409)
"""Mean of the training images' red, green and blue."""
STD = (0.2673, 0.2564, 0.2762)
"""Standard deviation of the training images' red, green and blue."""


def cifar100_arrays(directory: str | Path, split: Literal["train", "test"]) -> tuple[Images, Images]:
    """One split: images ``[n, 32, 32, 3]`` in RGB, and the fine labels ``[n]``, both uint8.

    Raises:
        DataError: no such folder or files, damaged files, or images and labels of different number.
        MissingExtraError: the images are mosaics, and Pillow is not installed.
    """
    return cifar_arrays(directory, split, CIFAR100)
