"""``layers.json``: what a finished run knows of each layer, so that a report needs neither the model nor the data.

Shapes, σ, D(b), costs before and after, and how the weights lie on their quantization levels. Nothing here is
expensive: a few passes over the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from sigmaquant.errors import HardwareProfileError, RunDirectoryError, SigmaQuantError
from sigmaquant.graph.specs import LayerSpec, QuantGraph
from sigmaquant.hardware.costs import FLOAT_BITS, input_bits
from sigmaquant.hardware.profiled import HardwareCost, LayerCost, ProfiledCosts
from sigmaquant.plan import BITWIDTHS, BitwidthPlan
from sigmaquant.quant.network import QuantizedNetwork
from sigmaquant.report.histogram import Histogram, weight_histograms
from sigmaquant.runs.documents import parse
from sigmaquant.runs.files import read_document
from sigmaquant.statistics import SigmaVariant, divergences, layer_sigmas

SCHEMA = "sigmaquant.layers"
SCHEMA_VERSION = 1

REFERENCE_BITS = 8
"""Of weights and activations, in the comparison of energy, cycles and latency, which no float network has here."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerCosts(_Part):
    """What a layer costs in one inference; None: the hardware profile does not give it. As `LayerCost`, without names.

    Attributes:
        energy_pj: the sum of the three energies.
    """

    weight_bytes: int
    scale_bytes: int
    bias_bytes: int
    bops: float
    digits_per_mac: float | None = None
    cycles: float | None = None
    latency_ms: float | None = None
    mac_energy_pj: float | None = None
    on_chip_energy_pj: float | None = None
    dram_energy_pj: float | None = None
    energy_pj: float | None = None
    interpolated: bool = False

    @classmethod
    def of(cls, row: LayerCost) -> LayerCosts:
        """The same numbers."""
        values = asdict(row)
        del values["name"]
        return cls(**values, energy_pj=row.energy_pj)


class LayerRecord(_Part):
    """One layer.

    Attributes:
        name: the user's module name; with `kind`, shapes, `groups`, `macs`, `calls`, `tied` and `batch_norm` as in
            `LayerSpec`.
        bits: of the weights.
        midrise: whether their grid has no zero.
        activation_bits: of the layer's input; 32 where it stays in float.
        sigma: standard deviation of the float weights, in the run's variant.
        divergence: D of the float weights at every bitwidth, nats per weight.
        sensitivity: harm at every bitwidth that was searched, as the search went by it; None: it went by none.
        float32: bytes and bit operations of the float layer.
        reference: costs at `REFERENCE_BITS`; None where the profile gives no energy, cycles or latency.
        cost: costs at the plan, with the trained network's own integers.
        histogram: how the weights lie on the levels.
    """

    name: str
    kind: str
    parameter: str
    weight_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    groups: int
    elements: int
    macs: int
    calls: int
    tied: tuple[str, ...]
    batch_norm: str | None
    bits: int
    midrise: bool
    activation_bits: int
    sigma: float
    divergence: dict[int, float]
    sensitivity: dict[int, float] | None = None
    float32: LayerCosts
    reference: LayerCosts | None
    cost: LayerCosts
    histogram: Histogram


class LayersDocument(_Part):
    """The content of ``layers.json`` besides its schema.

    Attributes:
        sigma: which σ.
        hardware: name of the profile.
        reference_bits: see `LayerRecord.reference`; None where there are none.
        reference_total: costs of the whole network at these, by quantity.
        layers: in the network's order.
        notes: what could not be had, and why.
    """

    sigma: str
    hardware: str
    reference_bits: int | None
    reference_total: dict[str, float | None] | None
    layers: tuple[LayerRecord, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"schema": SCHEMA, "version": SCHEMA_VERSION, **self.model_dump(mode="json")}


def read_layers(path: Path) -> LayersDocument:
    """The content of a ``layers.json``.

    Raises:
        RunDirectoryError: missing, damaged, or of a newer version.
    """
    document = read_document(path)
    if document.pop("schema", None) != SCHEMA:
        raise RunDirectoryError(f"{path} is damaged: its schema is not {SCHEMA!r}. Run it again.")
    version = document.pop("version", None)
    if version != SCHEMA_VERSION:
        raise RunDirectoryError(
            f"{path} has version {version!r}, this program reads {SCHEMA_VERSION}. Update sigmaquant."
        )
    return parse(LayersDocument, document, path)


