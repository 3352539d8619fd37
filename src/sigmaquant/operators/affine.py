"""Affine maps of one edge and sums of two: arithmetic with numbers and constants, BatchNorm, additions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from sigmaquant.operators.edge import Edge
from sigmaquant.operators.embedding import Rows
from sigmaquant.operators.fixed_point import broadcast_multipliers, common_multipliers
from sigmaquant.operators.lookup import Elementwise, Unary
from sigmaquant.operators.matmul import Multiplied
from sigmaquant.operators.meaning import (
    Builder,
    Extent,
    Meaning,
    Pending,
    Value,
    Vector,
    code_range,
    constant_shape,
    declares,
    extent,
    extent_of,
    is_codes,
    is_constant,
    is_live,
    is_number,
)
from sigmaquant.operators.movement import Returned, Steps, broadcasting, expanded, moved
from sigmaquant.operators.node import Operator, Reference, centred, compute, rounded_shift_, written
from sigmaquant.operators.norm import Normalizing, Normed
from sigmaquant.operators.roles import Role, plays

_ONE = np.ones(())
_ZERO = np.zeros(())

# -- in integers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Affine(Operator):
    """A factor and an offset for each channel, position or value, as of a BatchNorm that follows no convolution.

    ``clamp(z + ((x - z_x) * multiplier + offset + 2**(shift-1)) >> shift, low, high)``; everything fits into 32 bits.
    The three arrays have one shape, which broadcasts to an example: 1 or the whole size along each of its axes.

    Attributes:
        multiplier: int32, may be negative or zero.
        offset: int32.
        shift: int64, 1..30.
        low: smallest output code.
        high: largest output code.
    """

    multiplier: NDArray[np.int32]
    offset: NDArray[np.int32]
    shift: NDArray[np.int64]
    low: int
    high: int

    @property
    def axis(self) -> int | None:
        """The one axis along which the numbers differ; None where there are several, or none."""
        varying = [axis for axis, size in enumerate(self.multiplier.shape) if size > 1]
        return varying[0] if len(varying) == 1 else None


@compute.register
def _(operator: Affine, reference: Reference, codes: Tensor) -> Tensor:
    x = centred(codes, reference.edges[operator.inputs[0]], torch.int32)
    x = x.mul_(torch.from_numpy(operator.multiplier)).add_(torch.from_numpy(operator.offset))
    return written(rounded_shift_(x, torch.from_numpy(operator.shift).to(torch.int32)), operator, reference)


@dataclass(frozen=True)
class Sum(Operator):
    """``clamp(z + (sum_k multiplier_k * (x_k - z_k) + offset + 2**(shift-1)) >> shift, low, high)``, in 32 bits.

    Inputs have as many dimensions as the output, and broadcast to it.
    """

    multipliers: tuple[int, ...]
    offset: int
    shift: int
    low: int
    high: int


@compute.register
def _(operator: Sum, reference: Reference, *inputs: Tensor) -> Tensor:
    total: Tensor | None = None
    for name, codes, multiplier in zip(operator.inputs, inputs, operator.multipliers, strict=True):
        term = centred(codes, reference.edges[name], torch.int32).mul_(multiplier)
        total = term if total is None else total + term
    assert total is not None, "a sum has terms"
    return written(rounded_shift_(total.add_(operator.offset), operator.shift), operator, reference)


# -- while it waits --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mapped(Pending):
    """``edge * factor + offset``; both broadcast to an example of the edge, or are numbers of shape ``()``."""

    name: str = ""
    edge: Edge | None = None
    factor: Vector = field(default_factory=lambda: _ONE)
    offset: Vector = field(default_factory=lambda: _ZERO)

    def mapped(self, factor: Vector, offset: Vector) -> Mapped:
        """After another affine map."""
        return replace(self, factor=self.factor * factor, offset=self.offset * factor + offset)

    def finish(self, edge: Edge, name: str) -> Operator:
        source = self.edge
        assert source is not None, "only the default lacks an edge"
        low, high = code_range(self.clip, edge)
        shape = np.broadcast_shapes(self.factor.shape, self.offset.shape)
        reals, offsets = self.factor * (source.scale / edge.scale), self.offset / edge.scale
        if math.prod(shape) == 1:
            (multiplier,), offset, shift = common_multipliers([float(reals)], float(offsets), 21, name)
            return Sum(name, (source.name,), edge.name, (multiplier,), offset, shift, low, high)
        arrays = broadcast_multipliers(reals, offsets, len(source.shape), name)
        return Affine(name, (source.name,), edge.name, *arrays, low, high)


@dataclass(frozen=True)
class Terms(Pending):
    """``sum coefficient * edge + offset``; the edges broadcast to one shape."""

    terms: tuple[tuple[Edge, float], ...] = ()
    offset: float = 0.0

    def scaled(self, factor: float, offset: float) -> Terms:
        """After an affine map with numbers."""
        terms = tuple((edge, coefficient * factor) for edge, coefficient in self.terms)
        return replace(self, terms=terms, offset=self.offset * factor + offset)

    def finish(self, edge: Edge, name: str) -> Operator:
        low, high = code_range(self.clip, edge)
        reals = [coefficient * source.scale / edge.scale for source, coefficient in self.terms]
        multipliers, offset, shift = common_multipliers(reals, self.offset / edge.scale, 20, name)
        inputs = tuple(source.name for source, _ in self.terms)
        return Sum(name, inputs, edge.name, tuple(multipliers), offset, shift, low, high)


# -- meanings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AffineMap(Meaning):
    """``x * factor + offset`` with numbers or constants.

    Attributes:
        varies: the shape of the constants against an example of the result; ``()`` for numbers.
    """

    varies: tuple[int, ...] = ()

    clippable: ClassVar[bool] = True
    affine: ClassVar[bool] = True
    producer: ClassVar[str] = "multiply"

    def coefficients(self, to: Builder) -> tuple[Vector, Vector]:
        """Factor and offset, of shapes that broadcast to `varies`."""
        raise NotImplementedError

    @property
    def numbers(self) -> bool:
        """Whether one factor and one offset serve all values."""
        return math.prod(self.varies) == 1

    @property
    def multiplies(self) -> bool:
        """Whether nothing is added."""
        return False

    def along(self, axis: int) -> bool:
        """Whether the constants differ along one axis of the result at most."""
        return all(size == 1 or place == axis for place, size in enumerate(self.varies))

    def extends(self, chain: Sequence[Meaning]) -> bool:
        last = chain[-1]
        if last.shape != self.shape or last.rows != self.rows:  # it broadcasts
            return False
        axis = chain[0].channel_axis
        if axis is not None and all(link.affine for link in chain):
            return self.numbers or self.along(axis)
        if all(isinstance(link, AffineMap) for link in chain):
            return True
        if chain[0].scalable and self.numbers and self.multiplies:
            return all(link.scalable or isinstance(link, AffineMap) for link in chain)
        if isinstance(chain[0], Normalizing):
            return all(link.affine for link in chain)
        whole = isinstance(chain[0], SumOfTwo | Elementwise)
        return self.numbers and whole and all(link.affine for link in chain)

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        from sigmaquant.operators.layers import LayerSum

        (value,) = values
        factor, offset = self.coefficients(to)
        if not (np.isfinite(factor).all() and np.isfinite(offset).all()):
            return None
        if isinstance(value, LayerSum) and value.clip.is_open:
            return value.affine(factor, offset, len(self.shape))
        if isinstance(value, Mapped) and value.clip.is_open:
            return value.mapped(factor, offset)
        if isinstance(value, Terms) and value.clip.is_open and self.numbers:
            return value.scaled(float(factor.reshape(())), float(offset.reshape(())))
        if isinstance(value, Normed) and value.clip.is_open:
            return value.mapped(factor, offset)
        if isinstance(value, Multiplied | Rows | Returned) and value.clip.is_open and self.numbers and self.multiplies:
            return _scaled(value, float(factor.reshape(())))
        if isinstance(value, Unary) and self.numbers:
            slope, shift = float(factor.reshape(())), float(offset.reshape(()))
            return value.then(value.function, lambda x: x * slope + shift)
        if is_codes(value):
            return self.mapped_edge(expanded(value, self.shape, to), factor, offset)
        return None

    def mapped_edge(self, edge: Edge, factor: Vector, offset: Vector) -> Mapped:
        """The map of an edge."""
        return Mapped(edge=edge, factor=factor, offset=offset)


@dataclass(frozen=True)
class WithConstant(AffineMap):
    """Addition, subtraction, multiplication or division with a number or a constant tensor.

    Attributes:
        constant: the number, or the node of the tensor.
        how: ``add``, ``subtract`` (the constant), ``subtract_from`` (the constant), ``multiply`` or ``divide``.
        alpha: what the second operand of an addition or subtraction is multiplied with.
        constant_first: whether the constant is the first operand.
        batch_axis: of the result.
    """

    constant: float | fx.Node = 0.0
    how: str = "add"
    alpha: float = 1.0
    constant_first: bool = False
    batch_axis: int = 0

    @property
    def multiplies(self) -> bool:
        positive = isinstance(self.constant, int | float) and self.constant > 0
        return self.how in ("multiply", "divide") and positive

    def coefficients(self, to: Builder) -> tuple[Vector, Vector]:
        if isinstance(self.constant, fx.Node):
            value = _against(
                to.constant(self.constant).detach().double().cpu().numpy(), len(self.shape), self.batch_axis
            )
        else:
            value = np.array(float(self.constant))
        if self.how == "multiply":
            return value, _ZERO
        if self.how == "divide":
            with np.errstate(divide="ignore"):
                return 1.0 / value, _ZERO
        # first + alpha * second, second negative for a subtraction
        sign = self.alpha if self.how == "add" else -self.alpha
        if self.constant_first:
            return np.array(sign), value
        return _ONE, sign * value


def _scaled(value: Multiplied | Rows | Returned, number: float) -> Pending | None:
    """A matrix product, or rows of a table, times a number."""
    inner = value.inner if isinstance(value, Returned) else value
    if not isinstance(inner, Multiplied | Rows) or number <= 0:
        return None
    scaled = replace(inner, scale=inner.scale * number)
    return replace(value, inner=scaled) if isinstance(value, Returned) else scaled


def _against(value: Vector, rank: int, batch_axis: int) -> Vector:
    """A constant against an example of `rank` dimensions: without the batch axis, all other axes there."""
    if value.size == 1:
        return value.reshape(())
    if value.ndim == rank and batch_axis == 0:  # rows that have become an axis
        return value
    whole = value.reshape((1,) * (rank + 1 - value.ndim) + value.shape)
    return np.asarray(whole.take(0, axis=batch_axis))


@dataclass(frozen=True)
class Normalization(AffineMap):
    """A BatchNorm with the statistics of training: along the second dimension."""

    producer: ClassVar[str] = "norm"

    def coefficients(self, to: Builder) -> tuple[Vector, Vector]:
        module: Any = to.module(self.node)
        deviation = np.sqrt(module.running_var.double().cpu().numpy() + module.eps)
        gamma = np.ones_like(deviation) if module.weight is None else module.weight.double().cpu().numpy()
        beta = np.zeros_like(deviation) if module.bias is None else module.bias.double().cpu().numpy()
        factor = gamma / deviation
        offset = beta - factor * module.running_mean.double().cpu().numpy()
        view = (-1, *[1] * (len(self.shape) - 1))
        return factor.reshape(view), offset.reshape(view)

    node: fx.Node = None  # type: ignore[assignment]

    def mapped_edge(self, edge: Edge, factor: Vector, offset: Vector) -> Mapped:
        return Mapped(name=str(self.node.target), edge=edge, factor=factor, offset=offset)


@dataclass(frozen=True)
class SumOfTwo(Meaning):
    """``a + coefficient * b`` of two edges that broadcast."""

    coefficients: tuple[float, float] = (1.0, 1.0)

    producer: ClassVar[str] = "add"
    clippable: ClassVar[bool] = True
    affine: ClassVar[bool] = True

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        edges = broadcasting(values, self.rows, len(self.shape), to)
        return None if edges is None else Terms(terms=tuple(zip(edges, self.coefficients, strict=True)))


_HOW = {"add": "add", "sub": "subtract", "subtract": "subtract", "mul": "multiply", "multiply": "multiply",
        "div": "divide", "divide": "divide", "true_divide": "divide"}  # fmt: skip


@declares("add", "sub", "subtract", "rsub", producer="add")
@declares("mul", "multiply", "div", "divide", "true_divide", producer="multiply")
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    name = str(node.target._schema.name).rpartition("::")[2].removesuffix("_")  # type: ignore[union-attr]
    if given.get("rounding_mode") is not None:
        return None
    first, second = given["self"], given["other"]
    if name == "rsub":
        # other - alpha * self
        return arithmetic(node, second, first, "subtract", given.get("alpha", 1))
    return arithmetic(node, first, second, _HOW[name], given.get("alpha", 1))


def _by_row(
    node: fx.Node, found: Extent, source: fx.Node, constant: object, how: str, alpha: float, first: bool
) -> Meaning | None:
    """Arithmetic with a constant that has numbers of its own for each of an example's rows (windows)."""
    if not isinstance(constant, fx.Node):
        return None
    value = constant.meta.get("val")
    place = extent_of(value) if isinstance(value, Tensor) else None
    if place is None or found.rows == 1 or found.batch_axis or place.rows != found.rows or extent(source) != found:
        return None
    if len(place.shape) != len(found.shape):
        return None
    inner = WithConstant(
        (source,),
        1,
        (found.rows, *found.shape),
        (place.rows, *place.shape),
        constant,
        how,
        alpha,
        first,
        0,
    )
    return ByRow((source,), found.rows, found.shape, inner)


