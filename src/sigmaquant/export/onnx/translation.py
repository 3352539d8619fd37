"""From an `IntegerModel` to one ONNX graph in QDQ form, which ONNX Runtime fuses to integer kernels.

Codes are uint8 tensors, ``code + 128``, named after their edges; every operator dequantizes what it reads, computes
in float, and quantizes what it writes. The runtime replaces each such group by one integer kernel (QLinearConv,
QLinearAdd, QGemm, ...). What only moves or compares codes works on them directly.

The fixed-point factors of the integer model become the float scales of the DequantizeLinear nodes, so that the two
compute the same real number before the one rounding at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sigmaquant.errors import ExportError
from sigmaquant.export.onnx.builder import GraphBuilder
from sigmaquant.export.onnx.unpacking import Form, add_weight
from sigmaquant.lowering.model import IntegerModel
from sigmaquant.numerics import activation_range
from sigmaquant.operators import Edge, Matrix, Operator, Weighted


class Clipped(Protocol):
    """Operators that compute new codes and clip them."""

    @property
    def output(self) -> str:
        """Name of the edge written."""
        ...

    @property
    def low(self) -> int:
        """Smallest output code."""
        ...

    @property
    def high(self) -> int:
        """Largest output code."""
        ...


UNSIGNED = 128
"""What is added to an int8 code. ONNX Runtime's kernels for x86 read uint8 and would convert int8."""
_SMALLEST = float(np.finfo(np.float32).tiny)
_PAIR_LIMIT = 128
"""Two uint8 times int8 products are summed in saturating int16 by AVX2: 255 * 128 < 2**15."""
_BATCH = -1
TIE_STEPS = 2.0**-13
"""What is added where halves are likely: the reference rounds them up, the runtime to even. More than float32 loses in
a few operations on 255 steps, and so little that it decides one code in thousands otherwise."""
SHARE_TIES = 2.0**-18
"""The same relative to a value, for quotients: equal shares of 512 are halves of 1/256."""


@dataclass(frozen=True)
class StoredWeight:
    """A tensor of ``gain * code + zero_point``, int8 or uint8."""

    codes: str
    kind: type[np.generic]
    zero_point: int


