"""A run with several plans: each is searched inside the one before it, then all are rounded or trained together."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from sigmaquant.budget import Budget
from sigmaquant.errors import SigmaQuantError
from sigmaquant.export.nested import NestedPlan, compact_, document_of, export_nested
from sigmaquant.parallel import agreed_state, is_main
from sigmaquant.plan import MIDRISE_LARGEST, BitwidthPlan
from sigmaquant.quant import QuantizedNetwork
from sigmaquant.quant.coverage import coverage
from sigmaquant.report import describe_layers, refresh_report
from sigmaquant.runs import NullProgress, Progress, RunDirectory, RunFiles, logging_to, task, write_text_atomic
from sigmaquant.runs.documents import dumps
from sigmaquant.search.callbacks import Announced, Callback, call_all
from sigmaquant.search.driver import Driver
from sigmaquant.search.search_state import NullRecorder, Recorder
from sigmaquant.search.session import Session
from sigmaquant.search.settings import Settings
from sigmaquant.training.metrics import evaluate
from sigmaquant.training.nesting import round_nested_
from sigmaquant.training.student import Student
from sigmaquant.training.together import Together, resumed
from sigmaquant.workflow.job import Job, write_run
from sigmaquant.workflow.results import PlanRow, QuantizationResult, Scores

log = logging.getLogger("sigmaquant")


def plan_settings(settings: Settings) -> Settings:
    """Settings under which codes nest.

    Raises:
        SigmaQuantError: the user wants a grid that does not, or what runs with one plan alone have.
    """
    if settings.midrise_up_to not in (None, MIDRISE_LARGEST):
        raise SigmaQuantError(
            f"midrise_up_to is {settings.midrise_up_to}, but the codes of several plans nest on mid-rise grids only. "
            "Leave it out."
        )
    if settings.prune:
        raise SigmaQuantError("the planes of several plans belong to layers of one shape. Leave prune out.")
    if settings.accept_control:
        raise SigmaQuantError("several plans have no uniform control that could be accepted. Leave accept_control out.")
    return replace(settings, midrise_up_to=MIDRISE_LARGEST)


def named_budgets(plans: Sequence[Budget | str]) -> dict[str, Budget]:
    """Budgets by the plans' names: sizes as they were written, or what a `Budget` limits.

    Raises:
        SigmaQuantError: fewer than two plans, or two alike.
        UnitsError, BudgetError: a budget that cannot be read.

    Example:
        >>> named_budgets(["8x", "16x"])["16x"]
        Budget(size='16x')
    """
    if isinstance(plans, str) or len(plans) < 2:
        given = list(plans) if not isinstance(plans, str) else plans
        raise SigmaQuantError(f"plans is {given!r}; it must be two or more budgets, such as ['8x', '12x', '16x'].")
    found: dict[str, Budget] = {}
    for item in plans:
        budget = item if isinstance(item, Budget) else Budget(size=item)
        limits = {key: value for key, value in budget.to_dict().items() if key != "size_counts"}
        name = str(limits["size"]) if "size" in limits else " ".join(str(value) for value in limits.values())
        if name in found:
            raise SigmaQuantError(f"there are two plans {name!r}. Give every plan once.")
        found[name] = budget
    return found


def run_plans(
    job: Job,
    budgets: Mapping[str, Budget],
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    callbacks: Sequence[Callback] = (),
) -> QuantizationResult:
    """Fit one network into several budgets with one set of weights.

    Args:
        job: model, data and settings, which `plan_settings` has seen.
        budgets: by the plans' names.
        run_dir: where everything goes.
        resume: as for `sigmaquant.quantize`.
        overwrite: likewise.
        progress: display.
        callbacks: as for `sigmaquant.quantize`.

    Raises:
        SigmaQuantError: see `sigmaquant.quantize`.
    """
    progress = progress or NullProgress()
    sessions = _sessions(job, budgets)
    names = list(sessions)
    config = {
        **job.config,
        "budget": budgets[names[0]].to_dict(),
        "plans": {name: budgets[name].to_dict() for name in names},
    }
    with contextlib.ExitStack() as stack:
        recorder: RunDirectory | None = None
        if run_dir is not None and is_main():
            recorder = stack.enter_context(RunDirectory(run_dir, config=config, resume=resume, overwrite=overwrite))
        elif run_dir is None and (resume or overwrite):
            raise SigmaQuantError("resume and overwrite need a run directory: run_dir=, or --out.")
        stack.enter_context(
            logging_to(recorder.log_path if recorder else None, stderr_level=logging.WARNING if is_main() else None)
        )
        stack.enter_context(job.device.random_state(job.settings.seed))
        for note in job.notes:
            log.info(note)
        if recorder is not None and not recorder.begun:
            recorder.save_state(0, {}, {"stage": "plans"})  # a resumed run knows that its searches are its own
        result = _Run(job, sessions, recorder, progress, resume, callbacks).result()
        call_all(callbacks, {"stage": "result", **result.to_dict()})
        return result


def _sessions(job: Job, budgets: Mapping[str, Budget]) -> dict[str, Session]:
    """A session for every plan, from the largest to the smallest size."""
    found = {name: job.session(budget) for name, budget in budgets.items()}
    sizes = {name: session.limits.upper.get("size_bytes") for name, session in found.items()}
    if all(size is not None for size in sizes.values()):
        order = sorted(found, key=lambda name: -(sizes[name] or 0.0))
        return {name: found[name] for name in order}
    return found


def _of_plan(name: str, callback: Callback) -> Callback:
    """A callback whose steps say which plan they are of."""
    return lambda step: callback({"plan": name, **step})


class _Run:
    def __init__(
        self,
        job: Job,
        sessions: Mapping[str, Session],
        recorder: RunDirectory | None,
        progress: Progress,
        resume: bool,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.callbacks = callbacks
        self.job, self.recorder, self.progress, self.resume = job, recorder, progress, resume
        self.names, self.sessions = list(sessions), list(sessions.values())
        self.notes = list(job.notes)
        self.seconds = 0.0
        self.trained = 0

    def result(self) -> QuantizationResult:
        plans = self._search()
        begun = time.perf_counter()
        networks = self._trained(plans) if self._segments[0] else self._rounded(plans)
        with task(self.progress, "comparing the plans", len(plans)):
            rows = [self._row(number, networks[number]) for number in range(len(plans))]
        self.seconds += time.perf_counter() - begun
        return self._written(rows)

    # -- searching -----------------------------------------------------------------------------------------------

    def _search(self) -> list[BitwidthPlan]:
        """Bitwidths of every plan, each inside the one before it; found without training."""
        plans: list[BitwidthPlan] = []
        for number, session in enumerate(self.sessions):
            limited = session if not plans else session.narrower_than(plans[-1].weights)
            twin = _untrained(limited)
            with contextlib.ExitStack() as stack:
                inner: Recorder = NullRecorder()
                if self.recorder is not None:
                    inner = stack.enter_context(self._inner(number, twin))
                with task(self.progress, f"plan {self.names[number]}"):
                    told = [_of_plan(self.names[number], callback) for callback in self.callbacks]
                    driver = Driver(twin, Announced(inner, told), self.progress)
                    state = driver.run()
            self.seconds += state.seconds
            plan = session.plan(state.weights)
            if plans and plan.weights == plans[-1].weights:
                self._note(f"the plans {self.names[number - 1]} and {self.names[number]} are the same")
            plans.append(plan)
            self.sessions[number] = limited
        return plans

    def _inner(self, name: int | str, twin: Session) -> RunDirectory:
        assert self.recorder is not None
        path = self.recorder.plan_run_path(name)
        config = {
            **self.recorder.read_config(),
            "settings": twin.settings.to_dict(),
            "choices": {name: list(allowed) for name, allowed in twin.choices.items()},
            "limits": dict(twin.limits.upper),
        }
        begun = self.resume and RunFiles(path).is_of(config)  # else it is of a run that has been overwritten
        return RunDirectory(path, config=config, resume=begun, overwrite=path.exists() and not begun)

    def _note(self, note: str) -> None:
        self.notes.append(note)
        log.info(note)

    # -- rounding ------------------------------------------------------------------------------------------------

    def _students(self) -> list[Student]:
        return [session.student() for session in self.sessions]

    def _rounded(self, plans: Sequence[BitwidthPlan]) -> list[QuantizedNetwork]:
        students = self._students()
        with task(self.progress, "rounding the plans together"):
            round_nested_(students, plans, self.job.settings.rounding == "compensated")
        return _finished([student.network for student in students])

    # -- training ------------------------------------------------------------------------------------------------

    @property
    def _segments(self) -> tuple[int, int]:
        """Number of segments of the training, two for each pass over the data, and examples in each."""
        settings = self.job.settings
        if settings.post_training or not settings.final_epochs:
            return 0, 0
        known = self.sessions[0].train_examples
        examples = round(settings.final_epochs * known)
        segments = max(1, round(2 * examples / known))
        return segments, -(-examples // segments)

    def _trained(self, plans: Sequence[BitwidthPlan]) -> list[QuantizedNetwork]:
        """All plans trained together from where they were rounded, in segments, each a complete step."""
        segments, per_segment = self._segments
        session, students = self.sessions[0], self._students()
        saved = agreed_state(lambda: None if self.recorder is None else self.recorder.load_state())
        done, best = 0, -math.inf
        if saved is not None and saved[2].get("stage") == "training":
            done, best, self.trained = saved[2]["segment"], saved[2]["best"], saved[2]["best_examples"]
            parts = {part: _part(saved[1], part) for part in ("now", "best")}
            together, kept = resumed(students, plans, parts["now"]), parts["best"]
        else:
            with task(self.progress, "rounding the plans together"):
                round_nested_(students, plans, self.job.settings.rounding == "compensated")
            together = Together(students)
            kept, best = together.tensors(), self._judged(students)
        total = segments * per_segment
        with task(self.progress, "training the plans together", total):
            self.progress.advance(done * per_segment)
            while done < segments:
                seed = session.seed("plans", done)
                session.device.seed(seed)
                together.segment(per_segment, seed, done * per_segment, total, self._tick)
                done += 1
                mean = self._judged(students)
                log.info("segment %d of %d: mean accuracy of the plans %.4f", done, segments, mean)
                if mean >= best:
                    kept, best, self.trained = together.tensors(), mean, done * per_segment
                if self.recorder is not None:
                    tensors = {f"now.{key}": value for key, value in together.tensors().items()}
                    tensors |= {f"best.{key}": value for key, value in kept.items()}
                    meta = {"stage": "training", "segment": done, "best": best, "best_examples": self.trained}
                    self.recorder.save_state(done, tensors, meta)
        together.restore(kept)
        if self.trained:
            self._reestimated(together, students, best)
        else:
            self._note("training the plans together made them no better: they are returned as they were rounded")
        return _finished(together.finish())

    def _reestimated(self, together: Together, students: Sequence[Student], best: float) -> None:
        """BatchNorm statistics of every plan from fresh examples, where that does not harm."""
        settings, before = self.job.settings, together.tensors()
        for student in students:
            if student.has_batch_norm:
                student.reestimate(settings.batch_norm_examples, self.sessions[0].seed("batch norm"))
        if self._judged(students) < best:
            together.restore(before)

    def _judged(self, students: Sequence[Student]) -> float:
        """Mean accuracy of all plans on all validation data."""
        found = [self.sessions[0].judge(student.network).accuracy for student in students]
        return sum(found) / len(found)

    def _tick(self, examples: int, loss: float) -> None:
        self.progress.note(loss=loss)
        self.progress.advance(examples)

    # -- alone ---------------------------------------------------------------------------------------------------

    def _alone(self, number: int, plan: BitwidthPlan) -> Scores | None:
        """Of the same bitwidths rounded for themselves, or trained for as long: where plans train, only if asked."""
        session, settings = self.sessions[number], self.job.settings
        if self._segments[0]:
            if not settings.control:
                return None
            twin = session.fixed_at(plan.weights)
            twin.settings = replace(settings, strategy="uniform", control=False, cycle_examples=0)
            with contextlib.ExitStack() as stack:
                inner: Recorder = NullRecorder()
                if self.recorder is not None:
                    inner = stack.enter_context(self._inner(f"{number}-alone", twin))
                driver = Driver(twin, inner, self.progress)
                driver.run()
            return _scores(session, driver.student.network)
        student = session.student()
        student.apply(plan)
        if settings.rounding == "compensated":
            student.compensate()
        else:
            student.recalibrate()
        return _scores(session, student.network)

    # -- the result ----------------------------------------------------------------------------------------------

    def _row(self, number: int, network: QuantizedNetwork) -> PlanRow:
        session, plan = self.sessions[number], network.plan
        assert plan is not None, "quantized"
        cost = session.costs.cost(plan, {name: network.codes(name) for name in network.graph.layer})
        scores = _scores(session, network.eval())
        violations = session.limits.violations(cost, scores.validation)
        alone = self._alone(number, plan)
        self.progress.advance(1)
        told = "not measured" if alone is None else f"{alone.validation:.4f}"
        name, size = self.names[number], cost.total_bytes
        log.info("plan %s: %d bytes, %.4f on the validation data; alone %s", name, size, scores.validation, told)
        return PlanRow(self.names[number], plan, not violations, violations, cost, scores, alone, network)

    def _written(self, rows: Sequence[PlanRow]) -> QuantizationResult:
        session, first, recorder = self.sessions[0], rows[0], self.recorder
        broken = [row for row in rows if not row.met]
        for row in broken:
            self._note(f"plan {row.name} does not meet its budget: {', '.join(row.violations)}")
        result = QuantizationResult(
            network=first.network,
            plan=first.plan,
            met=not broken,
            violations=first.violations,
            cost=first.cost,
            reference=session.reference,
            scores=first.scores,
            float_scores=Scores(session.float_accuracy, self.job.float_test, 0.0),
            coverage=coverage(session.graph, first.plan),
            float_operators=tuple(place.described for place in session.graph.float_places),
            control=None,
            seconds=self.seconds,
            notes=tuple(self.notes),
            run_dir=recorder.path if recorder else None,
            limits=session.limits.to_dict(),
            sensitivity_examples=session.statistics.sensitivity_examples,
            sensitivity_agreement=session.statistics.sensitivity_agreement,
            trained_examples=self.trained,
            plans=tuple(rows),
        )
        if recorder is not None:
            self._write(recorder, result)
        return result

    def _write(self, recorder: RunDirectory, result: QuantizationResult) -> None:
        """The nested checkpoint first; as of every run, a result exists only when everything else does."""
        networks = {row.name: row.network for row in result.plans}
        export_nested(networks, recorder.nested_path)
        document = document_of([NestedPlan(row.name, row.plan) for row in result.plans])
        write_text_atomic(recorder.plans_path, dumps(document))
        layers = describe_layers(
            result.network, self.job.costs, self.job.settings.sigma, self.job.statistics.sensitivity
        )
        write_run(recorder, result, layers, self.job.environment)
        refresh_report(recorder.path)


def _finished(networks: list[QuantizedNetwork]) -> list[QuantizedNetwork]:
    """The networks as the file holds them."""
    compact_(networks)
    return networks


def _part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {key.partition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{part}.")}


def _untrained(session: Session) -> Session:
    """The session of a search that trains nothing, and leaves rounding to all plans together."""
    twin = session.narrower_than({name: allowed[-1] for name, allowed in session.choices.items()})
    twin.settings = replace(session.settings, post_training=True, control=False, rounding="nearest")
    return twin


def _scores(session: Session, network: QuantizedNetwork) -> Scores:
    judgement, test = session.judge(network), session.data.test
    tested = None if test is None else evaluate(network, test.batches(), session.task, session.device)
    return Scores(judgement.accuracy, tested, judgement.divergence)
