"""The search as a machine of small steps: each is complete on disk before the next begins, so any can be the last.

Stages: phase 1 (or another strategy) -> phase 2 -> final training.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from sigmaquant.budget import Limits
from sigmaquant.plan import BitwidthPlan
from sigmaquant.runs.progress import Progress, task
from sigmaquant.search.greedy import GreedyProgress
from sigmaquant.search.phase1 import BUFFER, Clustering, cluster_to_budget, shifted
from sigmaquant.search.phase2 import Move, propose
from sigmaquant.search.problem import Bits
from sigmaquant.search.reach import format_cost
from sigmaquant.search.session import Session
from sigmaquant.search.start import Start
from sigmaquant.search.state import Progression, Standing
from sigmaquant.search.strategies import Evidence, find_strategy
from sigmaquant.statistics import layer_sigmas
from sigmaquant.training.student import Judge, Judgement, Student

log = logging.getLogger("sigmaquant")

_ACCURACY_ZONE = 0.02
"""Phase 1 is content with an accuracy this far (as a part of the floor) below it: training has only begun."""


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


class Driver:
    """Runs a search to its end, from the beginning or from the last complete step.

    Args:
        session: what is to be searched.
        recorder: where steps go.
        progress: what the user sees.
        extra_examples: training examples that the final training gets on top: what another run's search used, so that
            a control trains for as long.
        start: a finished run to begin from in place of phase 1; other strategies have no use for one.

    Raises:
        CheckpointError: the start is of another network.

    Attributes:
        student: the network; at the end, with the best weights.
        state: where the run stands.
    """

    def __init__(
        self,
        session: Session,
        recorder: Recorder,
        progress: Progress,
        extra_examples: int = 0,
        start: Start | None = None,
    ) -> None:
        self.session, self.recorder, self.progress = session, recorder, progress
        self.extra_examples, self.start = extra_examples, start
        if start is not None:
            start.check(session.graph.fingerprint)
        self.settings, self.problem = session.settings, session.problem
        self.limits, self.aims = session.limits, session.aims
        self.student: Student = session.student()
        self.state = Progression()
        self.best: dict[str, Tensor] = {}
        self._begun = time.perf_counter()

    # -- the machine ---------------------------------------------------------------------------------------------

    def run(self) -> Progression:
        """Go through all stages that are left.

        Raises:
            TrainingError: training diverged.
            StorageError: a step could not be recorded.
            CheckpointError: a run to resume is damaged, or another version's.
        """
        saved = self.recorder.load_state()
        if saved is not None:
            self._resume(*saved)
        stages: dict[str, Callable[[], None]] = {
            "phase1": self._plan_stage,
            "phase2": self._phase2,
            "final": self._final,
        }
        while self.state.stage != "done":
            stages[self.state.stage]()
        return self.state

    def _resume(self, step: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self.state = Progression.from_dict(meta)
        self._begun = time.perf_counter() - self.state.seconds
        own = {k.removeprefix("now."): v for k, v in tensors.items() if k.startswith("now.")}
        self.best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        self.student.restore(self.session.plan(self.state.weights), own, self.state.trained_examples)
        log.info("resumed after step %d, in stage %s", step, self.state.stage)

    def _save(self, line: dict[str, Any] | None = None) -> None:
        """Record a complete step: first the line, then the state that makes it count."""
        state = self.state
        state.trained_examples = self.student.trained_examples
        state.seconds = time.perf_counter() - self._begun
        if line is not None:
            state.step += 1
            self.recorder.append_step({"step": state.step, **line, "seconds": round(state.seconds, 3)})
        tensors = {f"now.{key}": value for key, value in self.student.tensors().items()}
        tensors.update({f"best.{key}": value for key, value in self.best.items()})
        self.recorder.save_state(state.step, tensors, state.to_dict())

    # -- measuring -----------------------------------------------------------------------------------------------

    @property
    def _held_to(self) -> Limits:
        """The session's aims; the costs' reserve is there to be used by what comes after the search."""
        return replace(self.aims, upper=self.limits.upper) if self.state.stage == "final" else self.aims

    def _standing(self, plan: BitwidthPlan, judgement: Judgement, limits: Limits | None = None) -> Standing:
        return Standing.of(plan, self.session.costs.cost(plan), judgement, limits or self._held_to)

    def _present(self) -> Standing:
        return self._standing(
            self.session.plan(self.state.weights), Judgement(self.state.accuracy, self.state.divergence)
        )

    def _judged(self, judge: Judge, limits: Limits | None = None) -> Standing:
        """The student as it is."""
        standing = self._standing(self.session.plan(self.state.weights), judge(self.student.network), limits)
        self._show(standing)
        return standing

    def _judged_on_all(self) -> Standing:
        """As the verdict judges: the states of one training differ by less than the noise of a part of the data."""
        return self._judged(self.session.judge, self.limits)

    def _measure(self, bits: Bits, title: str) -> Standing:
        """Put the student at a plan, train it for a cycle, judge it."""
        plan = self.session.plan(bits)
        self.student.apply(plan)
        if not self.settings.post_training and self.settings.cycle_examples:
            seed = self.session.seed("cycle", self.state.step)
            torch.manual_seed(seed)
            with task(self.progress, title, self.settings.cycle_examples):
                self.student.cycle(self.settings.cycle_examples, seed, self.settings.cycle_lr, self._tick)
        standing = self._standing(plan, self.session.search_judge(self.student.network))
        self._show(standing)
        return standing

    def _tick(self, examples: int, loss: float) -> None:
        self.progress.note(loss=loss)
        self.progress.advance(examples)

    def _show(self, standing: Standing) -> None:
        self.progress.note(
            **self._costs(standing),
            mean_bits=self._mean_bits(standing.plan.weights),
            accuracy=standing.judgement.accuracy,
            limits="met" if standing.met else "not met: " + ", ".join(standing.violations),
        )

    def _costs(self, standing: Standing) -> dict[str, str]:
        """What is limited, for people; the size where nothing is."""
        cost, counts = standing.cost, self.limits.size_counts
        costs = {resource: cost.resource(resource, counts) for resource in self.limits.upper or ("size_bytes",)}
        return {name.partition("_")[0]: format_cost(name, value) for name, value in costs.items() if value is not None}

    def _mean_bits(self, bits: Bits) -> float:
        elements = self.problem.elements
        return sum(bits[name] * count for name, count in elements.items()) / sum(elements.values())

    def _line(self, standing: Standing, move: str, accepted: bool, changes: dict[str, Any]) -> dict[str, Any]:
        return {
            "stage": self.state.stage,
            "move": move,
            "accepted": accepted,
            "changes": changes,
            "weights": dict(standing.plan.weights),
            "mean_bits": self._mean_bits(standing.plan.weights),
            "cost": standing.cost.to_dict(),
            "accuracy": standing.judgement.accuracy,
            "divergence": standing.judgement.divergence,
            "violations": standing.violations,
            "limits": self.limits.to_dict(),
            "held_to": standing.limits.to_dict(),
        }

    def _accept(self, standing: Standing) -> None:
        self.state.weights = dict(standing.plan.weights)
        self.state.accuracy = standing.judgement.accuracy
        self.state.divergence = standing.judgement.divergence

    # -- phase 1 and the other strategies ----------------------------------------------------------------------------

    def _plan_stage(self) -> None:
        if self.settings.strategy == "sigma" and self.start is not None:
            self._begin_from(self.start)
        elif self.settings.strategy == "sigma":
            self._phase1()
        else:
            bits = self._strategy_bits()
            with task(self.progress, self.settings.strategy, 1):
                standing = self._measure_plainly(bits)
            self._accept(standing)
            self.state.measured = {}
            line = self._line(standing, self.settings.strategy, True, {})
            self.state.stage = "final"
            self._save(line)

    def _begin_from(self, start: Start) -> None:
        """Take over a finished run's plan, and its weights where they were trained."""
        plan = self.session.plan(start.weights)
        self.problem.key(plan.weights)
        if start.trained_examples and self.settings.trains:
            network = {f"network.{key}": value for key, value in start.tensors.items()}
            self.student.restore(plan, network, start.trained_examples)
        standing = self._measure_plainly(plan.weights)
        self._accept(standing)
        line = self._line(standing, "start", True, {"run": start.name})
        self._enter_phase2()
        self._save(line)

    def _enter_phase2(self) -> None:
        self.state.stage, self.state.cycle = "phase2", 0
        self.state.count = max(1, len(self.problem.layers) // 4)

    def _measure_plainly(self, bits: Bits) -> Standing:
        """Judge a plan without a training cycle."""
        plan = self.session.plan(bits)
        self.student.apply(plan)
        standing = self._standing(plan, self.session.search_judge(self.student.network))
        self._show(standing)
        return standing

    def _strategy_bits(self) -> dict[str, int]:
        strategy = find_strategy(self.settings.strategy)
        evidence = Evidence(seed=self.settings.seed, loss=self._calibration_loss, progress=self._recorded_upgrades())
        if self.settings.strategy not in ("uniform", "random", "greedy"):
            table, per_element = self.session.sensitivity(self.session.graph)
            evidence = replace(evidence, sensitivity=table, per_element=per_element)
        with task(self.progress, f"strategy {self.settings.strategy}"):
            bits = strategy(self.problem, evidence)
        self.problem.key(bits)  # a user's own strategy may have forgotten a layer or a pin
        return bits

    def _calibration_loss(self, bits: Bits) -> float:
        """Distance to the float network's outputs at a plan, without training; for strategies that measure plans."""
        standing = self._measured_once(bits)
        self.progress.advance()
        return standing.judgement.divergence

    def _measured_once(self, bits: Bits) -> Standing:
        """A plan without a training cycle; a resumed run knows those that it has measured before."""
        plan, measured = self.session.plan(bits), self.state.measured
        key = " ".join(str(bits.get(name)) for name in self.problem.layers)
        if key not in measured:
            self.student.apply(plan)
            measured[key] = self.session.search_judge(self.student.network)
        return self._standing(plan, measured[key])

    def _recorded_upgrades(self) -> Callable[[GreedyProgress], None]:
        """Makes a step of every upgrade; a resumed run goes the same way again, and records what is new."""
        recorded, told, before = self.state.step, 0, self.problem.lowest

        def record(found: GreedyProgress) -> None:
            nonlocal told, before
            standing = self._measured_once(found.bits)
            self._show(standing)
            changes = {name: [before[name], bits] for name, bits in found.bits.items() if bits != before[name]}
            told, before = told + 1, dict(found.bits)
            if told <= recorded:
                return
            # The state is that of the student, which was last put at a plan that need not be the one upgraded to.
            assert self.student.network.plan is not None, "a plan has been measured"
            self._accept(self._measured_once(self.student.network.plan.weights))
            self._save(self._line(standing, "upgrade" if changes else "lowest", True, changes))
            self._log(standing, f"{len(changes)} layers upgraded" if changes else "lowest bitwidths")

        return record

    def _log(self, standing: Standing, what: str) -> None:
        log.info(
            "%s: accuracy %.4f, divergence %.4g, %s",
            what,
            standing.judgement.accuracy,
            standing.judgement.divergence,
            ", ".join(f"{name} {value}" for name, value in self._costs(standing).items()),
        )

    def _phase1(self) -> None:
        sigma = layer_sigmas(self.session.graph, self.settings.sigma)
        state = self.state
        with task(self.progress, "phase 1", self.settings.phase1_cycles):
            while state.cycle < self.settings.phase1_cycles:
                found = (
                    cluster_to_budget(sigma, self.problem)
                    if state.cycle == 0
                    else shifted(sigma, self.problem, state.tau)
                )
                standing = self._measure(found.bits, "phase 1, training")
                self._accept(standing)
                state.cycle += 1
                state.tau = found.tau
                line = self._line(standing, "cluster", True, {"tau": found.tau, "landing": found.landing})
                line["zones"] = {"cost": BUFFER, "accuracy": _ACCURACY_ZONE}
                go_on = self._shift_back(found, standing, sigma)
                self.progress.advance()
                if not go_on or state.cycle == self.settings.phase1_cycles:
                    self._enter_phase2()
                    self._save(line)
                    return
                self._save(line)

    def _shift_back(self, found: Clustering, standing: Standing, sigma: dict[str, float]) -> bool:
        """Step 3 of phase 1: where the accuracy is too low and cost has slack, go half of the last step back."""
        floor = self.aims.accuracy_floor
        if floor is None or standing.judgement.accuracy >= floor - _ACCURACY_ZONE * abs(floor):
            return False
        if max(self.aims.ratios(standing.cost).values(), default=0.0) >= 1:
            return False
        spread = max(sigma.values()) - min(sigma.values())
        last = self.state.tau_step or abs(found.tau) or spread
        self.state.tau_step = last / 2
        self.state.tau = found.tau - self.state.tau_step
        return True

    # -- phase 2 -------------------------------------------------------------------------------------------------

    def _phase2(self) -> None:
        state, settings = self.state, self.settings
        with task(self.progress, "phase 2", settings.max_cycles):
            self.progress.advance(state.cycle)
            # Without training the weights are still the float network's.
            graph = self.student.graph if self.student.trained_examples else self.session.graph
            table, per_element = self.session.sensitivity(graph)
            while True:
                move = self._propose(table, per_element)
                if move is None:
                    break
                fits = self.problem.fits(state.weights)
                # A limit is worth more cycles than an improvement, but not any number of rejected ones.
                if state.cycle >= (settings.max_cycles if fits else 2 * settings.max_cycles + 4):
                    break
                accepted = self._try(move)
                self.progress.advance()
                if accepted and self.student.trained_examples:
                    table, per_element = self.session.sensitivity(self.student.graph)
        state.stage, state.search_examples = "final", self.student.trained_examples
        self._save()

    def _propose(self, table: Any, per_element: bool) -> Move | None:
        state, objective = self.state, self.session.objective
        fits = self.problem.fits(state.weights)
        floor = self.aims.accuracy_floor
        met: bool | None = None if floor is None else state.accuracy >= floor
        if objective == "accurate":
            met = False
        if not self.settings.phase2:
            if fits:
                return None
            met = None  # only what the limits require
        return propose(
            self.problem,
            state.weights,
            table,
            accuracy_met=met,
            objective="smallest" if objective == "smallest" else "feasible",
            count=len(self.problem.layers) if not fits else max(1, state.count),
            tabu={tuple(key) for key in state.tabu},
            per_element=per_element,
        )

    def _try(self, move: Move) -> bool:
        """Measure a move; keep it if it is better, else undo it exactly and never propose it again."""
        state = self.state
        before, tensors, trained = self._present(), self.student.tensors(), self.student.trained_examples
        standing = self._measure(move.bits, f"phase 2, {move.kind}")
        accepted = standing.better_than(before, self.session.objective)
        state.cycle += 1
        if accepted:
            self._accept(standing)
        else:
            self.student.restore(before.plan, tensors, trained)
            state.tabu.append(list(self.problem.key(move.bits)))
            state.count = max(1, state.count // 2)
        changes = {name: list(pair) for name, pair in move.changes.items()}
        self._save(self._line(standing, move.kind, accepted, changes))
        self._log(standing, f"{move.kind} of {len(changes)} layers, {'accepted' if accepted else 'rejected'}")
        return accepted

    # -- final training ----------------------------------------------------------------------------------------------

    def _final(self) -> None:
        """The final training in segments, each a complete step; ends with the best weights in the student.

        The best may be those from before, if training made it worse.
        """
        state = self.state
        if state.segment == 0 and not self.student.trained_examples:
            self._start_well()
        segments, per_segment = self._segments()
        with task(self.progress, "final training", max(1, segments * per_segment)):
            self.progress.advance(state.segment * per_segment)
            while state.segment < segments:
                if state.best is None:
                    self._keep(self._best())  # training may also make it worse
                    self.student.reset_momentum()
                seed = self.session.seed("final", state.segment)
                torch.manual_seed(seed)
                before, total = state.segment * per_segment, segments * per_segment
                self.student.segment(per_segment, seed, before, total, self._tick)
                state.segment += 1
                standing = self._judged_on_all()
                kept = self._takes_over(standing)
                if kept:
                    self._keep(standing)
                self._save(self._line(standing, "final training", kept, {}))
        if self.best:
            self.student.restore(self.session.plan(state.weights), self.best, self.student.trained_examples)
        self._finish()

    def _start_well(self) -> None:
        """Round with error compensation, where that brings the outputs closer to the float's; else calibrate on all.

        Not a step of its own: a resumed run does it again, from the same weights.
        """
        nearest, tensors = self._present(), self.student.tensors()
        if self.settings.rounding == "compensated":
            with task(self.progress, "rounding", 1):
                self.student.compensate()
            compensated = self._judged(self.session.search_judge)
            log.info(
                "rounding: divergence %.4g as searched, %.4g compensated and calibrated on all examples",
                nearest.judgement.divergence,
                compensated.judgement.divergence,
            )
            if compensated.judgement.divergence < nearest.judgement.divergence:
                self._accept(compensated)
                return
            self.student.restore(nearest.plan, tensors, 0)
        self.student.recalibrate()
        self._accept(self._judged(self.session.search_judge))

    def _segments(self) -> tuple[int, int]:
        """Number of segments (two for each pass over the data) and examples in each."""
        if self.settings.post_training:
            return 0, 0
        source = self.session.data.train
        known = source.examples if source.examples is not None else sum(len(t) for _, t in source.batches())
        examples = round(self.settings.final_epochs * known) + self.extra_examples
        segments = max(1, round(2 * examples / known)) if examples else 0
        return segments, -(-examples // segments) if segments else 0

    def _keep(self, standing: Standing) -> None:
        self.state.best, self.state.best_segment = standing.judgement, self.state.segment
        self.best = self.student.tensors()

    def _takes_over(self, standing: Standing) -> bool:
        """Whether a state of the training is kept in place of the best so far; of equals the longer trained is.

        By the metric alone: training moves outputs for the better, too, so that their distance to the float network's
        compares roundings of the same weights, and not these. The untrained state has to be better beyond chance:
        where the validation data once trained the float network, a rounding of its weights still remembers them.
        """
        best = self._best()
        if best.met != standing.met:
            return standing.met
        untrained = self.state.best_segment == 0
        chance = 2 * self.session.judge.standard_error(best.judgement.accuracy) if untrained else 0.0
        return standing.judgement.accuracy >= best.judgement.accuracy - chance

    def _best(self) -> Standing:
        """What is kept, or the present where nothing has been trained since the search."""
        if self.state.best is None:
            return self._judged_on_all()
        return self._standing(self.session.plan(self.state.weights), self.state.best, self.limits)

    def _finish(self) -> None:
        """Re-estimate BatchNorm where that helps; the student ends with what is kept."""
        state, plan = self.state, self.session.plan(self.state.weights)
        line = None
        if not self.student.trained_examples:
            line = self._line(self._present(), "post-training", True, {})
        else:
            best, tensors = self._best(), self.student.tensors()
            if self.student.has_batch_norm:
                self.student.reestimate(self.settings.batch_norm_examples, self.session.seed("batch norm"))
                after = self._judged_on_all()
                kept = not best.better_than(after, "feasible")
                if kept:
                    best = after
                else:
                    self.student.restore(plan, tensors, self.student.trained_examples)
                line = self._line(after, "batch norm", kept, {})
            self._accept(best)
        self.student.network.check_coverage(plan)
        self.best = {}
        state.stage = "done"
        self._save(line)
