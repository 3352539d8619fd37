"""The report's numbers as tables: ``report_layers.csv``, ``report_steps.csv``, ``report_runs.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from sigmaquant.plan import BITWIDTHS
from sigmaquant.report.document import MEASURES, Costs, Report, RunReport

_COSTS = tuple(Costs.model_fields)


def layers_csv(report: Report) -> str:
    """A line for each layer of each run."""
    rows = []
    for run in report.runs:
        for layer in run.layers:
            divergence = layer.divergence or {}
            rows.append(
                {
                    "run": run.label,
                    **layer.model_dump(
                        include={"name", "kind", "elements", "macs", "calls", "bits", "uniform_bits", "midrise"}
                    ),
                    "activation_bits": layer.activation_bits,
                    "weight_shape": _shape(layer.weight_shape),
                    "input_shape": _shape(layer.input_shape),
                    "output_shape": _shape(layer.output_shape),
                    "sigma": layer.sigma,
                    **{f"divergence_{bits}": divergence.get(bits) for bits in BITWIDTHS},
                    **{f"sensitivity_{bits}": (layer.sensitivity or {}).get(bits) for bits in BITWIDTHS},
                    **{f"{name}_before": layer.before.get(name) for name in MEASURES},
                    **{f"{name}_after": layer.after.get(name) for name in MEASURES},
                    "interpolated": layer.interpolated,
                }
            )
    return _text(rows)


def steps_csv(report: Report) -> str:
    """A line for each step of each run."""
    rows = []
    for run in report.runs:
        for step in run.steps:
            values = step.model_dump(exclude={"cost", "violations"})
            rows.append({"run": run.label, **values, **step.cost.model_dump(exclude={"operating_points"})})
    return _text(rows)


def runs_csv(report: Report) -> str:
    """A line for each run."""
    return _text([_run_row(run) for run in report.runs])


def _run_row(run: RunReport) -> dict[str, Any]:
    control = run.control
    return {
        "run": run.label,
        "status": run.status,
        "strategy": run.strategy,
        "hardware": run.hardware,
        "budget": budget_text(run),
        "metric": run.metric,
        "validation": run.scores.validation,
        "test": run.scores.test,
        "float_validation": run.float_scores.validation,
        "float_test": run.float_scores.test,
        "uniform_validation": None if control is None else control.scores.validation,
        "uniform_test": None if control is None else control.scores.test,
        "mean_bits": run.mean_bits,
        **{name: None if run.cost is None else getattr(run.cost, name) for name in _COSTS},
        **{f"uniform_{name}": None if control is None else getattr(control.cost, name) for name in _COSTS},
        "float_total_bytes": None if run.reference is None else run.reference.total_bytes,
        "on_front": " ".join(run.front),
        "seconds": run.seconds,
    }


def budget_text(run: RunReport) -> str:
    """The budget as the user wrote it.

    Example:
        >>> from types import SimpleNamespace
        >>> budget_text(SimpleNamespace(budget={"size": "8x", "accuracy": "-1 %"}, size_counts="weights"))
        'size 8x (packed weights), accuracy -1 %'
    """
    parts = []
    for name, value in run.budget.items():
        counts = ""
        if name == "size" and run.size_counts != "total":
            counts = " (packed weights)" if run.size_counts == "weights" else f" (the {run.size_counts} file)"
        parts.append(f"{name} {value}{counts}")
    return ", ".join(parts)


def _shape(shape: Sequence[int] | None) -> str | None:
    return None if shape is None else "x".join(map(str, shape))


def _text(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV with a header; an unknown value is an empty field. Empty where there is no row."""
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return out.getvalue()
