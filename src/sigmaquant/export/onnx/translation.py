"""From an `IntegerModel` to one ONNX graph in QDQ form, which ONNX Runtime fuses to integer kernels.

Codes are uint8 tensors, ``code + 128``, named after their edges; every operator dequantizes what it reads, computes
in float, and quantizes what it writes. The runtime replaces each such group by one integer kernel (QLinearConv,
QLinearAdd, QGemm, ...). What only moves or compares codes works on them directly.

The fixed-point factors of the integer model become the float scales of the DequantizeLinear nodes, so that the two
compute the same real number before the one rounding at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sigmaquant.export.onnx.builder import GraphBuilder
from sigmaquant.export.onnx.unpacking import Form, add_weight
from sigmaquant.lowering.model import (
    Affine,
    Average,
    Concatenation,
    Convolution,
    Edge,
    IntegerModel,
    Linear,
    Operator,
    Product,
    Sum,
    Weighted,
)
from sigmaquant.quant.numerics import activation_range

Clipped = Convolution | Linear | Affine | Sum | Product | Concatenation | Average
"""Operators that compute new codes and clip them."""
UNSIGNED = 128
"""What is added to an int8 code. ONNX Runtime's kernels for x86 read uint8 and would convert int8."""
_SMALLEST = float(np.finfo(np.float32).tiny)
_PAIR_LIMIT = 128
"""Two uint8 times int8 products are summed in saturating int16 by AVX2: 255 * 128 < 2**15."""
_BATCH = -1


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
        codes: the tensor that holds each edge's codes.
    """

    def __init__(self, model: IntegerModel, builder: GraphBuilder, form: Form, codes: dict[str, str]) -> None:
        self.model, self.builder, self.form, self.codes = model, builder, form, codes
        self._weights: dict[tuple[Any, ...], StoredWeight] = {}

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

    def write(self, value: str, operator: Clipped, shape: Sequence[int] = ()) -> None:
        """Float values as the operator's output.

        Args:
            value: the tensor.
            operator: says which edge and range.
            shape: without the batch dimension; the codes are brought to it, if it is given.
        """
        edge, output = self.model.edges[operator.output], self.codes[operator.output]
        if shape:
            codes = self.builder.unique(f"{output}.flat")
            self.quantize(value, edge, operator.low, operator.high, codes)
            self.reshaped(codes, shape, output)
        else:
            self.quantize(value, edge, operator.low, operator.high, output)

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

    def weight(self, operator: Weighted) -> StoredWeight:
        """A layer's integer weights; a weight that is used twice is stored once."""
        key = (operator.codes.tobytes(), operator.codes.shape, operator.bits, operator.midrise, operator.gain)
        if key not in self._weights:
            self._weights[key] = self._new_weight(operator)
        return self._weights[key]

    def _new_weight(self, operator: Weighted) -> StoredWeight:
        if operator.bits < 8:
            return StoredWeight(add_weight(self.builder, operator, self.form), np.int8, 0)
        name = f"{operator.name}.weight"
        if _pairs_saturate(operator.codes):
            codes = (operator.codes.astype(np.int16) + UNSIGNED).astype(np.uint8)
            return StoredWeight(self.builder.constant(codes, name), np.uint8, UNSIGNED)
        return StoredWeight(self.builder.constant(operator.codes, name), np.int8, 0)

    def channels(self, codes: str, zero_point: str, scale: NDArray[np.float32], hint: str) -> str:
        """Constant integers as float values, with a scale for each entry of the first dimension."""
        scale_name = self.builder.constant(scale, f"{hint}.scale")
        return self.builder.node("DequantizeLinear", [codes, scale_name, zero_point], hint=f"{hint}.real", axis=0)

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


def _pairs_saturate(codes: NDArray[np.int8]) -> bool:
    """Whether two products of a sum can exceed int16 where the processor lacks VNNI; uint8 weights are computed wider.

    Sums run over all dimensions but one; which values become neighbours is the kernel's business.
    """
    magnitudes = np.sort(np.abs(codes.astype(np.int16)).reshape(len(codes), -1), axis=1)
    return bool((magnitudes[:, -2:].sum(1) > _PAIR_LIMIT).any())