@dataclass(frozen=True)
class ByRow(Meaning):
    """An affine map with other numbers for each row of an example: the rows become an axis for it.

    Attributes:
        inner: the map.
    """

    inner: WithConstant = None  # type: ignore[assignment]

    producer: ClassVar[str] = "multiply"

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        (edge,) = values
        if not is_codes(edge):
            return None
        steps = Steps(Extent(edge.rows, edge.shape)).reshape((edge.rows, *edge.shape), 1)
        mapped = self.inner.build((moved(edge, steps, to),), to)
        back = Steps(Extent(1, steps.shape)).reshape(edge.shape, edge.rows)
        if not isinstance(mapped, Mapped):
            return None
        return Returned(inner=mapped, shape=steps.shape, steps=tuple(back.steps), rows=1)


plays(Role.MEASURES, "add", "sub", "rsub", "mul", "neg")


@declares("neg", "negative", producer="multiply")
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    return arithmetic(node, given["self"], -1.0, "multiply", 1)


def _alike(first: Extent, second: Extent) -> bool:
    """Whether two tensors broadcast axis by axis, the batch with the batch."""
    return (first.rows, len(first.shape), first.batch_axis) == (second.rows, len(second.shape), second.batch_axis)


def arithmetic(node: fx.Node, first: object, second: object, how: str, alpha: object) -> Meaning | None:
    """``first + alpha * second``, or a subtraction, product or quotient; None where it has no integer form."""
    from sigmaquant.operators.product import Multiplication

    found = extent(node, anywhere=True)
    if found is None or not is_number(alpha):
        return None
    live = [operand for operand in (first, second) if is_live(operand)]
    rank = len(found.shape)
    if len(live) == 2:
        extents = [extent(operand, anywhere=True) for operand in live]
        if not all(e is not None and _alike(e, found) for e in extents):
            return None
        if how == "multiply":
            return Multiplication(tuple(live), found.rows, found.shape)
        if how == "divide":
            return None
        sign = float(alpha) if how == "add" else -float(alpha)
        return SumOfTwo(tuple(live), found.rows, found.shape, (1.0, sign)) if sign else None
    if len(live) != 1:
        return None
    place = extent(live[0], anywhere=True)
    constant, constant_first = (second, False) if live[0] is first else (first, True)
    if place is None or not _alike(place, found) or (how == "divide" and constant_first):
        return None
    if isinstance(constant, fx.Node):
        if not is_constant(constant):
            return None
    elif not is_number(constant) or not math.isfinite(constant):
        return None
    varies = constant_shape(constant, rank, found.batch_axis)
    if varies is None:
        return _by_row(node, found, live[0], constant, how, float(alpha), constant_first)
    return WithConstant(
        (live[0],),
        found.rows,
        found.shape,
        varies,
        constant,
        how,
        float(alpha),
        constant_first,
        found.batch_axis,
    )
