"""The last stage of a search: rounding, the final training, BatchNorm, and which state of them is kept."""

from __future__ import annotations

import logging
from typing import Any

from sigmaquant.errors import DivergedError
from sigmaquant.plan import BitwidthPlan
from sigmaquant.runs.progress import task
from sigmaquant.search.bench import Bench
from sigmaquant.search.reconstructing import reconstruct
from sigmaquant.search.state import Standing
from sigmaquant.search.timing import SEGMENTS, training_examples

_log = logging.getLogger("sigmaquant")


def train_stage(bench: Bench, extra_examples: int = 0) -> None:
    """The final training in segments, each a complete step; ends with the best weights in the student.

    The best may be those from before, if training made it worse.

    Args:
        bench: with its plan.
        extra_examples: beyond what the settings say.
    """
    state = bench.state
    if state.segment == 0 and not bench.student.trained_examples:
        if state.reconstruction is None:
            _start_well(bench)
        reconstruct(bench)
    segments, per_segment = _segments(bench, extra_examples)
    with task(bench.progress, "final training", max(1, segments * per_segment)):
        bench.progress.advance(state.segment * per_segment)
        while state.segment < segments:
            if state.best is None:
                _keep(bench, _best(bench))  # training may also make it worse
                bench.student.reset_momentum()
            seed = bench.session.seed("final", state.segment)
            bench.session.device.seed(seed)
            before, total = state.segment * per_segment, segments * per_segment
            failure: DivergedError | None = None
            try:
                bench.student.segment(per_segment, seed, before, total, bench.tick, state.rate)
            except DivergedError as error:
                failure = error
            standing = None if failure else bench.judged_on_all()
            if state.segment == 0 and (standing is None or bench.collapsed(_best(bench), standing)):
                again = bench.back_off(_best(bench), bench.kept, state.best_examples, "the final training")
                if failure is not None and not again:
                    raise failure
                if again:
                    continue
                state.segment = segments
                bench.save(bench.line(_best(bench), "final training given up", True, {}))
                break
            if failure is not None or standing is None:
                raise failure or AssertionError("judged")
            state.segment += 1
            kept = _takes_over(bench, standing)
            if kept:
                _keep(bench, standing)
            bench.save(bench.line(standing, "final training", kept, {}))
    if bench.kept:
        state.discarded_examples += bench.student.trained_examples - state.best_examples
        bench.student.restore(bench.session.plan(state.weights), bench.kept, state.best_examples)
    _finish(bench)


def _start_well(bench: Bench) -> None:
    """Round with error compensation, where that brings the outputs closer to the float's; else calibrate on all.

    The plans that the search began with are rounded likewise: which of two plans is better may change with it. Not a
    step of its own: a resumed run does it again, from the same weights.
    """
    nearest, tensors = bench.present(), bench.student.tensors()
    if bench.settings.rounding == "nearest":
        bench.student.recalibrate()
        bench.accept(bench.judged(bench.session.search_judge))
        return
    rivals = [r for r in bench.state.rivals if r != list(bench.problem.key(nearest.plan.weights))]
    with task(bench.progress, "rounding", 1 + len(rivals)):
        best = _compensated(bench, nearest.plan)
        kept = bench.student.tensors()
        _log.info(
            "rounding: divergence %.4g as searched, %.4g compensated and calibrated on all examples",
            nearest.judgement.divergence,
            best.judgement.divergence,
        )
        if best.judgement.divergence >= nearest.judgement.divergence:
            bench.student.restore(nearest.plan, tensors, 0)
            bench.student.recalibrate()
            best, kept = bench.judged(bench.session.search_judge), bench.student.tensors()
        for rival in rivals:
            bench.student.restore(nearest.plan, tensors, 0)
            plan = bench.session.plan(dict(zip(bench.problem.layers, rival, strict=True)))
            bench.student.apply(plan)
            standing = _compensated(bench, plan)
            bench.log(standing, "a plan that the search began with, compensated")
            if standing.better_than(best, bench.session.objective):
                best, kept = standing, bench.student.tensors()
    bench.student.restore(best.plan, kept, 0)
    bench.accept(best)


def _compensated(bench: Bench, plan: BitwidthPlan) -> Standing:
    """The student, which is at this plan, rounded with error compensation."""
    bench.student.compensate(settle=not bench.settings.reconstructs)
    bench.progress.advance()
    return bench.judged_at(plan, bench.session.search_judge)


