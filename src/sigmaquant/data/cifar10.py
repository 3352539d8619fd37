"""CIFAR-10 (Krizhevsky 2009): its original archive, unpacked, or a folder of lossless WebP mosaics with label files.

Of the archive, the binary version and that for Python are read, from the folder that it unpacks into or from the one
above. Mosaics are quicker to read: the folder holds, for the splits ``train`` and ``test``, ``<split>_00.webp``,
``<split>_01.webp``, … whose tiles of 32 x 32 pixels, row by row, are the images; ``<split>_labels.npy`` with the class
of each; and ``classes.txt``.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sigmaquant.data.arrays import class_numbers, read_npy
from sigmaquant.data.augment import CropAndFlip, Normalize
from sigmaquant.data.cifar_archives import CIFAR10, Archive, Images, archive_arrays
from sigmaquant.data.indexed import TensorSource
from sigmaquant.errors import DataError, MissingExtraError

SIDE = 32
MEAN = (0.4914, 0.4822, 0.4465)
"""Mean of the training images' red, green and blue."""
STD = (0.2470, 0.2435, 0.2616)
"""Standard deviation of the training images' red, green and blue."""


@dataclass(frozen=True)
class Cifar10:
    """The two parts as sources of normalised float32 images ``[batch, 3, 32, 32]``, and the names of the classes."""

    train: TensorSource
    test: TensorSource
    classes: tuple[str, ...]


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("Reading CIFAR-10 images", "cifar10") from None
    return Image


def _tiles(path: Path) -> Images:
    """The images of one mosaic, ``[n, 32, 32, 3]``."""
    image = _pillow()
    try:
        with image.open(path, formats=("WEBP",)) as opened:  # no other decoder need see a foreign file
            mosaic = np.asarray(opened.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise DataError(f"{path} is no readable image ({error}). Fetch it again.") from error
    height, width = mosaic.shape[:2]
    if height % SIDE or width % SIDE:
        raise DataError(f"{path} has {height} x {width} pixels, which are no whole tiles of {SIDE} x {SIDE}.")
    grid = mosaic.reshape(height // SIDE, SIDE, width // SIDE, SIDE, 3)
    return np.ascontiguousarray(grid.swapaxes(1, 2)).reshape(-1, SIDE, SIDE, 3)


def cifar10_arrays(directory: str | Path, split: Literal["train", "test"]) -> tuple[Images, Images]:
    """One split: images ``[n, 32, 32, 3]`` in RGB, and labels ``[n]``, both uint8.

    Raises:
        DataError: no such folder or files, damaged files, or images and labels of different number.
        MissingExtraError: the images are mosaics, and Pillow is not installed.
    """
    return cifar_arrays(directory, split, CIFAR10)


def cifar_arrays(directory: str | Path, split: Literal["train", "test"], archive: Archive) -> tuple[Images, Images]:
    """One split of CIFAR-10 or CIFAR-100, however it is kept; as for `cifar10_arrays`."""
    folder = Path(directory)
    if (found := archive_arrays(folder, split, archive)) is not None:
        return found
    mosaics = sorted(folder.glob(f"{split}_[0-9]*.webp"))
    labels_path = folder / f"{split}_labels.npy"
    if not mosaics or not labels_path.is_file():
        raise DataError(
            f"{folder} has no {archive.name} {split} split: it needs {split}_00.webp, … and {split}_labels.npy, or the "
            f"original archive, unpacked ({' or '.join(archive.folders)}). Check the directory."
        )
    _pillow()
    with ThreadPoolExecutor(max_workers=4) as pool:  # decoding runs outside the interpreter's lock
        images = np.concatenate(list(pool.map(_tiles, mosaics)))
    return images, class_numbers(read_npy(labels_path), len(images), archive.classes, labels_path)


def cifar10_classes(directory: str | Path) -> tuple[str, ...]:
    """Names of the classes in the order of their numbers.

    Raises:
        DataError: no ``classes.txt``.
    """
    folder = Path(directory)
    listings = ("batches.meta.txt", "cifar-10-batches-bin/batches.meta.txt")
    path = next((folder / name for name in listings if (folder / name).is_file()), folder / "classes.txt")
    try:
        names = tuple(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read ({reason}). Check the directory.") from error
    if len(names) != CIFAR10.classes or len(set(names)) != len(names):
        raise DataError(
            f"{path} has {len(names)} names, {len(set(names))} of them different, not the {CIFAR10.classes} of "
            f"{CIFAR10.name}'s classes. Fetch it again."
        )
    return names


def cifar10_data(
    directory: str | Path, *, mean: Sequence[float] = MEAN, std: Sequence[float] = STD, batch_size: int = 128
) -> Cifar10:
    """CIFAR-10 ready for training: normalised, and the training part augmented by `CropAndFlip` when shuffled.

    The images stay uint8 in memory (154 MB for training, a quarter of float32) and are normalised batch by batch.
    Set some of the training part aside with `sigmaquant.data.split` to decide on; the test part is for the end.

    Args:
        directory: see the module.
        mean: of red, green and blue in 0..1, as the network was trained with.
        std: likewise.
        batch_size: examples in a batch.

    Raises:
        DataError: see `cifar10_arrays`.
        MissingExtraError: Pillow is not installed.
    """

    def source(split: Literal["train", "test"], name: str) -> TensorSource:
        images, labels = cifar10_arrays(directory, split)
        return TensorSource(
            images.transpose(0, 3, 1, 2),
            labels,
            name=name,
            batch_size=batch_size,
            augment=CropAndFlip() if split == "train" else None,
            transform=Normalize(mean, std),
        )

    return Cifar10(source("train", "training data"), source("test", "test data"), cifar10_classes(directory))
