"""`Edge`: an activation tensor of a network in integers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sigmaquant.errors import DataError
from sigmaquant.numerics import activation_range, dequantize_activation, quantize_activation

FLOAT_BITS = 32
"""`Edge.bits` of an edge that carries float32."""


@dataclass(frozen=True)
class Edge:
    """An activation tensor: ``x = (code - zero_point) * scale``.

    Attributes:
        name: unique.
        shape: of one example, without the batch dimension (of one row, where examples have several).
        bits: 2..8 of the codes; 32 where the edge is float.
        scale: the float32 scale.
        zero_point: the code of 0.0.
        rows: how many rows of the batch dimension one example has: 1, or more where frames, windows or positions are
            folded into the batch. The tensor of a batch of N examples is ``[N * rows, *shape]``.
        batch_axis: where the network itself has the batch (sequences first); codes always have it first.
        integers: of an input that holds integers (token indices, a mask), how many different ones: they are
            ``0..integers - 1``, as they are, in 32 bits; 0 for codes and floats.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    scale: float = 1.0
    zero_point: int = 0
    rows: int = 1
    batch_axis: int = 0
    integers: int = 0

    @property
    def is_float(self) -> bool:
        """Whether the edge carries float32 instead of codes."""
        return self.bits == FLOAT_BITS and not self.integers

    @property
    def has_grid(self) -> bool:
        """Whether the edge carries codes, neither floats nor integers of the caller."""
        return self.bits != FLOAT_BITS

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest code."""
        return activation_range(self.bits)


def encode(x: Tensor, edge: Edge) -> Tensor:
    """Float values as an edge's codes.

    Raises:
        DataError: integers that the edge does not hold.
    """
    if edge.integers:
        return checked_integers(x, edge.integers, f"input {edge.name!r}")
    return quantize_activation(x, torch.tensor(edge.scale), edge.zero_point, edge.bits)


def checked_integers(x: Tensor, count: int, where: str) -> Tensor:
    """Integers as int64.

    Args:
        x: integers or truth values.
        count: how many different ones there are.
        where: for the error.

    Raises:
        DataError: other numbers, or some that are not in ``0..count - 1``.
    """
    if x.is_floating_point() or x.is_complex():
        raise DataError(f"{where} holds integers, but was given {str(x.dtype).removeprefix('torch.')}. Give int64.")
    found = x.to(torch.int64)
    if found.numel():
        low, high = (int(end) for end in torch.aminmax(found))
        if low < 0 or high >= count:
            what = "a mask of 0 and 1" if count == 2 else f"a table of {count} rows"
            raise DataError(
                f"{where} holds the integer {low if low < 0 else high}, which is not in 0..{count - 1}: it is for "
                f"{what}. Check the tokenizer, or how the data are encoded."
            )
    return found


def decode(codes: Tensor, edge: Edge) -> Tensor:
    """An edge's codes as float values."""
    return dequantize_activation(codes, torch.tensor(edge.scale), edge.zero_point)