@torch.no_grad()
def describe_layers(
    network: QuantizedNetwork,
    costs: ProfiledCosts,
    sigma: SigmaVariant = "raw",
    sensitivity: Mapping[str, Mapping[int, float]] | None = None,
) -> LayersDocument:
    """What is to be known of each layer of a quantized network.

    Args:
        network: at its plan; its graph still holds the float weights.
        costs: of the same graph.
        sigma: the variant.
        sensitivity: harm by layer and bitwidth that the search went by, where it did.
    """
    graph, plan = network.graph, network.plan
    assert plan is not None, "only a network at a plan has bits to describe"
    notes: list[str] = []
    used, sigmas = _sigmas(graph, sigma, notes)
    table = divergences(graph, BITWIDTHS, plan.midrise_up_to)
    codes = {name: network.codes(name) for name in graph.layer}
    report = costs.report(plan, codes)
    reference = _reference(graph, costs, notes) if has_device_costs(report) else None
    records = []
    for index, (spec, row) in enumerate(zip(graph.layers, report.layers, strict=True)):
        records.append(
            LayerRecord(
                **_shape(spec),
                bits=plan.weights[spec.name],
                midrise=plan.is_midrise(spec.name),
                activation_bits=input_bits(spec, plan),
                sigma=sigmas[spec.name],
                divergence=table[spec.name],
                sensitivity=None if sensitivity is None else dict(sensitivity[spec.name]),
                float32=_float32(spec, row),
                reference=None if reference is None else LayerCosts.of(reference.layers[index]),
                cost=LayerCosts.of(row),
                histogram=_histogram(network, spec, codes[spec.name]),
            )
        )
    return LayersDocument(
        sigma=used,
        hardware=costs.name,
        reference_bits=None if reference is None else REFERENCE_BITS,
        reference_total=None if reference is None else replace(reference.total, operating_points=()).to_dict(),
        layers=tuple(records),
        notes=tuple(notes),
    )


def has_device_costs(report: HardwareCost) -> bool:
    """Whether the profile gives anything that a float network does not have."""
    total = report.total
    return any(value is not None for value in (total.cycles, total.latency_ms, total.energy_pj))


def _sigmas(graph: QuantGraph, wanted: SigmaVariant, notes: list[str]) -> tuple[SigmaVariant, Mapping[str, float]]:
    try:
        return wanted, layer_sigmas(graph, wanted)
    except SigmaQuantError as error:  # a strategy that needs no σ has not looked at it either
        notes.append(f"σ is raw, not {wanted}: {error}")
        return "raw", layer_sigmas(graph, "raw")


def _reference(graph: QuantGraph, costs: ProfiledCosts, notes: list[str]) -> HardwareCost | None:
    weights = dict.fromkeys(graph.layer, REFERENCE_BITS)
    activations = dict.fromkeys(graph.activation_names, REFERENCE_BITS)
    try:
        return costs.report(BitwidthPlan(weights, activations))
    except HardwareProfileError as error:
        notes.append(f"no costs at {REFERENCE_BITS} bits to compare with: {error}")
        return None


def _shape(spec: LayerSpec) -> dict[str, Any]:
    names = ("name", "kind", "parameter", "weight_shape", "input_shape", "output_shape", "groups", "elements", "macs",
             "calls", "tied", "batch_norm")  # fmt: skip
    return {name: getattr(spec, name) for name in names}


def _float32(spec: LayerSpec, row: LayerCost) -> LayerCosts:
    return LayerCosts(
        weight_bytes=FLOAT_BITS // 8 * spec.elements,
        scale_bytes=0,
        bias_bytes=row.bias_bytes,
        bops=float(spec.macs * FLOAT_BITS**2),
    )


def _histogram(network: QuantizedNetwork, spec: LayerSpec, codes: Tensor) -> Histogram:
    quantizer = network.weight_quantizers[spec.name]
    assert quantizer.bits is not None, "the network is at its plan"
    return weight_histograms(
        network.graph.weight(spec.name),
        network.weight(spec.name),
        codes,
        quantizer.scale,
        bits=quantizer.bits,
        axis=spec.channel_axis,
        midrise=quantizer.midrise,
    )
