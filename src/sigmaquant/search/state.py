"""Where a search stands, and which of two standings is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from sigmaquant.budget import Cost, Limits
from sigmaquant.errors import CheckpointError
from sigmaquant.plan import BitwidthPlan
from sigmaquant.runs.documents import parse
from sigmaquant.training.student import Judgement


@dataclass(frozen=True)
class Standing:
    """A plan that has been measured.

    Attributes:
        plan: the bitwidths.
        cost: what they cost.
        judgement: what was measured on validation data.
        limits: what they were held to.
        violations: broken constraints, normalised, see `Limits.violations`.
    """

    plan: BitwidthPlan
    cost: Cost
    judgement: Judgement
    limits: Limits
    violations: dict[str, float]

    @classmethod
    def of(cls, plan: BitwidthPlan, cost: Cost, judgement: Judgement, limits: Limits) -> Standing:
        """Measure a plan against limits."""
        return cls(plan, cost, judgement, limits, limits.violations(cost, judgement.accuracy))

    @property
    def met(self) -> bool:
        """Whether every constraint holds."""
        return not self.violations

    def better_than(self, other: Standing, objective: str) -> bool:
        """Feasible beats infeasible; else the smaller violation of costs, then of the floor; else what is wanted.

        Costs come first because they are certain: a cost that is over its limit stays there, while the accuracy of a
        plan that fits still rises in the final training.
        """
        return self._rank(objective) > other._rank(objective)

    def _rank(self, objective: str) -> tuple[float, ...]:
        if self.violations:
            costs = sum(excess for name, excess in self.violations.items() if name != "accuracy")
            return (0.0, -costs, -self.violations.get("accuracy", 0.0), self.judgement.accuracy)
        if objective == "smallest":
            # The tightest first; one that no bitwidth changes leaves the decision to the next.
            ratios = sorted(-ratio for ratio in self.limits.ratios(self.cost).values())
            return (1.0, *ratios, -float(self.cost.total_bytes), self.judgement.accuracy)
        if objective == "accurate":
            # The distance to the float network's outputs is far less noisy than the metric, see Judgement.
            return (1.0, -self.judgement.divergence, self.judgement.accuracy)
        return (1.0, self.judgement.accuracy, -self.judgement.divergence)


@dataclass
class Reconstructed:
    """How far a reconstruction is.

    Attributes:
        batches: that it looks at.
        steps: of each block.
        done: blocks that are behind.
        before: the network's mean distance on the examples that it does not look at, before.
        learned: whether the result is the reconstructed network; None: not decided yet.
        parts: into which each batch is cut for the blocks' steps.
    """

    batches: int
    steps: list[int]
    done: int
    before: float
    learned: bool | None = None
    parts: int = 1


@dataclass
class Progression:
    """What of a run is saved after every step besides tensors.

    Attributes:
        stage: ``"phase1"`` (or another strategy), ``"phase2"``, ``"final"`` or ``"done"``.
        step: number of the last complete step.
        weights: present weight bitwidths.
        accuracy: of the present plan, on the validation data that judge the search.
        divergence: likewise.
        tau: shift of phase 1.
        tau_step: last change of the shift.
        cycle: cycles of the present phase.
        count: layers that the next move may change.
        tabu: rejected plans.
        rivals: plans that the search began with, other than the one it began from, and that one; they are rounded and
            measured like the result where nothing has been trained.
        measured: judgements by plan, as far as a strategy has measured plans; empty once it has decided.
        segment: segments of the final training that are done.
        best: judgement of what is kept of the final training, on all validation data; None before its first segment.
        best_segment: the segment that it is of; 0: it is from before the training.
        best_examples: training examples that it has seen.
        reconstruction: how far it is; None: not begun.
        final_examples: of the final training, where a time is given for everything; None: not decided yet.
        search_seconds: wall time that the search took.
        rate: factor of the learning rates; below 1 after a training that collapsed.
        discarded_examples: training examples of trainings that were thrown away.
        trained_examples: training examples seen so far by the network that is at hand.
        search_examples: those that the search used.
        seconds: wall time of all sessions of the run.
        sensitivity: `Statistics.sensitivity`, so that a resumed run goes by the same; with the two that follow.
        sensitivity_examples: as there.
        sensitivity_agreement: as there.
        float_figures: `Judge.float_figures` of the run's validation data.
    """

    stage: Literal["phase1", "phase2", "final", "done"] = "phase1"
    step: int = 0
    weights: dict[str, int] = field(default_factory=dict)
    accuracy: float = 0.0
    divergence: float = 0.0
    tau: float = 0.0
    tau_step: float = 0.0
    cycle: int = 0
    count: int = 0
    tabu: list[list[int]] = field(default_factory=list)
    rivals: list[list[int]] = field(default_factory=list)
    measured: dict[str, Judgement] = field(default_factory=dict)
    segment: int = 0
    best: Judgement | None = None
    best_segment: int = 0
    best_examples: int = 0
    reconstruction: Reconstructed | None = None
    final_examples: int | None = None
    search_seconds: float = 0.0
    rate: float = 1.0
    discarded_examples: int = 0
    trained_examples: int = 0
    search_examples: int = 0
    seconds: float = 0.0
    sensitivity: dict[str, dict[int, float]] | None = None
    sensitivity_examples: int = 0
    sensitivity_agreement: float | None = None
    float_figures: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Progression:
        """Inverse of `to_dict`.

        Raises:
            CheckpointError: it has other fields, as another version's has, or values of other types.
        """
        other = set(document) ^ {entry.name for entry in fields(cls)}
        if other:
            raise CheckpointError(
                "the run's state was written by another version of SigmaQuant: it differs in "
                f"{', '.join(sorted(other))}. Go on with that version, or begin anew with overwrite."
            )
        return parse(cls, document, "the run's state", CheckpointError, "Begin anew with overwrite.")
