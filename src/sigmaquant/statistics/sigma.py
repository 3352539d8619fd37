"""σ_i: the standard deviation of each layer's weights, the quantity phase 1 clusters.

Three variants, because BatchNorm makes the scale of an un-folded weight arbitrary and because initialisation makes it
a function of the layer's width:

``raw``
    the weight as it stands.
``folded``
    BatchNorm's ``gamma / sqrt(running_var + eps)`` multiplied in per channel where the layer has a BatchNorm. It does
    not change when a channel and its BatchNorm are rescaled together, which leaves the network's function the same.
``normalised``
    raw, in units of the standard deviation ``sqrt(2 / fan_in)`` that He initialisation gives a layer of this width: a
    wide layer no longer ranks low for being wide. The std of weights divided by their channel's largest magnitude was
    rejected as a variant: at equal bitwidth the signal-to-noise ratio of quantization rises with std / max, so that
    its largest values mark the layers that need the fewest bits, the reverse of the order phase 1 assumes.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sigmaquant.errors import DataError, ModelError
from sigmaquant.graph.specs import LayerSpec, QuantGraph
from sigmaquant.statistics.moments import ChannelMoments, channel_moments

SigmaVariant = Literal["raw", "folded", "normalised"]


def layer_sigmas(graph: QuantGraph, variant: SigmaVariant = "raw") -> dict[str, float]:
    """Standard deviation of every layer's weights (population, divided by the number of weights).

    One pass over each weight, in pieces; no copy of a weight is made.

    Args:
        graph: the network.
        variant: ``"raw"``, ``"folded"`` or ``"normalised"``, see the module's text.

    Returns:
        σ by layer name, in the graph's order, in units of the weight (``"normalised"``: dimensionless).

    Raises:
        DataError: an unknown variant.
        ModelError: a weight contains NaN or infinity, or a BatchNorm has no running variance.
    """
    if variant not in get_args(SigmaVariant):
        raise DataError(f"σ has no variant {variant!r}. Choose one of {', '.join(get_args(SigmaVariant))}.")
    sigmas = {}
    for spec in graph.layers:
        try:
            moments = channel_moments(graph.weight(spec.name), spec.channel_axis)
        except ModelError as error:
            raise ModelError(f"layer {spec.name!r}: {error}") from None
        sigmas[spec.name] = _sigma(graph, spec, moments, variant)
    return sigmas


def _sigma(graph: QuantGraph, spec: LayerSpec, moments: ChannelMoments, variant: SigmaVariant) -> float:
    if variant == "normalised":
        return moments.std() * math.sqrt(fan_in(spec) / 2)
    if variant == "folded" and spec.batch_norm is not None:
        factors = batch_norm_factors(graph, spec)
        if _output_blocks(spec) > 1:
            # Output channel (g, c) of a grouped transposed convolution owns only the g-th block of the input axis.
            return _folded_blocks(graph.weight(spec.name), factors.view(spec.groups, -1))
        return moments.std(factors)
    return moments.std()


def fan_in(spec: LayerSpec) -> int:
    """Number of weights that feed one output value; 1 for an embedding, whose input selects a row.

    Example:
        >>> fan_in(LayerSpec("c", "conv2d", "c.weight", (8, 4, 3, 3), 0, 1, False, 0, (4, 8, 8), (8, 8, 8)))
        36
    """
    if spec.kind == "embedding":
        return 1
    return max(1, spec.elements // (spec.channels * _output_blocks(spec)))


def batch_norm_factors(graph: QuantGraph, spec: LayerSpec) -> Tensor:
    """``gamma / sqrt(running_var + eps)`` of the BatchNorm that follows a layer: [output channels] float64.

    Raises:
        ModelError: the BatchNorm keeps no running statistics, or its channels are not the layer's outputs.
    """
    name = spec.batch_norm or ""
    norm = graph.module.get_submodule(name)
    if not isinstance(norm, _BatchNorm) or norm.running_var is None:
        raise ModelError(
            f"{name!r} is no BatchNorm with running statistics, so it cannot be folded into layer {spec.name!r}. "
            "Build it with track_running_stats=True or use another σ variant."
        )
    outputs = spec.channels * _output_blocks(spec)
    if norm.num_features != outputs:
        raise ModelError(
            f"BatchNorm {name!r} has {norm.num_features} channels, layer {spec.name!r} has {outputs} output channels. "
            "The graph's batch_norm entry of this layer must be None."
        )
    factors = (norm.running_var.double() + norm.eps).rsqrt()
    # Without affine parameters gamma is 1, and the module's weight is None.
    return factors * norm.weight.detach().double() if norm.affine else factors


def _output_blocks(spec: LayerSpec) -> int:
    """How many output channels share one element of the channel axis: the groups of a transposed convolution."""
    return spec.groups if spec.channel_axis == 1 else 1


def _folded_blocks(weight: Tensor, factors: Tensor) -> float:
    """Folded σ of a grouped transposed convolution: weight [in, out/groups, ...], factors [groups, out/groups]."""
    blocks = weight.detach().chunk(len(factors), 0)
    parts = [channel_moments(block, 1) for block in blocks]
    whole = ChannelMoments(
        parts[0].count, torch.cat([part.mean for part in parts]), torch.cat([part.variance for part in parts])
    )
    return whole.std(factors.flatten())
