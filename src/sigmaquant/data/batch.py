"""One batch: the types that the program works with, and how what users give becomes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from sigmaquant.data.structure import Keys, Structure, leaves, mapped, read_structure
from sigmaquant.data.tensors import PAIR, as_tensor, describe, is_array
from sigmaquant.errors import DataError

Inputs = Tensor | tuple[Tensor, ...]
"""What the model is called with: one tensor ``[batch, …]``, or one per argument."""

Batch = tuple[Inputs, Tensor]
"""Inputs and targets ``[batch, …]``."""

ANY_KEYS = Keys()

_INPUT_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.bool)


def describe_inputs(inputs: Iterable[Tensor]) -> str:
    """Shape and type of each of a model's inputs; for messages."""
    return ", ".join(f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in inputs)


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


def examples_in(inputs: Structure) -> int:
    """Number of examples in a batch."""
    return len(next(leaves(inputs)))


def as_batch(value: Any, where: str, keys: Keys = ANY_KEYS) -> tuple[Structure, Tensor]:
    """A pair, or a mapping, as inputs and targets: tensors, the inputs in tuples and dicts as they come.

    Raises:
        DataError: neither, or without examples, or inputs and targets of different length.
    """
    if isinstance(value, Mapping):
        value = keys.split(value, where)
    if not isinstance(value, tuple | list) or len(value) != 2:
        items = f" of {len(value)} items" if isinstance(value, tuple | list) else ""
        raise DataError(f"{where} is a {describe(value)}{items}, not a pair. {PAIR}")
    inputs, targets = read_structure(value[0], where), as_targets(value[1], where)
    count = examples_in(inputs)
    if count == 0:
        raise DataError(f"{where} has no examples.")
    if targets.ndim == 0 or len(targets) != count:
        raise DataError(
            f"{where}: {count} inputs but targets of shape {tuple(targets.shape)}. The first dimensions must be equal."
        )
    return inputs, targets


def in_float32(inputs: Structure) -> Structure:
    """The inputs, the floating ones as float32, which is what networks are read in."""
    return mapped(inputs, lambda x: x.float() if x.is_floating_point() else x)


def check_inputs(inputs: Structure, where: str) -> None:
    """Raise for what no model can be trained on.

    Raises:
        DataError: a dtype that layers do not take, or NaN or infinite values.
    """
    for tensor in leaves(inputs):
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


def example_shapes(inputs: Structure) -> tuple[tuple[int, ...], ...]:
    """Shape of one example of every input."""
    return tuple(tuple(tensor.shape[1:]) for tensor in leaves(inputs))


def gather(inputs: Structure, index: Tensor) -> Structure:
    """The examples at `index`, in that order, wherever they lie."""
    return mapped(inputs, lambda tensor: rows(tensor, index))


def rows(tensor: Tensor, index: Tensor) -> Tensor:
    """The rows at `index`, wherever they lie."""
    return tensor.index_select(0, index.to(tensor.device))
