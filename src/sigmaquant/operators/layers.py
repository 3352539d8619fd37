"""Layers with weights: convolutions of one to three dimensions, also transposed, and linear layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sigmaquant.errors import LoweringError
from sigmaquant.numerics import SCALE_FLOOR, weight_qmax
from sigmaquant.operators.edge import Edge
from sigmaquant.operators.fixed_point import Factor, factor
from sigmaquant.operators.meaning import (
    Pending,
    Vector,
    code_range,
)
from sigmaquant.operators.node import Operator, Reference, centred, compute, written

_EXACT_FLOAT32 = 2**24
_ACCUMULATOR_LIMIT = 2**31
_BIAS_LIMIT = 2.0**30
_INPUT_SPAN = 255
"""Largest distance of an 8-bit code from its zero-point."""
_LARGEST_GAINED = 64
"""Largest weight code times gain: two products of it and an 8-bit activation, ``2 * 255 * 64``, fit into int16, where
processors with AVX2 but without VNNI sum pairs and saturate silently (measured: 3.5 % other decisions with 127)."""

# -- in integers -----------------------------------------------------------------------------------------------------


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
        midrise: on which grid they lie, see `sigmaquant.numerics`.
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


@compute.register
def _(operator: Convolution, reference: Reference, codes: Tensor) -> Tensor:
    kind, rank = _kernel_type(operator, reference), len(operator.stride)
    x = centred(codes, reference.edges[operator.inputs[0]], kind)
    weight = torch.from_numpy(operator.codes).to(kind)
    function: Any
    with torch.backends.nnpack.flags(enabled=False):  # its Winograd transform rounds in between
        if operator.transposed:
            function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
            pads = [before for before, _ in operator.padding]
            sums = function(
                x, weight, None, operator.stride, pads, operator.output_padding, operator.groups, operator.dilation
            )
        else:
            function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
            x = F.pad(x, [side for pair in reversed(operator.padding) for side in pair])
            sums = function(x, weight, None, operator.stride, 0, operator.dilation, operator.groups)
    return _layer_output(sums, operator, reference, axis=1)


@compute.register
def _(operator: Linear, reference: Reference, codes: Tensor) -> Tensor:
    kind = _kernel_type(operator, reference)
    x = centred(codes, reference.edges[operator.inputs[0]], kind)
    return _layer_output(x @ torch.from_numpy(operator.codes).to(kind).T, operator, reference, axis=-1)


def _layer_output(sums: Tensor, operator: Weighted, reference: Reference, axis: int) -> Tensor:
    view = [1] * sums.dim()
    view[axis] = -1
    total = sums.to(torch.int64).mul_(operator.gain).add_(torch.from_numpy(operator.bias).view(view))
    return written(operator.factor.apply_(total, axis), operator, reference)


def _kernel_type(operator: Weighted, reference: Reference) -> torch.dtype:
    if reference.integer_kernels:
        return torch.int64
    if torch.get_float32_matmul_precision() != "highest":  # the user lets float32 kernels round to fewer bits
        return torch.float64
    magnitudes = np.abs(operator.codes.astype(np.int64))
    transposed = isinstance(operator, Convolution) and operator.transposed
    reach = magnitudes.sum() if transposed else magnitudes.reshape(len(magnitudes), -1).sum(1).max(initial=0)
    return torch.float32 if int(reach) * _INPUT_SPAN < _EXACT_FLOAT32 else torch.float64


# -- while it waits --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightCodes:
    """A weight in integers.

    Attributes:
        layer: name of the layer in the plan.
        codes: int8, of the weight's shape.
        bits: 2..8.
        midrise: on which grid.
        scale: float64 [channels].
        axis: of the channels.
    """

    layer: str
    codes: NDArray[np.int8]
    bits: int
    midrise: bool
    scale: Vector
    axis: int


@dataclass(frozen=True)
class LayerSum(Pending):
    """A layer's sum: ``sum codes * x * scale[c] + bias[c]``, x in real numbers.

    Attributes:
        name: of the operator.
        edge: what it reads.
        weight: its codes, [out, ...] or transposed.
        scale: [out].
        bias: [out].
        geometry: fields of a `Convolution`; None for a linear layer.
        fine_bias: see `lower`.
        rank: dimensions of an example of the result.
    """

    name: str = ""
    edge: Edge | None = None
    weight: WeightCodes | None = None
    scale: Vector | None = None
    bias: Vector | None = None
    geometry: dict[str, Any] | None = None
    fine_bias: bool = True
    rank: int = 1

    @property
    def channel_axis(self) -> int:
        """Of an example of the result."""
        return self.rank - 1 if self.geometry is None else 0

    def affine(self, factor: Vector, offset: Vector, rank: int) -> LayerSum | None:
        """After an affine map with numbers or one factor for each channel; None where others differ."""
        assert self.scale is not None, "only the default lacks it"
        assert self.bias is not None, "only the default lacks it"
        pair = [_by_channel(vector, self.channel_axis, rank, len(self.scale)) for vector in (factor, offset)]
        if pair[0] is None or pair[1] is None:
            return None
        return replace(self, scale=self.scale * pair[0], bias=self.bias * pair[0] + pair[1])

    def finish(self, edge: Edge, name: str) -> Operator:
        source, weight = self.edge, self.weight
        assert source is not None, "only the default lacks it"
        assert weight is not None, "only the default lacks it"
        assert self.scale is not None, "only the default lacks it"
        assert self.bias is not None, "only the default lacks it"
        low, high = code_range(self.clip, edge)
        geometry = self.geometry or {}
        transposed, groups = bool(geometry.get("transposed")), int(geometry.get("groups", 1))
        codes = _with_sign(weight.codes, np.sign(self.scale), transposed, groups)
        gain = max(1, _LARGEST_GAINED // weight_qmax(weight.bits, weight.midrise)) if self.fine_bias else 1
        gain = 1 << (gain.bit_length() - 1)
        # A bias that int32 cannot hold belongs to a channel whose weights have vanished: a larger scale does no harm.
        least = np.maximum(SCALE_FLOOR, np.abs(self.bias) * gain / (source.scale * _BIAS_LIMIT))
        scale = np.maximum(np.abs(self.scale), least).astype(np.float32)
        unit = source.scale * scale.astype(np.float64) / gain
        bias = np.rint(self.bias / unit)
        reach = _absolute_sums(codes, transposed, groups) * (_INPUT_SPAN * gain) + np.abs(bias)
        if not np.isfinite(reach).all() or reach.max(initial=0) >= _ACCUMULATOR_LIMIT:
            raise LoweringError(
                f"layer {weight.layer!r}: its sums can reach {reach.max():.3g}, more than an int32 accumulator holds. "
                "Use fewer bits for its weights or its input."
            )
        common: Any = {
            "name": name,
            "inputs": (source.name,),
            "output": edge.name,
            "layer": weight.layer,
            "codes": codes,
            "bits": weight.bits,
            "midrise": weight.midrise,
            "gain": gain,
            "scale": scale,
            "bias": bias.astype(np.int32),
            "factor": factor(unit / edge.scale, f"layer {weight.layer!r}"),
            "low": low,
            "high": high,
        }
        return Linear(**common) if self.geometry is None else Convolution(**common, **self.geometry)


def _by_channel(vector: Vector, axis: int, rank: int, channels: int) -> Vector | None:
    """A constant that broadcasts to an example as one number for each channel."""
    if vector.size == 1:
        return np.full(channels, float(vector.reshape(())))
    whole = vector.reshape((1,) * (rank - vector.ndim) + vector.shape)
    if whole.shape[axis] != channels or whole.size != channels:
        return None
    flat: Vector = whole.reshape(-1)
    return flat


def _with_sign(codes: NDArray[np.int8], sign: NDArray[np.float64], transposed: bool, groups: int) -> NDArray[np.int8]:
    """The codes with every output channel's sign; both grids are symmetric. A zero sign counts as positive."""
    flips = np.where(sign < 0, -1, 1).astype(np.int8)
    if not transposed:
        return codes * flips.reshape(-1, *[1] * (codes.ndim - 1))
    per_group = flips.reshape(groups, -1)  # [groups, out / groups]; the codes are [in, out / groups, ...]
    rows = np.repeat(per_group, codes.shape[0] // groups, axis=0)
    return codes * rows.reshape(*rows.shape, *[1] * (codes.ndim - 2))


def _absolute_sums(codes: NDArray[np.int8], transposed: bool, groups: int) -> NDArray[np.int64]:
    """Sum of the magnitudes of each output channel's codes: [out]."""
    magnitudes = np.abs(codes.astype(np.int64))
    if not transposed:
        result: NDArray[np.int64] = magnitudes.reshape(len(codes), -1).sum(1)
        return result
    grouped = magnitudes.reshape(groups, codes.shape[0] // groups, codes.shape[1], -1)
    flat: NDArray[np.int64] = grouped.sum((1, 3)).reshape(-1)
    return flat
