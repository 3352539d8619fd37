"""What each layer's weight becomes at each bitwidth: MSE scales are kept, quantized weights are made when needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sigmaquant.errors import ModelError
from sigmaquant.graph.specs import QuantGraph
from sigmaquant.numerics import dequantize_weight, mse_weight_scales, quantize_weight

_KEPT_BYTES = 1 << 28
"""Errors are kept between uses up to this many bytes: a small network is then not quantized anew for every sample."""


class QuantizedWeights:
    """Quantized weights of a graph, on demand; holds the scales, C numbers per layer and bitwidth, and few errors.

    Raises:
        ModelError: a weight contains NaN or infinity.
        PlanError: a bitwidth outside 2..8.
    """

    def __init__(self, graph: QuantGraph, bitwidths: Sequence[int], midrise_up_to: int = 0) -> None:
        self._graph = graph
        self._bitwidths = tuple(bitwidths)
        self._midrise_up_to = midrise_up_to
        self._scales: dict[tuple[str, int], Tensor] = {}
        self._errors: dict[str, Tensor] = {}
        self._kept_bytes = 0
        for spec in graph.layers:
            weight = graph.weight(spec.name).detach()
            if not bool(weight.isfinite().all()):
                raise ModelError(f"layer {spec.name!r}: its weight contains NaN or infinity. Check the checkpoint.")
            for bits in bitwidths:
                self._scales[spec.name, bits] = mse_weight_scales(
                    weight, bits, spec.channel_axis, midrise=bits <= midrise_up_to
                )

    def weight(self, name: str, bits: int) -> Tensor:
        """The layer's weight as `bits` bits represent it, in the float weight's shape and type."""
        axis = self._graph.layer[name].channel_axis
        weight = self._graph.weight(name).detach()
        scale = self._scales[name, bits]
        codes = quantize_weight(weight, scale, bits, axis, midrise=bits <= self._midrise_up_to)
        return dequantize_weight(codes, scale, axis).to(weight.dtype)

    def error(self, name: str, bits: int) -> Tensor:
        """Quantized minus float weight."""
        return self.weight(name, bits).sub_(self._graph.weight(name).detach())

    def errors(self, name: str) -> Tensor:
        """Quantized minus float weight at every bitwidth: [bitwidths, elements], float32."""
        kept = self._errors.get(name)
        if kept is not None:
            return kept
        errors = torch.stack([self.error(name, bits).reshape(-1).float() for bits in self._bitwidths])
        if self._kept_bytes + errors.nbytes <= _KEPT_BYTES:
            self._kept_bytes += errors.nbytes
            self._errors[name] = errors
        return errors
