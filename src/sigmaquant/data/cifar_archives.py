"""The original archives of CIFAR-10 and CIFAR-100 (Krizhevsky 2009), unpacked: the binary version, or Python's."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from sigmaquant.data.arrays import class_numbers
from sigmaquant.errors import DataError

Images = NDArray[np.uint8]
_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Archive:
    """How one of the two data sets is kept.

    Attributes:
        name: of the data set.
        folders: what its archives unpack into.
        classes: how many.
        binary: files of a split in the binary version.
        python: files of a split in Python's version.
        label_bytes: before the pixels of an image, the last of which is its class.
        label_key: of the classes in Python's version.
    """

    name: str
    folders: tuple[str, ...]
    classes: int
    binary: Mapping[str, tuple[str, ...]]
    python: Mapping[str, tuple[str, ...]]
    label_bytes: int
    label_key: bytes


_FIVE = tuple(f"data_batch_{number}" for number in range(1, 6))
CIFAR10 = Archive(
    name="CIFAR-10",
    folders=("cifar-10-batches-bin", "cifar-10-batches-py"),
    classes=10,
    binary={"train": tuple(f"{name}.bin" for name in _FIVE), "test": ("test_batch.bin",)},
    python={"train": _FIVE, "test": ("test_batch",)},
    label_bytes=1,
    label_key=b"labels",
)
CIFAR100 = Archive(
    name="CIFAR-100",
    folders=("cifar-100-binary", "cifar-100-python"),
    classes=100,
    binary={"train": ("train.bin",), "test": ("test.bin",)},
    python={"train": ("train",), "test": ("test",)},
    label_bytes=2,  # the coarse class, then the fine one
    label_key=b"fine_labels",
)


def archive_arrays(directory: Path, split: Literal["train", "test"], archive: Archive) -> tuple[Images, Images] | None:
    """One split: images ``[n, 32, 32, 3]`` in RGB, and labels ``[n]``, both uint8; None where there is no archive.

    Args:
        directory: what the archive was unpacked into, or the folder above it.
        split: which part.
        archive: of which data set.

    Raises:
        DataError: damaged files.
    """
    for folder in (directory, *(directory / name for name in archive.folders)):
        for names, read in ((archive.binary, _binary), (archive.python, _python)):
            paths = [folder / name for name in names[split]]
            if all(path.is_file() for path in paths):
                parts = [read(path, archive) for path in paths]
                images, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
                return np.ascontiguousarray(images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels
    return None


def _binary(path: Path, archive: Archive) -> tuple[Images, Images]:
    size = archive.label_bytes + _PIXELS
    content = np.fromfile(path, np.uint8)
    if not len(content) or len(content) % size:
        raise DataError(f"{path} has {len(content)} bytes, which are no whole images of {size}. Fetch it again.")
    rows = content.reshape(-1, size)
    labels = class_numbers(rows[:, archive.label_bytes - 1], len(rows), archive.classes, path)
    return rows[:, archive.label_bytes :], labels


class _Unpickler(pickle.Unpickler):
    """Reads arrays and plain values only: a pickle can otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")):
            return np.empty(0).__reduce__()[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def _load(file: BinaryIO) -> Any:
    return _Unpickler(file, encoding="bytes").load()


def _python(path: Path, archive: Archive) -> tuple[Images, Images]:
    try:
        with path.open("rb") as file:
            found = _load(file)
        images = np.asarray(found[b"data"], np.uint8).reshape(-1, _PIXELS)
        labels = found[archive.label_key]
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(
            f"{path} is no file of {archive.name} ({type(error).__name__}: {error}). Fetch it again."
        ) from error
    return images, class_numbers(labels, len(images), archive.classes, path)
