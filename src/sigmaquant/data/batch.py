"""One batch: the types that the program works with, and how what users give becomes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigmaquant.errors import DataError

Inputs = Tensor | tuple[Tensor, ...]
"""What the model is called with: one tensor ``[batch, …]``, or one per argument."""

Batch = tuple[Inputs, Tensor]
"""Inputs and targets ``[batch, …]``."""

_INPUT_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.bool)
_PAIR = "Every batch must be a pair (inputs, targets)."


def describe(value: object) -> str:
    """A value's type and, for arrays, its shape; for messages."""
    shape = getattr(value, "shape", None)
    return type(value).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")


def describe_inputs(inputs: Iterable[Tensor]) -> str:
    """Shape and type of each of a model's inputs; for messages."""
    return ", ".join(f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in inputs)


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
        raise DataError(f"{where} is a {describe(value)}, not a tensor or NumPy array. {_PAIR}")
    if value.layout != torch.strided:
        raise DataError(f"{where} is a {str(value.layout).removeprefix('torch.')} tensor. Give its to_dense().")
    return value.float() if value.dtype == torch.float64 else value


def as_inputs(value: Any, where: str) -> Inputs:
    """A tensor, or a tuple of them for a model with several arguments.

    Raises:
        DataError: anything else, or no batch dimension, or batch dimensions that differ.
    """
    if isinstance(value, dict):
        raise DataError(
            f"{where}: the inputs are a dictionary with the keys {list(value)[:5]}. Give them as a tuple in the order "
            "of the arguments of the model's forward."
        )
    if isinstance(value, tuple | list) and value:
        tensors = tuple(as_tensor(item, f"{where}: input {index}") for index, item in enumerate(value))
    else:
        tensors = (as_tensor(value, f"{where}: the input"),)
    if any(tensor.ndim == 0 for tensor in tensors):
        raise DataError(f"{where}: an input has no batch dimension. Give batches of shape [batch, …].")
    if len({len(tensor) for tensor in tensors}) > 1:
        raise DataError(f"{where}: the inputs have {[len(t) for t in tensors]} examples. They must have equally many.")
    return tensors if isinstance(value, tuple | list) else tensors[0]


def as_targets(value: Any, where: str) -> Tensor:
    """Targets as a tensor; integers become int64, as losses want class indices.

    Raises:
        DataError: anything but a tensor, an array or a list of numbers.
    """
    if value is None or isinstance(value, bool | int | float | str):
        raise DataError(
            f"{where}: the targets are {value!r}, not a tensor. If these are single examples and not batches, wrap "
            "them in a torch Dataset."
        )
    if not is_array(value):
        try:
            value = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            raise DataError(
                f"{where}: the targets are a {type(value).__name__}, not a tensor. Give one tensor [batch, …]; several "
                "of them can be joined along a later dimension, which a loss= and a metric= of yours take apart."
            ) from None
    tensor = as_tensor(value, f"{where}: the target")
    narrow = tensor.dtype not in (torch.bool, torch.int64) and not (tensor.is_floating_point() or tensor.is_complex())
    return tensor.long() if narrow else tensor


def examples_in(inputs: Inputs) -> int:
    """Number of examples in a batch."""
    return len(inputs if isinstance(inputs, Tensor) else inputs[0])


def as_batch(value: Any, where: str) -> Batch:
    """A pair as a batch of tensors.

    Raises:
        DataError: not a pair, or without examples, or inputs and targets of different length.
    """
    if not isinstance(value, tuple | list) or len(value) != 2:
        items = f" of {len(value)} items" if isinstance(value, tuple | list | dict) else ""
        raise DataError(f"{where} is a {describe(value)}{items}, not a pair. {_PAIR}")
    inputs, targets = as_inputs(value[0], where), as_targets(value[1], where)
    count = examples_in(inputs)
    if count == 0:
        raise DataError(f"{where} has no examples.")
    if targets.ndim == 0 or len(targets) != count:
        raise DataError(
            f"{where}: {count} inputs but targets of shape {tuple(targets.shape)}. The first dimensions must be equal."
        )
    return inputs, targets


def in_float32(inputs: Inputs) -> Inputs:
    """The inputs, the floating ones as float32, which is what networks are read in."""
    if isinstance(inputs, Tensor):
        return inputs.float() if inputs.is_floating_point() else inputs
    return tuple(x.float() if x.is_floating_point() else x for x in inputs)


def check_inputs(inputs: Inputs, where: str) -> None:
    """Raise for what no model can be trained on.

    Raises:
        DataError: a dtype that layers do not take, or NaN or infinite values.
    """
    for tensor in (inputs,) if isinstance(inputs, Tensor) else inputs:
        if tensor.dtype not in _INPUT_TYPES:
            raise DataError(
                f"{where}: the inputs are {str(tensor.dtype).removeprefix('torch.')}, which layers do not take. "
                "Convert them the way the network was trained, for images usually `(x.float() / 255 - mean) / std`, "
                "or pass that as `transform`. (Token indices must be int64.)"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise DataError(
                f"{where}: {bad} of {tensor.numel()} input values are NaN or infinite. "
                "Remove or replace those examples."
            )


def example_shapes(inputs: Inputs) -> tuple[tuple[int, ...], ...]:
    """Shape of one example of every input."""
    return tuple(tuple(tensor.shape[1:]) for tensor in ((inputs,) if isinstance(inputs, Tensor) else inputs))


def gather(inputs: Inputs, index: Tensor) -> Inputs:
    """The examples at `index`, in that order, wherever they lie."""
    return rows(inputs, index) if isinstance(inputs, Tensor) else tuple(rows(tensor, index) for tensor in inputs)


def rows(tensor: Tensor, index: Tensor) -> Tensor:
    """The rows at `index`, wherever they lie."""
    return tensor.index_select(0, index.to(tensor.device))
