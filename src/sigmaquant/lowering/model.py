"""`IntegerModel`: a quantized network in integers alone, the one source of every exported file.

Values flow along edges. An edge is an int8 tensor of codes with one scale and one zero-point, ``x = (code - z) * s``.
Every operator reads edges, computes with integers, and writes one edge. What has no integer form stays a
`FloatOperator`, which exporters refuse by name; nothing is ever silently computed in float.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sigmaquant.lowering.fixed_point import Factor
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant.numerics import activation_range


@dataclass(frozen=True)
class Edge:
    """An activation tensor.

    Attributes:
        name: unique.
        shape: of one example, without the batch dimension.
        bits: 2..8 of the codes; 32 where the edge is float.
        scale: the float32 scale.
        zero_point: the code of 0.0.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    scale: float = 1.0
    zero_point: int = 0

    @property
    def is_float(self) -> bool:
        """Whether the edge carries float32 instead of codes."""
        return self.bits == 32

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest code."""
        return activation_range(self.bits)


@dataclass(frozen=True)
class Operator:
    """What all operators have.

    Attributes:
        name: of the user's module or activation; unique among operators.
        inputs: names of the edges read.
        output: name of the edge written.
    """

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Weighted(Operator):
    """A layer with weights: ``clamp(z + factor * (gain * sum code_w * (code_x - z_x) + bias), low, high)``.

    The bias is an integer in units of what one step of the weight and one of the input make together. With few weight
    bits that unit is coarse, and rounding the bias to it would cost more than the weights' own rounding; the gain, a
    power of two that brings the codes up to 64, gives it nearly as many bits as with 8-bit weights.

    Attributes:
        layer: name of the layer in the plan.
        codes: int8; [out, in/groups, *kernel], [out, in] or, transposed, [in, out/groups, *kernel].
        bits: 2..8 of the codes.
        midrise: on which grid they lie, see `sigmaquant.quant.numerics`.
        gain: a power of two; ``gain * codes`` is at most 64 in magnitude, or the gain is one.
        scale: float32 [out], of the codes without the gain, BatchNorm absorbed.
        bias: int32 [out], in units of input scale x `scale` / gain.
        factor: input scale x `scale` / gain / output scale, [out].
        low: smallest output code: an absorbed ReLU raises it.
        high: largest output code.
    """

    layer: str
    codes: NDArray[np.int8]
    bits: int
    midrise: bool
    gain: int
    scale: NDArray[np.float32]
    bias: NDArray[np.int32]
    factor: Factor
    low: int
    high: int


@dataclass(frozen=True)
class Convolution(Weighted):
    """Convolution of one, two or three dimensions.

    Attributes:
        stride: by dimension.
        padding: zeros before and after, by dimension.
        dilation: by dimension.
        groups: as in torch.
        transposed: whether it is a transposed convolution.
        output_padding: of a transposed convolution.
    """

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool = False
    output_padding: tuple[int, ...] = ()


@dataclass(frozen=True)
class Linear(Weighted):
    """``x W^T`` over the last dimension."""


@dataclass(frozen=True)
class Affine(Operator):
    """A factor and an offset for each channel, as of a BatchNorm that follows no convolution.

    ``clamp(z + ((x - z_x) * multiplier + offset + 2**(shift-1)) >> shift, low, high)``; everything fits into 32 bits.

    Attributes:
        multiplier: int32 [C], may be negative.
        offset: int32 [C].
        shift: int64 [C], 1..30.
        axis: the channel axis, without the batch dimension.
        low: smallest output code.
        high: largest output code.
    """

    multiplier: NDArray[np.int32]
    offset: NDArray[np.int32]
    shift: NDArray[np.int64]
    axis: int
    low: int
    high: int


@dataclass(frozen=True)
class Sum(Operator):
    """``clamp(z + (sum_k multiplier_k * (x_k - z_k) + offset + 2**(shift-1)) >> shift, low, high)``, in 32 bits."""

    multipliers: tuple[int, ...]
    offset: int
    shift: int
    low: int
    high: int


@dataclass(frozen=True)
class Product(Operator):
    """``clamp(z + factor * ((a - z_a) * (b - z_b)), low, high)``; shapes broadcast."""

    factor: Factor
    low: int
    high: int


@dataclass(frozen=True)
class Concatenation(Operator):
    """Inputs one after the other along `axis` (without the batch dimension), each brought to the output's grid.

    ``clamp(z + ((x - z_k) * multiplier_k + 2**(shift_k-1)) >> shift_k, low, high)``; on the same grid that is a copy.
    """

    axis: int
    multipliers: tuple[int, ...]
    shifts: tuple[int, ...]
    low: int
    high: int


@dataclass(frozen=True)
class Average(Operator):
    """Means: ``clamp(z + factor * sum (x - z_x), low, high)``, `factor` holding the number of values.

    Attributes:
        factor: one.
        dims: dimensions that are averaged away, without the batch dimension; empty for a window.
        keepdim: whether they stay with size one.
        kernel: size of the window by dimension; empty for whole dimensions.
        stride: of the window.
        padding: zeros around, counted in the mean.
        low: smallest output code.
        high: largest output code.
    """

    factor: Factor
    dims: tuple[int, ...]
    keepdim: bool
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    low: int
    high: int


@dataclass(frozen=True)
class MaxPool(Operator):
    """Largest code of each window; padding never wins."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool


