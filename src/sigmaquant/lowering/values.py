"""What a node of the graph stands for while it is being lowered: an edge, or arithmetic that waits for its quantizer.

A chain such as convolution, BatchNorm, ReLU is one integer operator. Its parts collect here, in float64, until the
activation quantizer at its end says on which grid the result lies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sigmaquant.lowering.model import Edge

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Clip:
    """The interval that a value is clipped to before it is quantized."""

    low: float = -math.inf
    high: float = math.inf

    def then(self, low: float, high: float) -> Clip:
        """A second clipping after this one."""
        return Clip(max(self.low, low), min(self.high, high))


@dataclass(frozen=True)
class Pending:
    """Arithmetic that waits for its quantizer."""

    clip: Clip = Clip()

    def clipped(self, low: float, high: float) -> Pending:
        """With a clipping after it."""
        return replace(self, clip=self.clip.then(low, high))


@dataclass(frozen=True)
class Layer(Pending):
    """A layer's sum: ``sum codes * x * scale[c] + bias[c]``, x in real numbers."""

    layer: str = ""
    name: str = ""
    edge: Edge | None = None
    geometry: dict[str, Any] | None = None
    codes: NDArray[np.int8] | None = None
    bits: int = 8
    midrise: bool = False
    fine_bias: bool = True
    scale: Vector | None = None
    bias: Vector | None = None

    def affine(self, factor: Vector, offset: Vector) -> Layer:
        """After a per-channel affine map (a BatchNorm)."""
        assert self.scale is not None
        assert self.bias is not None
        return replace(self, scale=self.scale * factor, bias=self.bias * factor + offset)


@dataclass(frozen=True)
class Terms(Pending):
    """``sum coefficient * edge + offset``: additions and multiplications by numbers."""

    terms: tuple[tuple[Edge, float], ...] = ()
    offset: float = 0.0


@dataclass(frozen=True)
class ChannelMap(Pending):
    """``edge * factor[c] + offset[c]``: a BatchNorm that follows no layer."""

    name: str = ""
    edge: Edge | None = None
    factor: Vector | None = None
    offset: Vector | None = None


@dataclass(frozen=True)
class Mean(Pending):
    """Average over whole dimensions or a window."""

    edge: Edge | None = None
    dims: tuple[int, ...] = ()
    keepdim: bool = False
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    count: int = 1


@dataclass(frozen=True)
class Joined(Pending):
    """A concatenation."""

    edges: tuple[Edge, ...] = ()
    axis: int = 0


@dataclass(frozen=True)
class Times(Pending):
    """The product of two edges."""

    left: Edge | None = None
    right: Edge | None = None


@dataclass(frozen=True)
class Unary(Pending):
    """A function of one edge's values, one by one."""

    edge: Edge | None = None
    function: str = ""
    apply: Callable[[Tensor], Tensor] | None = None
