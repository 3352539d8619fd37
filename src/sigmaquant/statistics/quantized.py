"""What each layer's weight becomes at each bitwidth: MSE scales are kept, quantized weights are made when needed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sigmaquant.errors import ModelError
from sigmaquant.graph.layers import QuantGraph
from sigmaquant.quant.numerics import dequantize_weight, mse_weight_scales, quantize_weight


class QuantizedWeights:
    """Quantized weights of a graph, on demand; holds the scales only, C numbers per layer and bitwidth.

    Raises:
        ModelError: a weight contains NaN or infinity.
        PlanError: a bitwidth outside 2..8.
    """

    def __init__(self, graph: QuantGraph, bitwidths: Sequence[int]) -> None:
        self._graph = graph
        self._scales: dict[tuple[str, int], Tensor] = {}
        for spec in graph.layers:
            weight = graph.weight(spec.name).detach()
            if not bool(weight.isfinite().all()):
                raise ModelError(f"layer {spec.name!r}: its weight contains NaN or infinity. Check the checkpoint.")
            for bits in bitwidths:
                self._scales[spec.name, bits] = mse_weight_scales(weight, bits, spec.channel_axis)

    def weight(self, name: str, bits: int) -> Tensor:
        """The layer's weight as `bits` bits represent it, in the float weight's shape and type."""
        axis = self._graph.layer[name].channel_axis
        weight = self._graph.weight(name).detach()
        scale = self._scales[name, bits]
        return dequantize_weight(quantize_weight(weight, scale, bits, axis), scale, axis).to(weight.dtype)

    def error(self, name: str, bits: int) -> Tensor:
        """Quantized minus float weight."""
        return self.weight(name, bits).sub_(self._graph.weight(name).detach())
