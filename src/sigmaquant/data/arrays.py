"""Arrays and labels from files that may be damaged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from sigmaquant.errors import DataError


def read_npy(path: str | Path) -> NDArray[Any]:
    """The array of a ``.npy`` file; objects, which can run any code, are refused.

    Raises:
        DataError: no such file, or a damaged one.
    """
    try:
        with Path(path).open("rb") as file:
            return npy_array(file, Path(path).stat().st_size)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no readable array ({_first_line(error)}). Fetch it again.") from error


def npy_array(file: BinaryIO, size: int) -> NDArray[Any]:
    """The array in the ``.npy`` format, once its header is found to fit what follows.

    Args:
        file: at its start.
        size: bytes of it.

    Raises:
        ValueError: it is damaged.
    """
    try:
        version = npy.read_magic(file)
        header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if header is None:
            raise ValueError(f"its version is {version}")
        shape, _, dtype = header(file)
        # a damaged header may claim any number of bytes, which would be reserved before one is read
        if dtype.hasobject or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size:
            raise ValueError(f"its header says shape {shape} and dtype {dtype}, which its {size} bytes do not hold")
        file.seek(0)
        return np.asarray(npy.read_array(file, allow_pickle=False))
    except (ValueError, OSError):
        raise
    except Exception as error:  # the header is Python's text: nearly anything comes of a damaged one
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def class_numbers(labels: Any, count: int, classes: int, source: str | Path) -> NDArray[np.uint8]:
    """Labels as uint8, once they are found to be one class number for each image.

    Args:
        labels: as they were read.
        count: of the images.
        classes: how many there are, at most 256.
        source: the file, for messages.

    Raises:
        DataError: of another number or kind, or out of range.
    """
    try:
        found = np.asarray(labels)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{source} has labels that are no numbers ({error}). Fetch it again.") from error
    if found.shape != (count,) or found.dtype.kind not in "iu":
        raise DataError(
            f"{source} has labels of the shape {found.shape} and dtype {found.dtype}, but there are {count} images: "
            "it needs one whole number for each."
        )
    wrong = np.flatnonzero((found < 0) | (found >= classes))
    if len(wrong):
        raise DataError(
            f"{source} has the label {found[wrong[0]]} at {wrong[0]}, but the classes are 0..{classes - 1}. "
            "Fetch it again."
        )
    return found.astype(np.uint8)
