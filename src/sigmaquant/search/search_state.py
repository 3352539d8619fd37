"""What the stages of a search work with: the student, where the run stands, measuring, and recording."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor

from sigmaquant.budget import Limits
from sigmaquant.errors import RunDirectoryError
from sigmaquant.parallel import agreed
from sigmaquant.plan import BitwidthPlan
from sigmaquant.runs.progress import Progress, task
from sigmaquant.search.feasibility import format_cost
from sigmaquant.search.problem import Bits
from sigmaquant.search.session import Session
from sigmaquant.search.state import Progression, Standing
from sigmaquant.training.student import Judge, Judgement, Student

_SAME = 3e-3
"""Relative difference of the float network's figures that another machine or thread count may make."""

_COLLAPSE = 0.05
_BACK_OFF = 0.1
_LOWEST_RATE = 2e-3  # three times lower, then no more

_log = logging.getLogger("sigmaquant")


class Recorder(Protocol):
    """Where steps are recorded: a run directory, or nothing."""

    def append_step(self, step: dict[str, Any]) -> None:
        """One line of the trajectory."""

    def save_state(self, step: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """What a resumed run continues from."""

    def load_state(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """The last saved state."""


class NullRecorder:
    """Records nothing: a run without a directory."""

    def append_step(self, step: dict[str, Any]) -> None:
        """Nothing."""

    def save_state(self, step: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Nothing."""

    def load_state(self) -> None:
        """Nothing."""
        return


def _check_same(now: Sequence[float], then: Sequence[float]) -> None:
    """Whether the float network does on the validation data what it did when the run began.

    Raises:
        RunDirectoryError: it does not.
    """
    scales = (1.0, then[2], then[2])  # of outputs near zero only their spread gives the scale
    pairs = zip(now, then, scales, strict=True)
    if not all(math.isclose(a, b, rel_tol=_SAME, abs_tol=_SAME * scale) for a, b, scale in pairs):
        raise RunDirectoryError(
            "the run was made with other validation data, or another metric of the same name: the float network scores "
            f"{now[0]:.4f}, in the run {then[0]:.4f}; its outputs have mean and standard deviation {now[1]:.4g} and "
            f"{now[2]:.4g}, in the run {then[1]:.4g} and {then[2]:.4g}. Resume it with its own, or begin anew with "
            "overwrite."
        )


class SearchState:
    """A network under search, with all that its stages share; they hand it on to each other.

    Args:
        session: what is to be searched.
        recorder: where steps go.
        progress: what the user sees.

    Attributes:
        student: the network.
        state: where the run stands.
        kept: the best tensors of the final training so far.
    """

    def __init__(self, session: Session, recorder: Recorder, progress: Progress) -> None:
        self.session, self.recorder, self.progress = session, recorder, progress
        self.settings, self.problem = session.settings, session.problem
        self.limits, self.aims = session.limits, session.aims
        self.student: Student = session.student()
        self.state = Progression(float_figures=session.judge.float_figures)
        self.kept: dict[str, Tensor] = {}
        self._begun = time.perf_counter()

    def resume(self, step: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Go back to a state that `save` recorded.

        Raises:
            CheckpointError: it is damaged, or another version's.
            RunDirectoryError: it was made with other validation data, or another metric of the same name.
        """
        now, self.state = self.state.float_figures, Progression.from_dict(meta)
        _check_same(now, self.state.float_figures)
        self.session.statistics.share_sensitivity(self.state)
        self._begun = time.perf_counter() - self.state.seconds
        own = {k.removeprefix("now."): v for k, v in tensors.items() if k.startswith("now.")}
        self.kept = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        self.student.restore(self.session.plan(self.state.weights), own, self.state.trained_examples)
        _log.info("resumed after step %d, in stage %s", step, self.state.stage)

    def save(self, line: dict[str, Any] | None = None) -> None:
        """Record a complete step: first the line, then the state that makes it count."""
        state = self.state
        state.trained_examples = self.student.trained_examples
        state.seconds = self.seconds
        known = self.session.statistics
        state.sensitivity, state.sensitivity_examples = known.sensitivity, known.sensitivity_examples
        state.sensitivity_agreement = known.sensitivity_agreement
        if line is not None:
            state.step += 1
            self.recorder.append_step({"step": state.step, **line, "seconds": round(state.seconds, 3)})
        tensors = {f"now.{key}": value for key, value in self.student.tensors().items()}
        tensors.update({f"best.{key}": value for key, value in self.kept.items()})
        self.recorder.save_state(state.step, tensors, state.to_dict())

    @property
    def seconds(self) -> float:
        """Wall time so far, of all sessions of the run."""
        return float(agreed(time.perf_counter() - self._begun))

    @property
    def held_to(self) -> Limits:
        """The session's aims; the costs' reserve is there to be used by what comes after the search."""
        return replace(self.aims, upper=self.limits.upper) if self.state.stage == "final" else self.aims

    def standing(self, plan: BitwidthPlan, judgement: Judgement, limits: Limits | None = None) -> Standing:
        """What a judgement of a plan makes of it; without limits held to those of the present stage."""
        return Standing.of(plan, self.session.costs.cost(plan), judgement, limits or self.held_to)

    def present(self) -> Standing:
        """The accepted plan as it was judged last."""
        return self.standing(
            self.session.plan(self.state.weights), Judgement(self.state.accuracy, self.state.divergence)
        )

    def judged(self, judge: Judge, limits: Limits | None = None) -> Standing:
        """The student as it is."""
        return self.judged_at(self.session.plan(self.state.weights), judge, limits)

    def judged_on_all(self) -> Standing:
        """As the verdict judges: the states of one training differ by less than the noise of a part of the data."""
        return self.judged(self.session.judge, self.limits)

    @property
    def trains_in_cycles(self) -> bool:
        """Whether a plan that is tried is trained for a cycle before it is judged."""
        return self.settings.trains_in_cycles

    def measure(self, bits: Bits, title: str) -> Standing:
        """Put the student at a plan, train it for a cycle, judge it."""
        plan = self.session.plan(bits)
        self.student.apply(plan)
        if self.trains_in_cycles:
            seed = self.session.seed("cycle", self.state.step)
            self.session.device.seed(seed)
            with task(self.progress, title, self.settings.cycle_examples):
                lr = self.settings.cycle_lr * self.state.rate
                self.student.cycle(self.settings.cycle_examples, seed, lr, self.tick)
        return self.judged_at(plan, self.session.search_judge)

    def collapsed(self, before: Standing, after: Standing) -> bool:
        """Whether a training has ruined what it was given: the metric fell by more than chance and a twentieth."""
        was, now = before.judgement.accuracy, after.judgement.accuracy
        chance = 4 * self.session.search_judge.standard_error(was)
        return not now >= was - max(_COLLAPSE * abs(was), chance)

    def back_off(self, before: Standing, tensors: dict[str, Tensor], trained: int, what: str) -> bool:
        """Undo a training that collapsed, and lower the rates; False where they have been lowered often enough."""
        self.state.discarded_examples += self.student.trained_examples - trained
        self.student.restore(before.plan, tensors, trained)
        self.student.reset_momentum()
        again = self.state.rate > _LOWEST_RATE
        self.state.rate *= _BACK_OFF if again else 1.0
        told = f"tried again at {self.state.rate:g} of the learning rates" if again else "given up"
        _log.warning("%s made the network worse beyond chance and was undone; %s", what, told)
        return again

    def measure_plainly(self, bits: Bits) -> Standing:
        """Judge a plan without a training cycle."""
        plan = self.session.plan(bits)
        self.student.apply(plan)
        return self.judged_at(plan, self.session.search_judge)

    def judged_at(self, plan: BitwidthPlan, judge: Judge, limits: Limits | None = None) -> Standing:
        """The student, which is at this plan."""
        standing = self.standing(plan, judge(self.student.network), limits)
        self.show(standing)
        return standing

    def tick(self, examples: int, loss: float) -> None:
        """Show that examples have been trained on."""
        self.progress.note(loss=loss)
        self.progress.advance(examples)

    def show(self, standing: Standing) -> None:
        """Show where the search stands."""
        self.progress.note(
            **self.costs(standing),
            mean_bits=self.mean_bits(standing.plan.weights),
            accuracy=standing.judgement.accuracy,
            limits="met" if standing.met else "not met: " + ", ".join(standing.violations),
        )

    def costs(self, standing: Standing) -> dict[str, str]:
        """What is limited, for people; the size where nothing is."""
        cost, counts = standing.cost, self.limits.size_counts
        costs = {resource: cost.resource(resource, counts) for resource in self.limits.upper or ("size_bytes",)}
        return {_short(name): format_cost(name, value) for name, value in costs.items() if value is not None}

    def mean_bits(self, bits: Bits) -> float:
        """Mean weight bitwidth of a plan, over the weights that are searched."""
        elements = self.problem.elements
        return sum(bits[name] * count for name, count in elements.items()) / sum(elements.values())

    def line(self, standing: Standing, move: str, accepted: bool, changes: dict[str, Any]) -> dict[str, Any]:
        """A step for the trajectory."""
        return {
            "stage": self.state.stage,
            "move": move,
            "accepted": accepted,
            "changes": changes,
            "weights": dict(standing.plan.weights),
            "mean_bits": self.mean_bits(standing.plan.weights),
            "cost": standing.cost.to_dict(),
            "accuracy": standing.judgement.accuracy,
            "divergence": standing.judgement.divergence,
            "violations": standing.violations,
            "limits": self.limits.to_dict(),
            "held_to": standing.limits.to_dict(),
        }

    def accept(self, standing: Standing) -> None:
        """Make a plan the present one."""
        self.state.weights = dict(standing.plan.weights)
        self.state.accuracy = standing.judgement.accuracy
        self.state.divergence = standing.judgement.divergence

    def log(self, standing: Standing, what: str) -> None:
        """A line for the run's log."""
        _log.info(
            "%s: accuracy %.4f, divergence %.4g, %s",
            what,
            standing.judgement.accuracy,
            standing.judgement.divergence,
            ", ".join(f"{name} {value}" for name, value in self.costs(standing).items()),
        )


def _short(resource: str) -> str:
    """A cost's name without its unit.

    Example:
        >>> _short("latency_ms@fast"), _short("size_bytes")
        ('latency@fast', 'size')
    """
    base, at, point = resource.partition("@")
    return base.partition("_")[0] + at + point
