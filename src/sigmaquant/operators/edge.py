"""`Edge`: an activation tensor of a network in integers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    scale: float = 1.0
    zero_point: int = 0
    rows: int = 1
    batch_axis: int = 0

    @property
    def is_float(self) -> bool:
        """Whether the edge carries float32 instead of codes."""
        return self.bits == FLOAT_BITS

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest code."""
        return activation_range(self.bits)


def encode(x: Tensor, edge: Edge) -> Tensor:
    """Float values as an edge's codes."""
    return quantize_activation(x, torch.tensor(edge.scale), edge.zero_point, edge.bits)


def decode(codes: Tensor, edge: Edge) -> Tensor:
    """An edge's codes as float values."""
    return dequantize_activation(codes, torch.tensor(edge.scale), edge.zero_point)