@dataclass(frozen=True)
class Lookup(Operator):
    """Any function of one value: ``table[code + 128]``.

    Attributes:
        function: its name, such as ``"hardswish"``.
        table: int8 [256].
    """

    function: str
    table: NDArray[np.int8]


@dataclass(frozen=True)
class Move(Operator):
    """Codes that only change their place: reshape, slice, transpose, padding with the zero-point or with copies.

    Attributes:
        kind: ``"reshape"``, ``"slice"``, ``"permute"``, ``"pad"`` (with the zero-point), or the torch operator's name
            where exporters have no form of their own; other paddings are ``"reflect_pad"``, ``"circular_pad"``, ….
        parameters: reshape {shape}, slice {axis, start, stop, step}, permute {axes}, pad {before, after}; axes and
            shapes without the batch dimension.
        apply: the operator on a floating-point tensor of codes with the batch dimension.
    """

    kind: str
    parameters: Mapping[str, Any]
    apply: Callable[[Tensor], Tensor] = field(repr=False)


@dataclass(frozen=True)
class FloatOperator(Operator):
    """An operator without an integer form; its edges are float.

    Attributes:
        operator: ``"scope: operator"``.
        apply: the operator on the float inputs.
    """

    operator: str
    apply: Callable[..., Any] = field(repr=False)


@dataclass(frozen=True)
class Quantize(Operator):
    """From a float edge to codes: ``clamp(round_half_even(x / s) + z)``."""


@dataclass(frozen=True)
class Dequantize(Operator):
    """From codes to a float edge: ``(code - z) * s``."""


@dataclass(frozen=True)
class IntegerModel:
    """A whole network.

    Attributes:
        operators: in an order in which every input is written before it is read.
        edges: by name.
        inputs: edges that the caller gives, on their grids.
        outputs: edges that are the result.
        plan: the bitwidths.
    """

    operators: tuple[Operator, ...]
    edges: Mapping[str, Edge]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    plan: BitwidthPlan

    @property
    def float_operators(self) -> tuple[str, ...]:
        """Operators that stay in float."""
        return tuple(op.operator for op in self.operators if isinstance(op, FloatOperator))

    @property
    def weighted(self) -> tuple[Weighted, ...]:
        """The layers with weights, in order; a weight that is used twice is here twice, with the same codes."""
        return tuple(op for op in self.operators if isinstance(op, Weighted))