def _segments(bench: Bench, extra_examples: int) -> tuple[int, int]:
    """Number of segments (two for each pass over the data, or as many as a time has) and examples in each."""
    if bench.settings.post_training:
        return 0, 0
    if bench.settings.minutes is not None:
        examples = training_examples(bench)
        return (SEGMENTS, -(-examples // SEGMENTS)) if examples else (0, 0)
    settings = bench.settings
    if not settings.final_steps and not settings.final_epochs and not extra_examples:
        return 0, 0
    known = bench.session.train_examples
    passes = round(settings.final_epochs * known)
    examples = extra_examples + (passes if settings.final_steps is None else settings.final_steps * settings.batch_size)
    if settings.final_steps is not None and examples > known:
        return SEGMENTS, -(-examples // SEGMENTS)  # however many passes it is
    segments = max(1, round(2 * examples / known)) if examples else 0
    return segments, -(-examples // segments) if segments else 0


def _untrained(bench: Bench, trained: Standing) -> dict[str, Any] | None:
    """Take the float network's weights, rounded, where all training since has made them worse beyond chance.

    What is kept of the final training is no worse than the network before it; the search's cycles may have been.
    """
    state, plan = bench.state, bench.session.plan(bench.state.weights)
    chance = 2 * bench.session.judge.standard_error(trained.judgement.accuracy)
    if not state.search_examples or bench.settings.rounding == "nearest":
        return None
    fresh = bench.session.student()
    fresh.apply(plan)
    fresh.compensate()
    standing = bench.standing(plan, bench.session.judge(fresh.network), bench.limits)
    better = standing.judgement.accuracy > trained.judgement.accuracy + chance
    if (standing.met, better) not in ((True, True), (trained.met, True)):
        return None
    _log.warning("all training made the network worse beyond chance: the untrained one is returned")
    state.discarded_examples += bench.student.trained_examples
    bench.student.restore(plan, fresh.tensors(), 0)
    bench.accept(standing)
    return bench.line(standing, "untrained", True, {})


def _keep(bench: Bench, standing: Standing) -> None:
    bench.state.best, bench.state.best_segment = standing.judgement, bench.state.segment
    bench.state.best_examples = bench.student.trained_examples
    bench.kept = bench.student.tensors()


def _takes_over(bench: Bench, standing: Standing) -> bool:
    """Whether a state of the training is kept in place of the best so far; of equals the longer trained is.

    By the metric alone: training moves outputs for the better, too, so that their distance to the float network's
    compares roundings of the same weights, and not these. The untrained state has to be better beyond chance:
    where the validation data once trained the float network, a rounding of its weights still remembers them.
    """
    best = _best(bench)
    if best.met != standing.met:
        return standing.met
    untrained = bench.state.best_segment == 0
    chance = 2 * bench.session.judge.standard_error(best.judgement.accuracy) if untrained else 0.0
    return standing.judgement.accuracy >= best.judgement.accuracy - chance


def _best(bench: Bench) -> Standing:
    """What is kept, or the present where nothing has been trained since the search."""
    if bench.state.best is None:
        return bench.judged_on_all()
    return bench.standing(bench.session.plan(bench.state.weights), bench.state.best, bench.limits)


def _finish(bench: Bench) -> None:
    """Re-estimate BatchNorm where that helps; the student ends with what is kept."""
    state, plan = bench.state, bench.session.plan(bench.state.weights)
    line = None
    if not bench.student.trained_examples:
        if state.best is not None:  # all training since has been thrown away
            bench.accept(_best(bench))
        line = bench.line(bench.present(), "post-training", True, {})
    else:
        best, tensors = _best(bench), bench.student.tensors()
        if bench.student.has_batch_norm:
            bench.student.reestimate(bench.settings.batch_norm_examples, bench.session.seed("batch norm"))
            after = bench.judged_on_all()
            kept = not best.better_than(after, "feasible")
            if kept:
                best = after
            else:
                bench.student.restore(plan, tensors, bench.student.trained_examples)
            line = bench.line(after, "batch norm", kept, {})
        bench.accept(best)
        line = _untrained(bench, best) or line
    bench.student.network.check_coverage(plan)
    bench.kept = {}
    state.stage = "done"
    bench.save(line)
