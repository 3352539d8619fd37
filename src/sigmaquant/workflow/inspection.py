"""What `sigmaquant inspect` shows: every layer with its costs and statistics, before anything is decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from sigmaquant.export.deployed import DeployedCosts
from sigmaquant.export.feasibility import Feasibility, feasibilities
from sigmaquant.export.targets import TARGETS
from sigmaquant.graph import LayerSpec, QuantGraph, trace
from sigmaquant.graph.copying import copied
from sigmaquant.graph.inputs import ExampleInputs
from sigmaquant.hardware.costs import packed_bytes
from sigmaquant.hardware.profile import HardwareProfile
from sigmaquant.hardware.profiled import HardwareCost, LayerCost
from sigmaquant.plan import BitwidthPlan, check_bitwidth
from sigmaquant.statistics import SigmaVariant, divergences, layer_sigmas

_WRITTEN_UNASKED = 5_000_000


@dataclass(frozen=True)
class LayerReport:
    """One layer.

    Attributes:
        spec: shapes, parameters, MACs.
        sigma: standard deviation of the weights, in the chosen variant.
        divergence: D at each bitwidth, in nats per weight.
        weight_bytes: packed codes at each bitwidth.
        hardware: costs at each bitwidth on a device, with 8-bit activations; empty where none was asked for.
    """

    spec: LayerSpec
    sigma: float
    divergence: dict[int, float]
    weight_bytes: dict[int, int]
    hardware: dict[int, LayerCost] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelReport:
    """A whole model.

    Attributes:
        graph: its layers and activations.
        layers: one row for each layer.
        bitwidths: those shown.
        hardware: costs of the whole network with all weights at each bitwidth, on the device asked for.
        files: whether each kind of file can hold the network, of those that were asked for.
    """

    graph: QuantGraph
    layers: tuple[LayerReport, ...]
    bitwidths: tuple[int, ...]
    hardware: dict[int, HardwareCost] = field(default_factory=dict)
    files: tuple[Feasibility, ...] = ()

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
                    "hardware": {
                        bits: {**asdict(cost), "energy_pj": cost.energy_pj} for bits, cost in row.hardware.items()
                    },
                }
                for row in self.layers
            ],
            "activations": [asdict(spec) for spec in self.graph.activations],
            "float_parameters": [asdict(spec) for spec in self.graph.float_parameters],
            "float_operators": [
                {"layer": place.layer, "operator": place.operator, "line": place.line}
                for place in self.graph.float_places
            ],
            "files": {found.target: found.reason or None for found in self.files},
            "weightless_macs": self.graph.weightless_macs,
            "float_macs": self.graph.float_macs,
            "hardware": {bits: cost.to_dict() for bits, cost in self.hardware.items()},
        }


def inspect_model(
    model: nn.Module,
    example_inputs: ExampleInputs,
    bitwidths: Sequence[int],
    sigma: SigmaVariant = "raw",
    hardware: HardwareProfile | None = None,
    files: Sequence[str] | None = None,
) -> ModelReport:
    """Trace a model and measure its weights.

    Args:
        model: any module.
        example_inputs: as for `sigmaquant.graph.trace`.
        bitwidths: 2..8, those to show.
        sigma: the variant of sigma.
        hardware: also costs on this device.
        files: kinds of files of which to say whether they can hold the network; None: all, for networks of at most
            five million weights, since each is written once to know.

    Raises:
        HardwareProfileError: the profile lacks a bitwidth.
        ModelError: see `sigmaquant.graph.trace`.
        PlanError: a bitwidth outside 2..8.
        DataError: an unknown variant of sigma.
    """
    widths = tuple(sorted({check_bitwidth(bits, "bitwidths") for bits in bitwidths}))
    graph = trace(copied(model).eval(), example_inputs)
    costs: dict[int, HardwareCost] = {}
    midrise_up_to = 2
    if hardware is not None:
        device = DeployedCosts(graph, hardware)
        midrise_up_to = device.midrise_up_to
        for bits in widths:
            activations = dict.fromkeys(graph.activation_names, 8)
            costs[bits] = device.report(BitwidthPlan(dict.fromkeys(graph.layer, bits), activations, "", midrise_up_to))
    sigmas, table = layer_sigmas(graph, sigma), divergences(graph, widths, midrise_up_to)
    rows = tuple(
        LayerReport(
            spec,
            sigmas[spec.name],
            dict(table[spec.name]),
            {bits: packed_bytes(spec.elements, bits) for bits in widths},
            {bits: cost.layers[index] for bits, cost in costs.items()},
        )
        for index, spec in enumerate(graph.layers)
    )
    small = sum(spec.elements for spec in graph.layers) <= _WRITTEN_UNASKED
    asked = tuple(TARGETS if small else ()) if files is None else tuple(files)
    return ModelReport(graph, rows, widths, costs, feasibilities(graph, asked) if asked else ())
