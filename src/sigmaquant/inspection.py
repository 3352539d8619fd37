"""What `sigmaquant inspect` shows: every layer with its costs and statistics, before anything is decided."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from sigmaquant.graph import LayerSpec, QuantGraph, trace
from sigmaquant.hardware.costs import packed_bytes
from sigmaquant.plan import check_bitwidth
from sigmaquant.statistics import SigmaVariant, divergences, layer_sigmas


@dataclass(frozen=True)
class LayerReport:
    """One layer.

    Attributes:
        spec: shapes, parameters, MACs.
        sigma: standard deviation of the weights, in the chosen variant.
        divergence: D at each bitwidth, in nats per weight.
        weight_bytes: packed codes at each bitwidth.
    """

    spec: LayerSpec
    sigma: float
    divergence: dict[int, float]
    weight_bytes: dict[int, int]


@dataclass(frozen=True)
class ModelReport:
    """A whole model."""

    graph: QuantGraph
    layers: tuple[LayerReport, ...]
    bitwidths: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "fingerprint": self.graph.fingerprint,
            "layers": [
                {
                    **asdict(row.spec),
                    "elements": row.spec.elements,
                    "sigma": row.sigma,
                    "divergence": row.divergence,
                    "weight_bytes": row.weight_bytes,
                }
                for row in self.layers
            ],
            "activations": [asdict(spec) for spec in self.graph.activations],
            "float_parameters": [asdict(spec) for spec in self.graph.float_parameters],
            "float_operators": list(self.graph.float_operators),
            "weightless_macs": self.graph.weightless_macs,
        }


def inspect_model(
    model: nn.Module, example_inputs: tuple[Tensor, ...], bitwidths: Sequence[int], sigma: SigmaVariant = "raw"
) -> ModelReport:
    """Trace a model and measure its weights.

    Raises:
        ModelError: see `sigmaquant.graph.trace`.
        PlanError: a bitwidth outside 2..8.
        DataError: an unknown variant of sigma.
    """
    widths = tuple(sorted({check_bitwidth(bits, "bitwidths") for bits in bitwidths}))
    graph = trace(copy.deepcopy(model).eval(), example_inputs)
    sigmas, table = layer_sigmas(graph, sigma), divergences(graph, widths)
    rows = tuple(
        LayerReport(
            spec,
            sigmas[spec.name],
            dict(table[spec.name]),
            {bits: packed_bytes(spec.elements, bits) for bits in widths},
        )
        for spec in graph.layers
    )
    return ModelReport(graph, rows, widths)
