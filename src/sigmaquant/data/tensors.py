"""Arrays as users give them, and how they become tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigmaquant.errors import DataError

PAIR = "Every batch must be a pair (inputs, targets), or a mapping with the targets under a key of their own."


def describe(value: object) -> str:
    """A value's type and, for arrays, its shape; for messages."""
    shape = getattr(value, "shape", None)
    return type(value).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")


def is_array(value: object) -> bool:
    """Whether it is a tensor or a NumPy array."""
    return isinstance(value, Tensor | np.ndarray)


def as_tensor(value: Any, where: str) -> Tensor:
    """A tensor of the same values; NumPy memory is shared where it can be. Float64 becomes float32.

    Raises:
        DataError: no numbers.
    """
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub":
            raise DataError(f"{where} has the dtype {value.dtype}, which holds no numbers. Give numbers or tensors.")
        if value.dtype.kind == "u" and value.dtype.itemsize > 1:
            value = value.astype(np.int64)
        if not (value.dtype.isnative and value.flags.writeable and value.flags.c_contiguous):
            value = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
        value = torch.from_numpy(value)
    if not isinstance(value, Tensor):
        raise DataError(f"{where} is a {describe(value)}, not a tensor or NumPy array. {PAIR}")
    if value.layout != torch.strided:
        raise DataError(f"{where} is a {str(value.layout).removeprefix('torch.')} tensor. Give its to_dense().")
    return value.float() if value.dtype == torch.float64 else value