class Translation:
    """A graph that grows by one operator after the other.

    Args:
        model: the network.
        builder: receives the nodes.
        form: of the packed weights.
        saturating: whether sums of pairs of products may be limited to int16 by the processor.
        codes: the tensor that holds each edge's codes, or its values where it is float; made when it is asked for
            where they have been written as vectors.

    Attributes:
        scans: recurrent layers that are there, by what makes them up: their sequences and last states.
    """

    def __init__(
        self, model: IntegerModel, builder: GraphBuilder, form: Form, codes: Mapping[str, str], saturating: bool = True
    ) -> None:
        self.model, self.builder, self.form, self.saturating = model, builder, form, saturating
        self.codes: Mapping[str, str] = _Shaped(codes, self)
        self._names = codes
        self._weights: dict[tuple[Any, ...], StoredWeight] = {}
        self._vectors: dict[str, str] = {}
        self.scans: dict[tuple[Any, ...], tuple[str, str]] = {}

    def edge(self, operator: Operator, index: int = 0) -> Edge:
        """An operator's input edge."""
        return self.model.edges[operator.inputs[index]]

    def zero_point(self, value: int, kind: type[np.generic] = np.uint8, channels: int = 0) -> str:
        """A constant zero-point: one value, or [channels]."""
        array = np.full(channels, value, kind) if channels else np.array(value, kind)
        return self.builder.constant(array, f"zero_point.{value}")

    def scale(self, value: float, hint: str) -> str:
        """A constant float32 scale, positive even where the factor has vanished."""
        return self.builder.constant(np.array(max(value, _SMALLEST), np.float32), f"{hint}.scale")

    def real(
        self,
        edge: Edge,
        scale: float | None = None,
        codes: str = "",
        zero_point: int | None = None,
        output: str = "",
    ) -> str:
        """An edge's codes as float values.

        Args:
            edge: the edge.
            scale: another than the edge's own.
            codes: another tensor than the edge's own (reshaped, complemented).
            zero_point: of these codes, uint8.
            output: the result's name.
        """
        zero_point = edge.zero_point + UNSIGNED if zero_point is None else zero_point
        inputs = [
            codes or self.codes[edge.name],
            self.scale(edge.scale if scale is None else scale, edge.name),
            self.zero_point(zero_point),
        ]
        return self.builder.node("DequantizeLinear", inputs, output, hint=f"{edge.name}.real")

    def write(
        self,
        value: str,
        operator: Clipped,
        shape: Sequence[int] | None = None,
        *,
        vectors: bool = False,
        relative: float = 1.0,
    ) -> None:
        """Float values as the operator's output.

        Args:
            value: the tensor.
            operator: says which edge and range.
            shape: without the batch dimension; the codes are brought to it, if it is given.
            vectors: the values are [.., last axis], and the codes stay so.
            relative: by what the edge's scale is multiplied here.
        """
        edge = self.model.edges[operator.output]
        output = self.as_vectors(edge) if vectors else self._names[edge.name]
        edge = replace(edge, scale=edge.scale * relative)
        if shape is not None:
            codes = self.builder.unique(f"{output}.flat")
            self.quantize(value, edge, operator.low, operator.high, codes)
            self.reshaped(codes, shape, output)
        else:
            self.quantize(value, edge, operator.low, operator.high, output)

    def write_rounded_up(self, value: str, operator: Clipped, shape: Sequence[int] | None = None) -> None:
        """The same for values among which halves of a step are likely: they are rounded up, as by the reference."""
        tie = np.array(self.model.edges[operator.output].scale * TIE_STEPS, np.float32)
        self.write(
            self.builder.node("Add", [value, self.builder.constant(tie, "tie")], hint=f"{value}.up"), operator, shape
        )

    def tie(
        self, multiplier: NDArray[np.int32], offset: NDArray[np.int32], shift: NDArray[np.int64], operator: Clipped
    ) -> NDArray[np.float64]:
        """What ``(integer * multiplier + offset) >> shift`` takes, so that no half of a step is left: half of a unit.

        The reference rounds halves up, the runtime to even.
        """
        units = np.gcd(multiplier, offset) * 2.0**-shift
        found: NDArray[np.float64] = np.minimum(0.5 * units, TIE_STEPS) * self.model.edges[operator.output].scale
        return found

    def mapped(self, value: str, factor: NDArray[Any] | float, offset: NDArray[Any] | float, name: str) -> str:
        """``factor * value + offset`` in float; both broadcast to an example."""
        for kind, given in (("Mul", factor), ("Add", offset)):
            constant = self.builder.constant(_narrowed(np.asarray(given, np.float32)), f"{name}.{kind.lower()}")
            value = self.builder.node(kind, [value, constant], name=f"{name}.{kind.lower()}", hint=f"{name}.real")
        return value

    def quantize(self, value: str, edge: Edge, low: int, high: int, output: str) -> None:
        """Float values as an edge's codes, clipped.

        The clipping of codes is exact, and unlike one of the float values it never prevents a fusion.
        """
        constants = [self.scale(edge.scale, edge.name), self.zero_point(edge.zero_point + UNSIGNED)]
        if (low, high) == activation_range(8):
            self.builder.node("QuantizeLinear", [value, *constants], output)
            return
        codes = self.builder.node("QuantizeLinear", [value, *constants], hint=f"{output}.unclipped")
        bounds = [self.builder.constant(np.array(code + UNSIGNED, np.uint8), "bound") for code in (low, high)]
        self.builder.node("Clip", [codes, *bounds], output)

    def reshaped(self, codes: str, shape: Sequence[int], output: str = "") -> str:
        """Codes in another shape, given without the batch dimension."""
        inputs = [codes, self.builder.integers(_BATCH, *shape)]
        return self.builder.node("Reshape", inputs, output, hint=f"{codes}.reshaped")

    def vectors(self, edge: Edge) -> str:
        """An edge's codes as [.., last axis], which all layers that read it share."""
        if len(edge.shape) == 1:
            return self.codes[edge.name]
        if edge.name not in self._vectors:
            self._vectors[edge.name] = self.reshaped(self.codes[edge.name], edge.shape[-1:])
        return self._vectors[edge.name]

    def as_vectors(self, edge: Edge) -> str:
        """The tensor to write, where an edge's codes are written as [.., last axis]."""
        if len(edge.shape) > 1:
            self._vectors[edge.name] = self._names[edge.name]
        return self._names[edge.name]

    def in_vectors(self, edge: Edge) -> bool:
        """Whether an edge's codes are at hand as [.., last axis]."""
        return edge.name in self._vectors

    def weight(self, operator: Weighted | Matrix) -> StoredWeight:
        """A layer's integer weights; a weight that is used twice is stored once."""
        key = (operator.codes.tobytes(), operator.codes.shape, operator.bits, operator.midrise, operator.gain)
        if key not in self._weights:
            self._weights[key] = self._new_weight(operator)
        return self._weights[key]

    def _new_weight(self, operator: Weighted | Matrix) -> StoredWeight:
        if operator.bits < 8:
            return StoredWeight(add_weight(self.builder, operator, self.form), np.int8, 0)
        name = f"{operator.name}.weight"
        if self.saturating and _pairs_saturate(operator.codes):
            codes = (operator.codes.astype(np.int16) + UNSIGNED).astype(np.uint8)
            return StoredWeight(self.builder.constant(codes, name), np.uint8, UNSIGNED)
        return StoredWeight(self.builder.constant(operator.codes, name), np.int8, 0)

    def channels(self, codes: str, zero_point: str, scale: NDArray[np.float32], hint: str, axis: int = 0) -> str:
        """Constant integers as float values, with a scale for each entry of a dimension."""
        scale_name = self.builder.constant(scale, f"{hint}.scale")
        return self.builder.node("DequantizeLinear", [codes, scale_name, zero_point], hint=f"{hint}.real", axis=axis)

    def layer(self, operator: Weighted) -> tuple[str, str]:
        """A layer's weight and bias as float values."""
        weight, channels = self.weight(operator), len(operator.scale)
        scale = operator.scale / np.float32(operator.gain)
        bias_scale = scale * np.float32(self.edge(operator).scale)
        zeros = self.zero_point(weight.zero_point, weight.kind, channels)
        return (
            self.channels(weight.codes, zeros, scale, f"{operator.name}.weight"),
            self.bias(operator.bias, bias_scale, operator.name),
        )

    def bias(self, codes: NDArray[np.int32], scale: NDArray[np.float32], name: str) -> str:
        """An int32 bias as float values."""
        stored = self.builder.constant(codes, f"{name}.bias")
        return self.channels(stored, self.zero_point(0, np.int32, len(codes)), scale, f"{name}.bias")


