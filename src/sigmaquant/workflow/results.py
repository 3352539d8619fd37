"""What a run gives back: scores, costs, coverage, and whether the budget holds."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sigmaquant.budget import Cost
from sigmaquant.errors import ExportError, RunDirectoryError
from sigmaquant.export.verification import Verification
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import QuantizedNetwork
from sigmaquant.quant.coverage import CoverageRow, coverage
from sigmaquant.report import write_report
from sigmaquant.units import format_bytes

_NEGLIGIBLE_HARM = 1e-3  # nats, or share of the outputs' variance
_SHOWN = 5


@dataclass(frozen=True)
class Scores:
    """How good a network is.

    Attributes:
        validation: the metric on the validation data.
        test: the metric on the test data; None where there are none.
        divergence: distance of the outputs to the float network's on the validation data (KL in nats for class
            logits): it tells networks apart whose metrics are equal.
    """

    validation: float | None
    test: float | None = None
    divergence: float | None = None


@dataclass(frozen=True)
class Control:
    """The uniform plan under the same budget and training."""

    plan: BitwidthPlan
    cost: Cost
    scores: Scores

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"weights": dict(self.plan.weights), "cost": self.cost.to_dict(), "scores": self.scores.__dict__}


@dataclass(frozen=True)
class PlanRow:
    """One of several plans that share their weights.

    Attributes:
        name: such as ``"12x"``.
        plan: its bitwidths.
        met: whether every constraint of its budget holds.
        violations: broken constraints, normalised.
        cost: what it costs.
        scores: of its network.
        alone: of a network of the same bitwidths that was rounded, or trained as long, for this plan alone; None: not
            asked for.
        network: its quantized network, in evaluation mode.
    """

    name: str
    plan: BitwidthPlan
    met: bool
    violations: Mapping[str, float]
    cost: Cost
    scores: Scores
    alone: Scores | None
    network: QuantizedNetwork = field(repr=False, compare=False)

    @property
    def coverage(self) -> tuple[CoverageRow, ...]:
        """Every parameter with its bitwidth in this plan, in the order of `QuantizationResult.coverage`."""
        return coverage(self.network.graph, self.plan)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "status": "met" if self.met else "not met",
            "violations": dict(self.violations),
            "weights": dict(self.plan.weights),
            "cost": self.cost.to_dict(),
            "scores": self.scores.__dict__,
            "alone": None if self.alone is None else self.alone.__dict__,
        }


@dataclass(frozen=True, repr=False)
class QuantizationResult:
    """What `quantize` returns and ``result.json`` holds.

    Attributes:
        network: the trained quantized network, in evaluation mode.
        plan: its bitwidths.
        met: whether every constraint of the budget holds.
        violations: broken constraints, normalised: 0.1 is ten percent over the limit or below the floor.
        cost: what the plan costs.
        reference: what the float32 network costs.
        scores: of the quantized network.
        float_scores: of the float network.
        coverage: every parameter: its bitwidth, or why it is not quantized.
        float_operators: operators without an integer form, with their layer and the user's line.
        control: the uniform plan's result, when asked for.
        sensitivity_examples: training examples that the sensitivities are from; 0: none were measured on data.
        sensitivity_agreement: of their ranking, see `sigmaquant.statistics.drawing`; None: not known.
        activation_harm: what each activation's grid alone does to the float network's outputs, the largest first, as
            estimated (`sigmaquant.statistics.activations`); empty where that is not known.
        control_above: the next wider uniform plan, which the budget excludes; without scores where networks are
            trained.
        returned: ``"search"``, or ``"control"`` where that was better, or accepted (`Settings.accept_control`).
        seconds: wall time of search, training and control; what is measured once before, such as the float
            network's accuracy, comes on top.
        trained_examples: training examples that the returned network has seen, with those of a run that it began from.
        discarded_examples: those of trainings that were thrown away, because what was before them was better.
        notes: what the user should know, such as where validation data came from.
        run_dir: where the files are, or None.
        noise: standard error of the difference to the score of the float network (``"float"``) and of the control
            (``"control"``), on the test data, or else on the validation data; 0: not known.
        pruning: groups of channels with how many of them were removed, what removing costs (distance of the outputs to
            the float network's, by number), and multiply-accumulates; None: none were to be. `plan` has the channels.
        exporter, own_data: what `export` calls, and the data that it verifies on; None: there is no run directory.
        files: verdicts on the files that were asked for with ``export=``.
        plans: all plans, from the largest to the smallest, where several were asked for with ``plans=``; everything
            else here is then about the largest.
    """

    network: QuantizedNetwork
    plan: BitwidthPlan
    met: bool
    violations: Mapping[str, float]
    cost: Cost
    reference: Cost
    scores: Scores
    float_scores: Scores
    coverage: tuple[CoverageRow, ...]
    float_operators: tuple[str, ...]
    control: Control | None
    seconds: float
    notes: tuple[str, ...] = ()
    run_dir: Path | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    trained_examples: int = 0
    discarded_examples: int = 0
    sensitivity_examples: int = 0
    sensitivity_agreement: float | None = None
    activation_harm: Mapping[str, float] = field(default_factory=dict)
    control_above: Control | None = None
    returned: Literal["search", "control"] = "search"
    files: tuple[Verification, ...] = ()
    noise: Mapping[str, float] = field(default_factory=dict)
    pruning: Mapping[str, Any] | None = None
    exporter: Callable[..., tuple[Verification, ...]] | None = field(default=None, compare=False)
    own_data: Any = field(default=None, compare=False)

    def __repr__(self) -> str:
        scores = self.scores
        smaller = self.reference.total_bytes / max(1, self.cost.total_bytes)
        parts = [self.status, format_bytes(self.cost.total_bytes), f"{smaller:.1f}x smaller"]
        for score, mine, theirs in (
            ("validation", scores.validation, self.float_scores.validation),
            ("test", scores.test, self.float_scores.test),
        ):
            if mine is not None:
                parts.append(f"{score} {mine:.4f}" + ("" if theirs is None else f" (float {theirs:.4f})"))
        return f"QuantizationResult({', '.join(parts)})"

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        rows = [("float32", self.float_scores, self.reference)]
        if self.control is not None:
            rows.append((f"uniform {_uniform_bits(self.control)}", self.control.scores, self.control.cost))
        rows.append(("quantized", self.scores, self.cost))
        cells = "".join(
            f"<tr><th>{html.escape(name)}</th>"
            + "".join(
                f"<td>{cell}</td>"
                for cell in (
                    "–" if scores.validation is None else f"{scores.validation:.4f}",
                    "–" if scores.test is None else f"{scores.test:.4f}",
                    format_bytes(cost.total_bytes),
                    f"{self.reference.total_bytes / max(1, cost.total_bytes):.2f}×",
                )
            )
            + "</tr>"
            for name, scores, cost in rows
        )
        head = "".join(f"<th>{name}</th>" for name in ("network", "validation", "test", "size", "smaller"))
        return f"<table><tr>{head}</tr>{cells}</table><p>{html.escape(self.verdict)}</p>"

    def export(self, *to: str, data: Any = None, **options: Any) -> tuple[Verification, ...]:
        """Write files that run on devices, and verify each; see `sigmaquant.workflow.exporting.export_run`.

        Args:
            to: kinds of files, such as ``"onnx"``, ``"litert"``, ``"c"``; none: ``"onnx"``.
            data: what to verify on; None: the run's own test data, or else its validation data.
            options: ``out``, ``options``, ``examples`` and ``progress`` of `sigmaquant.workflow.exporting.export_run`.

        Raises:
            ExportError: the run has no directory, or the network cannot be written so.
        """
        if self.exporter is None:
            raise ExportError("files are exported from a run directory. Give run_dir= to quantize.")
        return self.exporter(self.own_data if data is None else data, to=to or ("onnx",), **options)

    def report(self, out: str | Path | None = None) -> Path:
        """Write the report, one HTML page with its numbers beside it; see `sigmaquant.report.write_report`.

        Args:
            out: the page's file or a folder; None: in the run directory.

        Returns:
            where the page is.

        Raises:
            RunDirectoryError: the run has no directory.
        """
        if self.run_dir is None:
            raise RunDirectoryError("a report is made of a run directory. Give run_dir= to quantize.")
        return write_report([self.run_dir], out)

    plans: tuple[PlanRow, ...] = ()

    @property
    def status(self) -> str:
        """``"met"`` or ``"not met"``."""
        return "met" if self.met else "not met"

    @property
    def verdict(self) -> str:
        """What came of it in one sentence: the budget, beside the float network, beside the control."""
        clauses = [_of_the_budget(self), _beside_float(self), _beside_the_control(self)]
        return "; ".join(clause for clause in clauses if clause) + "."

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the network's tensors are not in it."""
        return {
            "status": self.status,
            "violations": dict(self.violations),
            "limits": dict(self.limits),
            "scores": self.scores.__dict__,
            "float_scores": self.float_scores.__dict__,
            "cost": self.cost.to_dict(),
            "reference": self.reference.to_dict(),
            "weights": dict(self.plan.weights),
            "activations": dict(self.plan.activations),
            "control": None if self.control is None else self.control.to_dict(),
            "control_above": None if self.control_above is None else self.control_above.to_dict(),
            "returned": self.returned,
            "coverage": [row.__dict__ for row in self.coverage],
            "float_operators": list(self.float_operators),
            "verdict": self.verdict,
            "noise": dict(self.noise),
            "notes": list(self.notes),
            **({} if self.pruning is None else {"pruning": self.pruning}),
            "seconds": round(self.seconds, 3),
            "trained_examples": self.trained_examples,
            "discarded_examples": self.discarded_examples,
            "sensitivity_examples": self.sensitivity_examples,
            "sensitivity_agreement": self.sensitivity_agreement,
            "activation_harm": dict(self.activation_harm),
            **({"plans": [row.to_dict() for row in self.plans]} if self.plans else {}),
        }


def _of_the_budget(result: QuantizationResult) -> str:
    size = format_bytes(result.cost.total_bytes)
    smaller = result.reference.total_bytes / max(1, result.cost.total_bytes)
    has = f"{size}, {smaller:.1f} times smaller than in float32"
    if result.met:
        return f"The budget is met: {has}"
    missed = ", ".join(
        f"{name.split('_')[0]} is {100 * excess:.2g} % {'below' if name == 'accuracy' else 'over'} its limit"
        for name, excess in result.violations.items()
    )
    return f"The budget is not met ({missed}): {has}; allow more, train longer (--epochs), or free pinned layers"


def _uniform_bits(control: Control) -> str:
    return f"{'/'.join(map(str, sorted(set(control.plan.weights.values()))))} bits"


def _judged(scores: Scores, tested: bool) -> float | None:
    return scores.test if tested else scores.validation


def _beside_float(result: QuantizationResult) -> str:
    tested = result.scores.test is not None and result.float_scores.test is not None
    mine, theirs = _judged(result.scores, tested), _judged(result.float_scores, tested)
    if mine is None or theirs is None:
        return ""
    noise = result.noise.get("float", 0.0)
    how = (
        "as good as float"
        if abs(mine - theirs) <= 2 * noise or mine == theirs
        else ("better than float" if mine > theirs else f"{theirs - mine:.4f} below float")
    )
    beyond = f", at a noise of {noise:.4f}" if noise else ""
    return f"{how} on the {'test' if tested else 'validation'} data ({mine:.4f} against {theirs:.4f}{beyond})"


def _beside_the_control(result: QuantizationResult) -> str:
    control = result.control
    if control is None:
        return "" if result.plans else "how far one bitwidth for all layers goes, --control tells"
    name = f"uniform {_uniform_bits(control)}"
    if result.returned == "control":
        return f"what is returned is {name}, the control"
    tested = result.scores.test is not None and control.scores.test is not None
    mine, theirs = _judged(result.scores, tested), _judged(control.scores, tested)
    if mine is None or theirs is None:
        return ""
    noise, share = result.noise.get("control", 0.0), 100 * (1 - control.cost.total_bytes / result.cost.total_bytes)
    size = f"{abs(share):.0f} % {'smaller' if share > 0 else 'larger'}" if abs(share) >= 0.5 else "of the same size"
    beyond = f" ({theirs:.4f}, at a noise of {noise:.4f})" if noise else f" ({theirs:.4f})"
    if abs(mine - theirs) <= 2 * noise or mine == theirs:
        advice = ": --accept-control returns it" if share > -0.5 else ""
        return f"{name} is as good{beyond} and {size}{advice}"
    if theirs > mine:
        return f"{name} is better by {theirs - mine:.4f}{beyond} and {size}: --accept-control returns it"
    return f"{name} is worse by {mine - theirs:.4f}{beyond} and {size}"


def costly_activations(harm: Mapping[str, float], plan: BitwidthPlan) -> str:
    """The activations that cost most, in a sentence; ``""`` where all together cost nothing to speak of.

    Args:
        harm: by activation, the largest first.
        plan: their widths.
    """
    total = sum(harm.values())
    if total < _NEGLIGIBLE_HARM:
        return ""
    most = ", ".join(f"{name} ({plan.activations[name]} bits) {harm[name]:.2g}" for name in list(harm)[:_SHOWN])
    return f"quantized activations alone move the outputs by about {total:.2g}, most of all {most}"
