"""An `IntegerModel` as TensorFlow Lite Micro computes it: LiteRT's form, with the arithmetic of the reference kernels.

They multiply by integers and round twice where LiteRT's default kernels multiply in float32. Factors come from the
scales in double precision, as the kernels compute them when they are prepared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import singledispatch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigmaquant.export.litert.form import RoundedAway, Scaled, litert_form
from sigmaquant.export.litert.means import PlaceMeans
from sigmaquant.export.litert.resizing import Bilinear
from sigmaquant.export.litert.sums import in_32_bits, term_scales
from sigmaquant.export.litert.taps import Taps
from sigmaquant.export.litert.values import HIGHEST
from sigmaquant.lowering.model import IntegerModel
from sigmaquant.operators import Average, Convolution, Edge, Linear, Lookup, Operator, Product, Recurrent, Sum, compute
from sigmaquant.operators.fixed_point import factor
from sigmaquant.operators.node import Reference, centred, written

_HEADROOM = 20
"""Bits by which the kernel of a sum lifts its terms before it brings them to one scale."""
_AVERAGE_BITS = 6
"""The weights of a mean over windows are 64."""

_PLACE = 1 << 10
"""The unit of places and weights of a linear interpolation."""

Edges = Mapping[str, Edge]


def tflm_form(model: IntegerModel) -> IntegerModel:
    """The model whose executor gives what the file gives in TensorFlow Lite Micro's reference kernels.

    Every layer has 8-bit containers, whether its weights are packed or not: they are unpacked before a kernel reads
    them. What is computed in float between two grids is a step off at times, as in LiteRT.

    Args:
        model: as `lower` gives it.
    """
    formed = litert_form(model, pack=False)
    return replace(formed, operators=tuple(of_micro(operator, formed.edges) for operator in formed.operators))


def rounded_away(*scales: NDArray[np.float32] | float, up: int = 0) -> RoundedAway:
    """The factor that a kernel computes from its scales: a product of all but the last, divided by that."""
    *factors, divisor = (np.atleast_1d(np.asarray(scale, dtype=np.float32)).astype(np.float64) for scale in scales)
    product = factors[0]
    for scale in factors[1:]:
        product = product * scale
    exact = factor((product / divisor).ravel(), "the form of TensorFlow Lite Micro")
    return RoundedAway(exact.mantissa, exact.shift, up)


@singledispatch
def of_micro(operator: Operator, edges: Edges) -> Operator:
    """The operator with the arithmetic of TensorFlow Lite Micro's kernel."""
    return operator


@of_micro.register(Convolution)
@of_micro.register(Linear)
def _(operator: Convolution | Linear, edges: Edges) -> Operator:
    scale = operator.scale / np.float32(operator.gain)
    return replace(operator, factor=rounded_away(edges[operator.inputs[0]].scale, scale, edges[operator.output].scale))


@of_micro.register(Taps)
@of_micro.register(PlaceMeans)
def _(operator: Taps | PlaceMeans, edges: Edges) -> Operator:
    source, target = edges[operator.inputs[0]], edges[operator.output]
    return replace(operator, factor=rounded_away(source.scale, operator.scale, target.scale))


@of_micro.register
def _(operator: Product, edges: Edges) -> Operator:
    scales = [edges[name].scale for name in (*operator.inputs, operator.output)]
    return replace(operator, factor=rounded_away(*scales))


@of_micro.register
def _(operator: Average, edges: Edges) -> Operator:
    """Windows are a convolution; over whole dimensions the kernel divides the factor by the number of values."""
    source, target = edges[operator.inputs[0]], edges[operator.output]
    real = operator.factor.value * target.scale / source.scale
    if operator.windows:
        scale = (real / 2**_AVERAGE_BITS).astype(np.float32)
        return replace(operator, factor=rounded_away(source.scale, scale, target.scale, up=_AVERAGE_BITS))
    count = math.prod(source.shape[dim] for dim in operator.dims)
    share = float(real[0]) * count
    whole = rounded_away(source.scale, target.scale if abs(share - 1) < 1e-6 else target.scale / share)
    bits = min(count.bit_length() - 1, 62 - int(whole.shift[0]))
    mantissa = (whole.mantissa << bits) // count
    return replace(operator, factor=RoundedAway(mantissa, whole.shift + bits))


# -- operators whose arithmetic has another form -----------------------------------------------------------------------


@dataclass(frozen=True)
class MicroScaled(Scaled):
    """A product with a constant of one or minus one."""


@of_micro.register
def _(operator: Scaled, edges: Edges) -> Operator:
    return MicroScaled(**vars(operator))


