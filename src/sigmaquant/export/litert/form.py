"""An `IntegerModel` as LiteRT computes it: the containers' biases, its kernels' rounding, its operators.

LiteRT has weights of 2, 4 and 8 bits. Codes go into the narrowest type that holds their range and whose kernel is exact
and fast; the range decides, not the bitwidth: on a mid-rise grid b bits reach ``2**b - 1``.

The runtime's default kernels (XNNPACK) take products of matrices, 1x1 convolutions among them, at 2, 4 and 8 bits, and
every other convolution at 8 bits only. Those of 4 bits fall to a slower kernel that rounds twice. Grouped and depthwise
convolutions stay at 8 bits: theirs at 4 bits were measured 5 to 13 times slower, for few weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import singledispatch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigmaquant.export.litert.spreading import without_wide_strides
from sigmaquant.export.rewriting import without_transposed
from sigmaquant.lowering.model import IntegerModel
from sigmaquant.numerics import weight_qmax
from sigmaquant.operators import Convolution, Edge, Embedding, Linear, Operator, Weighted, compute
from sigmaquant.operators.fixed_point import Factor, factor
from sigmaquant.operators.node import Reference, centred, free_name, written

_QMAX = {2: 1, 4: 7, 8: 127}
SAME = (1 << 20, 20)
"""A multiplier and a shift with which nothing changes."""
_LOWEST_CODE = -128
_FAR = 2.0**30
"""Beyond any code, and below what int32 holds."""


def container_bits(operator: Weighted, pack: bool) -> int:
    """Bits of the type that a layer's weights are stored in: 2, 4 or 8."""
    fitting = [bits for bits, qmax in _QMAX.items() if weight_qmax(operator.bits, operator.midrise) <= qmax]
    if not pack or isinstance(operator, Embedding):  # whose rows lie there on the output's grid
        return 8
    if is_matrix_product(operator):  # their kernel wants rows of whole bytes
        return next(bits for bits in fitting if operator.codes.shape[1] % (8 // bits) == 0)
    dense = isinstance(operator, Convolution) and operator.groups == 1
    return 4 if dense and 4 in fitting else 8


def is_matrix_product(operator: Weighted) -> bool:
    """Whether the layer is the same matrix at every place: a linear layer, or a 1x1 convolution without padding."""
    if not isinstance(operator, Convolution):
        return True
    plain = operator.groups == 1 and not operator.transposed and not np.any(operator.padding)
    return plain and all(size == 1 for size in operator.codes.shape[2:])


@dataclass(frozen=True)
class InFloat(Factor):
    """Factors as the default kernels apply them: a product in float32, rounded to the nearest, halves to even.

    Attributes:
        real: float32 [C].
    """

    real: NDArray[np.float32]

    def apply_(self, accumulator: Tensor, axis: int) -> Tensor:
        """Rounded products in place of an int64 tensor; `axis` is the channel axis."""
        view = [1] * accumulator.dim()
        view[axis] = -1
        return self.broadcast_(accumulator, view)

    def broadcast_(self, accumulator: Tensor, shape: Sequence[int]) -> Tensor:
        """The same for factors of a shape that broadcasts to the accumulator's."""
        product = accumulator.to(torch.float32).mul_(torch.from_numpy(self.real).reshape(shape)).round_()
        return accumulator.copy_(product.clamp_(-_FAR, _FAR))


def in_float(*scales: NDArray[np.float32] | float) -> InFloat:
    """The factor that a kernel computes from its scales: a product of all but the last, divided by that.

    Example:
        >>> in_float(0.5, np.array([0.5, 0.25], dtype=np.float32), 1.0).real.tolist()
        [0.25, 0.125]
    """
    *factors, divisor = (np.atleast_1d(np.asarray(scale, dtype=np.float32)) for scale in scales)
    product = factors[0]
    for scale in factors[1:]:
        product = product * scale
    real = (product / divisor).astype(np.float32)
    exact = factor(real.astype(np.float64).ravel(), "LiteRT's form")
    return InFloat(exact.mantissa, exact.shift, real.ravel())


@dataclass(frozen=True)
class Scaled(Operator):
    """``clamp(z + real * (x - z_x))`` in real numbers, as a product with a constant of one or minus one.

    Attributes:
        real: the factor; its magnitude is the constant's scale.
        low: smallest output code.
        high: largest output code.
    """

    real: float
    low: int
    high: int


@compute.register
def _(operator: Scaled, reference: Reference, codes: Tensor) -> Tensor:
    source, target = reference.edges[operator.inputs[0]], reference.edges[operator.output]
    x = centred(codes, source, torch.int64)
    x = x.neg_() if operator.real < 0 else x
    return written(in_float(source.scale, abs(operator.real), target.scale).apply_(x, 0), operator, reference)


class Forming:
    """What a form may ask for, and the edges that it adds.

    Args:
        model: as `lower` gives it.
        pack: as for `export_litert`.

    Attributes:
        edges: by name, those of the model and those that were added.
    """

    def __init__(self, model: IntegerModel, pack: bool) -> None:
        self.model, self.pack = model, pack
        self.edges: dict[str, Edge] = dict(model.edges)
        self._names = {operator.name for operator in model.operators}

    def edge(self, like: str, what: str, shape: Sequence[int] | None = None) -> str:
        """A new edge on another's grid, of its shape if no other is given; returns its name."""
        source = self.edges[like]
        name = free_name(f"{like}.{what}", self.edges)
        self.edges[name] = replace(source, name=name, shape=source.shape if shape is None else tuple(shape))
        return name

    def name(self, operator: Operator, what: str) -> str:
        """A new operator's name."""
        name = free_name(f"{operator.name}.{what}", self._names)
        self._names.add(name)
        return name

    def regridded(self, name: str, output: str, ends: tuple[int, int] | None = None, as_name: str = "") -> Scaled:
        """An edge's values on the grid of another, which has its shape.

        Args:
            name: of the edge.
            output: the other.
            ends: smallest and largest code; None: whatever fits, for something that clamps them.
            as_name: of the operator.
        """
        low, high = (_LOWEST_CODE, self.edges[output].range[1]) if ends is None else ends
        return Scaled(as_name or free_name(f"{output}.regridded", self._names), (name,), output, 1.0, low, high)

    def alike(self, operator: Operator, names: Sequence[str]) -> tuple[list[Operator], tuple[str, ...]]:
        """Operators that bring edges to the grid of an operator's output, and the edges that are there then."""
        target, found, result = self.edges[operator.output], list[Operator](), list[str]()
        for name in names:
            edge = self.edges[name]
            if (edge.scale, edge.zero_point, edge.bits) != (target.scale, target.zero_point, target.bits):
                output = self.edge(target.name, "regridded", edge.shape)
                self.edges[output] = replace(self.edges[output], rows=edge.rows)
                found.append(self.regridded(name, output, as_name=self.name(operator, "regridded")))
                name = output
            result.append(name)
        return found, tuple(result)


@singledispatch
def formed(operator: Operator, to: Forming) -> Sequence[Operator]:
    """The operators of LiteRT's form that stand for one of the model; a module for each family registers its own."""
    return (operator,)


def litert_form(model: IntegerModel, pack: bool = True) -> IntegerModel:
    """The model whose executor gives what the file gives in LiteRT's default runtime.

    Weights have the gain that their container holds, at most lowering's, and biases the unit that follows. Factors are
    applied in float32, or twice rounded, as the runtime's kernels apply them; sums have its multipliers. Transposed
    convolutions become ordinary ones, maxima over volumes or dilated windows and means over uneven ones become what
    the runtime has, with the same codes. Resized images are rounded on their input's grid before they come to the
    output's. Measured, every code of the file is that of the form.

    Args:
        model: as `lower` gives it.
        pack: as for `export_litert`.
    """
    model = without_transposed(without_wide_strides(model))
    to = Forming(model, pack)
    operators = [new for operator in model.operators for new in formed(operator, to)]
    return replace(model, operators=tuple(operators), edges=to.edges)


@formed.register(Convolution)
@formed.register(Linear)
def _(operator: Convolution | Linear, to: Forming) -> Sequence[Operator]:
    bits = container_bits(operator, to.pack)
    room = _QMAX[bits] // weight_qmax(operator.bits, operator.midrise)
    gain = min(operator.gain, 1 << (room.bit_length() - 1))
    source, target = to.edges[operator.inputs[0]], to.edges[operator.output]
    scale = operator.scale / np.float32(gain)
    real: Factor = in_float(source.scale, scale, target.scale)
    if bits == 4 and not is_matrix_product(operator):
        exact = factor(source.scale * scale.astype(np.float64) / target.scale, f"layer {operator.layer!r}")
        real = RoundedTwice(exact.mantissa, exact.shift)
    bias = np.rint(operator.bias * (gain / operator.gain)).astype(np.int32)
    return (replace(operator, gain=gain, bias=bias, factor=real),)


@dataclass(frozen=True)
class RoundedTwice(Factor):
    """Factors as LiteRT's own matrix kernels apply them: the product is rounded to an integer before it is shifted."""

    def apply_(self, accumulator: Tensor, axis: int) -> Tensor:
        """Rounded products in place of an int64 tensor; `axis` is the channel axis."""
        view = [1] * accumulator.dim()
        view[axis] = -1
        mantissa, exponent = torch.from_numpy(self.mantissa).view(view), 31 - torch.from_numpy(self.shift).view(view)
        left, right = exponent.clamp(min=0), (-exponent).clamp(min=0)
        accumulator.bitwise_left_shift_(left).mul_(mantissa).add_(1 << 30).bitwise_right_shift_(31)
        return accumulator.add_((torch.ones_like(right) << right) >> 1).bitwise_right_shift_(right)


@dataclass(frozen=True)
class RoundedAway(Factor):
    """Factors as the runtimes' reference kernels apply them: twice rounded, the second time halves away from zero.

    Attributes:
        up: bits by which accumulators are multiplied before, where weights are a power of two.
    """

    up: int = 0

    def apply_(self, accumulator: Tensor, axis: int) -> Tensor:
        """Rounded products in place of an int64 tensor; `axis` is the channel axis."""
        view = [1] * accumulator.dim()
        view[axis] = -1
        return self.broadcast_(accumulator, view)

    def broadcast_(self, accumulator: Tensor, shape: Sequence[int]) -> Tensor:
        """The same for factors of a shape that broadcasts to the accumulator's."""
        mantissa = torch.from_numpy(self.mantissa).reshape(*shape)
        exponent = 31 - torch.from_numpy(self.shift).reshape(*shape)
        left, right = exponent.clamp(min=0) + self.up, (-exponent).clamp(min=0)
        accumulator.bitwise_left_shift_(left).mul_(mantissa).add_(1 << 30).bitwise_right_shift_(31)
        half = (torch.ones_like(right) << right) >> 1
        nudge = half - (accumulator < 0).to(accumulator.dtype) * half.clamp(max=1)
        return accumulator.add_(nudge).bitwise_right_shift_(right)

    @property
    def value(self) -> NDArray[np.float64]:
        """The factors as floats."""
        result: NDArray[np.float64] = self.mantissa * 2.0 ** (self.up - self.shift)
        return result