class _Shaped(Mapping[str, str]):
    """Tensors of codes in the shape of their edges, made where only vectors have been written."""

    def __init__(self, names: Mapping[str, str], to: Translation) -> None:
        self.names, self.to = names, to
        self._made: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        tensor = self.names[name]
        if self.to._vectors.get(name) != tensor:
            return tensor
        if name not in self._made:
            self._made[name] = self.to.reshaped(tensor, self.to.model.edges[name].shape)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _pairs_saturate(codes: NDArray[np.int8]) -> bool:
    """Whether two products of a sum can exceed int16 where the processor lacks VNNI; uint8 weights are computed wider.

    Sums run over all dimensions but one; which values become neighbours is the kernel's business.
    """
    magnitudes = np.sort(np.abs(codes.astype(np.int16)).reshape(len(codes), -1), axis=1)
    return bool((magnitudes[:, -2:].sum(1) > _PAIR_LIMIT).any())


def _narrowed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A constant that broadcasts to the same numbers, without axes along which they are equal."""
    for axis, size in enumerate(values.shape):
        first = values.take([0], axis)
        if size > 1 and np.array_equal(np.broadcast_to(first, values.shape), values):
            values = first
    while values.ndim and values.shape[0] == 1:
        values = values[0]
    return values


@singledispatch
def translate(operator: Operator, to: Translation) -> None:
    """Add one operator to the graph.

    Raises:
        ExportError: ONNX cannot express it.
    """
    raise ExportError(
        f"{operator.name!r}: the ONNX exporter does not know {type(operator).__name__}. Replace this operator of the "
        "network, or export to another target."
    )