@compute.register
def _(operator: MicroScaled, reference: Reference, codes: Tensor) -> Tensor:
    source, target = reference.edges[operator.inputs[0]], reference.edges[operator.output]
    x = centred(codes, source, torch.int64)
    x = x.neg_() if operator.real < 0 else x
    return written(rounded_away(source.scale, abs(operator.real), target.scale).apply_(x, 0), operator, reference)


@dataclass(frozen=True)
class MicroSum(Sum):
    """A sum or difference of two edges, or of one and a number, whose terms are brought to one scale first."""


@of_micro.register
def _(operator: Sum, edges: Edges) -> Operator:
    return operator if len(operator.inputs) == 2 and in_32_bits(operator) else MicroSum(**vars(operator))


@compute.register
def _(operator: MicroSum, reference: Reference, *inputs: Tensor) -> Tensor:
    edges, target = reference.edges, reference.edges[operator.output]
    scales = [np.float32(scale) for scale in term_scales(operator, dict(edges))]
    terms = [centred(codes, edges[name], torch.int64) for name, codes in zip(operator.inputs, inputs, strict=True)]
    signs = [1 if multiplier > 0 else -1 for multiplier in operator.multipliers]
    if len(inputs) == 1:
        number = operator.offset * 2.0**-operator.shift * target.scale
        scales.append(np.float32(abs(number) / HIGHEST))
        terms.append(torch.tensor([-HIGHEST if number < 0 else HIGHEST]))
        signs.append(1)
    common = 2.0 * float(max(scales))
    total = torch.zeros((), dtype=torch.int64)
    for term, scale, sign in zip(terms, scales, signs, strict=True):
        lifted = RoundedAway(*_parts(float(scale) / common)).apply_(term << _HEADROOM, 0)
        total = total + sign * lifted
    back = RoundedAway(*_parts(common / 2**_HEADROOM / float(np.float32(target.scale))))
    return written(back.apply_(total, 0), operator, reference)


def _parts(real: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    found = factor(real, "the form of TensorFlow Lite Micro")
    return found.mantissa, found.shift


@dataclass(frozen=True)
class MicroLookup(Lookup):
    """A table, read at places that are computed in 32 bits: the runtime casts to no unsigned type."""


@of_micro.register
def _(operator: Lookup, edges: Edges) -> Operator:
    return MicroLookup(**vars(operator))


@dataclass(frozen=True)
class MicroBilinear(Bilinear):
    """Linear interpolation with places and weights of 10 bits, rounded half away from zero, on the file's integers."""


@of_micro.register
def _(operator: Bilinear, edges: Edges) -> Operator:
    return MicroBilinear(**vars(operator))


@compute.register
def _(operator: MicroBilinear, reference: Reference, codes: Tensor) -> Tensor:
    source, target = reference.edges[operator.inputs[0]], reference.edges[operator.output]
    shift = HIGHEST - target.range[1]
    x = codes.to(torch.int64).add_(shift)
    for axis, (size, wanted) in enumerate(zip(source.shape[1:], target.shape[1:], strict=True), 2):
        lower, upper, weight = _places(size, wanted, operator.align_corners)
        weight = weight.view(-1, *[1] * (x.dim() - axis - 1))
        x = x.index_select(axis, lower) * (_PLACE - weight) + x.index_select(axis, upper) * weight
    whole = _PLACE ** (codes.dim() - 2)
    half = torch.where(x > 0, whole // 2, -(whole // 2))
    return torch.div(x + half, whole, rounding_mode="trunc").sub_(shift).to(torch.int8)


def _places(size: int, wanted: int, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """By place of the output: the two places of the input, and the second one's weight of 1024."""
    over, through = (size - 1, wanted - 1) if align_corners and wanted > 1 else (size, wanted)
    scale = (_PLACE * over + through // 2) // through
    at = torch.arange(wanted) * scale + (0 if align_corners else scale // 2 - _PLACE // 2)
    lower = torch.div(at, _PLACE, rounding_mode="trunc").clamp(min=0)
    upper = torch.div(at + _PLACE - 1, _PLACE, rounding_mode="trunc").clamp(max=size - 1)
    return lower, upper, at - _PLACE * lower


@dataclass(frozen=True)
class MicroRecurrent(Recurrent):
    """A layer whose matrices are read as whole numbers: the runtime reads no floats from a scale for each row."""


@of_micro.register
def _(operator: Recurrent, edges: Edges) -> Operator:
    return MicroRecurrent(**vars(operator))
