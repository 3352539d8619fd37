"""The coverage table: for every parameter at which bitwidth it is, or why it is not quantized."""

from __future__ import annotations

from dataclasses import dataclass

from sigmaquant.graph.specs import QuantGraph
from sigmaquant.plan import BitwidthPlan


@dataclass(frozen=True)
class CoverageRow:
    """One parameter of the user's model.

    Attributes:
        parameter: its name in the ``state_dict``.
        elements: number of values.
        bits: weight bitwidth, or None where it stays in float.
        reason: why it stays in float; ``""`` where it is quantized.
    """

    parameter: str
    elements: int
    bits: int | None
    reason: str


def coverage(graph: QuantGraph, plan: BitwidthPlan) -> tuple[CoverageRow, ...]:
    """Every parameter of the model, each once: the quantized weights first, then what stays in float and why.

    Raises:
        UnknownLayerError, PlanError: the plan does not fit the model.
    """
    plan.check(graph.layer, graph.activation_names, graph.fingerprint)
    rows = [CoverageRow(spec.parameter, spec.elements, plan.weights[spec.name], "") for spec in graph.layers]
    rows += [CoverageRow(p.name, p.elements, None, p.reason) for p in graph.float_parameters]
    return tuple(rows)
