"""The last step of a chain: its arithmetic and the output's grid become one integer operator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sigmaquant.errors import LoweringError
from sigmaquant.lowering.fixed_point import common_multipliers, factor
from sigmaquant.lowering.model import (
    Affine,
    Average,
    Concatenation,
    Convolution,
    Edge,
    Linear,
    Lookup,
    Operator,
    Product,
    Sum,
)
from sigmaquant.lowering.values import ChannelMap, Clip, Joined, Layer, Mean, Pending, Terms, Times, Unary
from sigmaquant.quant.numerics import SCALE_FLOOR, quantize_activation, weight_qmax

_ACCUMULATOR_LIMIT = 2**31
_BIAS_LIMIT = 2.0**30
_INPUT_SPAN = 255
"""Largest distance of an 8-bit code from its zero-point."""
_LARGEST_GAINED = 64
"""Largest weight code times gain: two products of it and an 8-bit activation, ``2 * 255 * 64``, fit into int16, where
processors with AVX2 but without VNNI sum pairs and saturate silently (measured: 3.5 % other decisions with 127)."""


def finish(value: Pending, edge: Edge, name: str) -> Operator:
    """The operator that computes a pending value on its output's grid.

    Raises:
        LoweringError: scales or biases that integers cannot hold.
    """
    low, high = _code_range(value.clip, edge)
    if isinstance(value, Layer):
        return _layer(value, edge, name, low, high)
    if isinstance(value, Terms):
        reals = [c * source.scale / edge.scale for source, c in value.terms]
        bits = 21 if len(reals) == 1 else 20
        multipliers, offset, shift = common_multipliers(reals, value.offset / edge.scale, bits, name)
        inputs = tuple(source.name for source, _ in value.terms)
        return Sum(name, inputs, edge.name, tuple(multipliers), offset, shift, low, high)
    if isinstance(value, ChannelMap):
        return _channel_map(value, edge, name, low, high)
    if isinstance(value, Mean):
        source = _given(value.edge)
        scale = factor(source.scale / edge.scale / value.count, name)
        shape = (value.dims, value.keepdim, value.kernel, value.stride, value.padding)
        return Average(name, (source.name,), edge.name, scale, *shape, low, high)
    if isinstance(value, Joined):
        return _concatenation(value, edge, name, low, high)
    if isinstance(value, Times):
        left, right = _given(value.left), _given(value.right)
        scale = factor(left.scale * right.scale / edge.scale, name)
        return Product(name, (left.name, right.name), edge.name, scale, low, high)
    assert isinstance(value, Unary), f"unknown kind of pending value {type(value).__name__}"
    return _lookup(value, edge, name)


def _given(edge: Edge | None) -> Edge:
    assert edge is not None, "only Pending's defaults lack an edge"
    return edge


def _code_range(clip: Clip, edge: Edge) -> tuple[int, int]:
    """The clipping in codes; the quantizer rounds after it clips, and rounding keeps the order."""
    qmin, qmax = edge.range

    def code(value: float, default: int) -> int:
        if math.isinf(value):
            return default
        return int(quantize_activation(torch.tensor(value), torch.tensor(edge.scale), edge.zero_point, edge.bits))

    return code(clip.low, qmin), code(clip.high, qmax)


def _layer(value: Layer, edge: Edge, name: str, low: int, high: int) -> Operator:
    assert value.codes is not None
    assert value.scale is not None
    assert value.bias is not None
    assert value.geometry is not None
    source = _given(value.edge)
    transposed = bool(value.geometry.get("transposed"))
    codes = _with_sign(value.codes, np.sign(value.scale), transposed, value.geometry.get("groups", 1))
    gain = max(1, _LARGEST_GAINED // weight_qmax(value.bits, value.midrise)) if value.fine_bias else 1
    gain = 1 << (gain.bit_length() - 1)
    # A bias that int32 cannot hold belongs to a channel whose weights have vanished: a larger scale changes nothing.
    least = np.maximum(SCALE_FLOOR, np.abs(value.bias) * gain / (source.scale * _BIAS_LIMIT))
    scale = np.maximum(np.abs(value.scale), least).astype(np.float32)
    unit = source.scale * scale.astype(np.float64) / gain
    bias = np.rint(value.bias / unit)
    reach = _absolute_sums(codes, transposed, value.geometry.get("groups", 1)) * (_INPUT_SPAN * gain) + np.abs(bias)
    if not np.isfinite(reach).all() or reach.max(initial=0) >= _ACCUMULATOR_LIMIT:
        raise LoweringError(
            f"layer {value.layer!r}: its sums can reach {reach.max():.3g}, more than an int32 accumulator holds. "
            "Use fewer bits for its weights or its input."
        )
    common: Any = {
        "name": name,
        "inputs": (source.name,),
        "output": edge.name,
        "layer": value.layer,
        "codes": codes,
        "bits": value.bits,
        "midrise": value.midrise,
        "gain": gain,
        "scale": scale,
        "bias": bias.astype(np.int32),
        "factor": factor(unit / edge.scale, f"layer {value.layer!r}"),
        "low": low,
        "high": high,
    }
    return Convolution(**common, **value.geometry) if value.geometry else Linear(**common)


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


def _channel_map(value: ChannelMap, edge: Edge, name: str, low: int, high: int) -> Affine:
    assert value.factor is not None
    assert value.offset is not None
    source = _given(value.edge)
    rows = [
        common_multipliers([a * source.scale / edge.scale], b / edge.scale, 21, name)
        for a, b in zip(value.factor.tolist(), value.offset.tolist(), strict=True)
    ]
    return Affine(
        name,
        (source.name,),
        edge.name,
        np.array([m[0] for m, _, _ in rows], dtype=np.int32),
        np.array([offset for _, offset, _ in rows], dtype=np.int32),
        np.array([shift for _, _, shift in rows], dtype=np.int64),
        0 if len(source.shape) > 0 else -1,
        low,
        high,
    )


def _concatenation(value: Joined, edge: Edge, name: str, low: int, high: int) -> Concatenation:
    multipliers, shifts = [], []
    for source in value.edges:
        (multiplier,), _, shift = common_multipliers([source.scale / edge.scale], 0.0, 21, name)
        multipliers.append(multiplier)
        shifts.append(shift)
    names = tuple(source.name for source in value.edges)
    return Concatenation(name, names, edge.name, value.axis, tuple(multipliers), tuple(shifts), low, high)


def _lookup(value: Unary, edge: Edge, name: str) -> Lookup:
    source = _given(value.edge)
    assert value.apply is not None
    codes = torch.arange(-128, 128)
    low, high = source.range
    real = (codes.clamp(low, high).float() - source.zero_point) * source.scale
    result = value.apply(real).clamp(value.clip.low, value.clip.high)
    table = quantize_activation(result, torch.tensor(edge.scale), edge.zero_point, edge.bits)
    return Lookup(name, (source.name,), edge.name, value.function, table.numpy())
