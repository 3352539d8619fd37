"""The last stage of a search: rounding, the final training, BatchNorm, and which state of them is kept."""

from __future__ import annotations

import logging
from typing import Any

from sigmaquant.errors import DivergedError
from sigmaquant.plan import BitwidthPlan
from sigmaquant.runs.progress import task
from sigmaquant.search.reconstructing import reconstruct
from sigmaquant.search.search_state import SearchState
from sigmaquant.search.state import Standing
from sigmaquant.search.timing import SEGMENTS, training_examples

_log = logging.getLogger("sigmaquant")


def train_stage(search_state: SearchState, extra_examples: int = 0) -> None:
    """The final training in segments, each a complete step; ends with the best weights in the student.

    The best may be those from before, if training made it worse.

    Args:
        search_state: with its plan.
        extra_examples: beyond what the settings say.
    """
    state = search_state.state
    if state.segment == 0 and not search_state.student.trained_examples:
        if state.reconstruction is None:
            _start_well(search_state)
        reconstruct(search_state)
    segments, per_segment = _segments(search_state, extra_examples)
    with task(search_state.progress, "final training", max(1, segments * per_segment)):
        search_state.progress.advance(state.segment * per_segment)
        while state.segment < segments:
            if state.best is None:
                _keep(search_state, _best(search_state))  # training may also make it worse
                search_state.student.reset_momentum()
            seed = search_state.session.seed("final", state.segment)
            search_state.session.device.seed(seed)
            before, total = state.segment * per_segment, segments * per_segment
            failure: DivergedError | None = None
            try:
                search_state.student.segment(per_segment, seed, before, total, search_state.tick, state.rate)
            except DivergedError as error:
                failure = error
            standing = None if failure else search_state.judged_on_all()
            if state.segment == 0 and (standing is None or search_state.collapsed(_best(search_state), standing)):
                again = search_state.back_off(
                    _best(search_state), search_state.kept, state.best_examples, "the final training"
                )
                if failure is not None and not again:
                    raise failure
                if again:
                    continue
                state.segment = segments
                search_state.save(search_state.line(_best(search_state), "final training given up", True, {}))
                break
            if failure is not None or standing is None:
                raise failure or AssertionError("judged")
            state.segment += 1
            kept = _takes_over(search_state, standing)
            if kept:
                _keep(search_state, standing)
            search_state.save(search_state.line(standing, "final training", kept, {}))
    if search_state.kept:
        state.discarded_examples += search_state.student.trained_examples - state.best_examples
        search_state.student.restore(search_state.session.plan(state.weights), search_state.kept, state.best_examples)
    _finish(search_state)


def _start_well(search_state: SearchState) -> None:
    """Round with error compensation, where that brings the outputs closer to the float's; else calibrate on all.

    The plans that the search began with are rounded likewise: which of two plans is better may change with it. Not a
    step of its own: a resumed run does it again, from the same weights.
    """
    nearest, tensors = search_state.present(), search_state.student.tensors()
    if search_state.settings.rounding == "nearest":
        search_state.student.recalibrate()
        search_state.accept(search_state.judged(search_state.session.search_judge))
        return
    rivals = [r for r in search_state.state.rivals if r != list(search_state.problem.key(nearest.plan.weights))]
    with task(search_state.progress, "rounding", 1 + len(rivals)):
        best = _compensated(search_state, nearest.plan)
        kept = search_state.student.tensors()
        _log.info(
            "rounding: divergence %.4g as searched, %.4g compensated and calibrated on all examples",
            nearest.judgement.divergence,
            best.judgement.divergence,
        )
        if best.judgement.divergence >= nearest.judgement.divergence:
            search_state.student.restore(nearest.plan, tensors, 0)
            search_state.student.recalibrate()
            best, kept = search_state.judged(search_state.session.search_judge), search_state.student.tensors()
        for rival in rivals:
            search_state.student.restore(nearest.plan, tensors, 0)
            plan = search_state.session.plan(dict(zip(search_state.problem.layers, rival, strict=True)))
            search_state.student.apply(plan)
            standing = _compensated(search_state, plan)
            search_state.log(standing, "a plan that the search began with, compensated")
            if standing.better_than(best, search_state.session.objective):
                best, kept = standing, search_state.student.tensors()
    search_state.student.restore(best.plan, kept, 0)
    search_state.accept(best)


def _compensated(search_state: SearchState, plan: BitwidthPlan) -> Standing:
    """The student, which is at this plan, rounded with error compensation."""
    search_state.student.compensate(settle=not search_state.settings.reconstructs)
    search_state.progress.advance()
    return search_state.judged_at(plan, search_state.session.search_judge)


def _segments(search_state: SearchState, extra_examples: int) -> tuple[int, int]:
    """Number of segments (two for each pass over the data, or as many as a time has) and examples in each."""
    if search_state.settings.post_training:
        return 0, 0
    if search_state.settings.minutes is not None:
        examples = training_examples(search_state)
        return (SEGMENTS, -(-examples // SEGMENTS)) if examples else (0, 0)
    settings = search_state.settings
    if not settings.final_steps and not settings.final_epochs and not extra_examples:
        return 0, 0
    known = search_state.session.train_examples
    passes = round(settings.final_epochs * known)
    examples = extra_examples + (passes if settings.final_steps is None else settings.final_steps * settings.batch_size)
    if settings.final_steps is not None and examples > known:
        return SEGMENTS, -(-examples // SEGMENTS)  # however many passes it is
    segments = max(1, round(2 * examples / known)) if examples else 0
    return segments, -(-examples // segments) if segments else 0


def _untrained(search_state: SearchState, trained: Standing) -> dict[str, Any] | None:
    """Take the float network's weights, rounded, where all training since has made them worse beyond chance.

    What is kept of the final training is no worse than the network before it; the search's cycles may have been.
    """
    state, plan = search_state.state, search_state.session.plan(search_state.state.weights)
    chance = 2 * search_state.session.judge.standard_error(trained.judgement.accuracy)
    if not state.search_examples or search_state.settings.rounding == "nearest":
        return None
    fresh = search_state.session.student()
    fresh.apply(plan)
    fresh.compensate()
    standing = search_state.standing(plan, search_state.session.judge(fresh.network), search_state.limits)
    better = standing.judgement.accuracy > trained.judgement.accuracy + chance
    if (standing.met, better) not in ((True, True), (trained.met, True)):
        return None
    _log.warning("all training made the network worse beyond chance: the untrained one is returned")
    state.discarded_examples += search_state.student.trained_examples
    search_state.student.restore(plan, fresh.tensors(), 0)
    search_state.accept(standing)
    return search_state.line(standing, "untrained", True, {})


def _keep(search_state: SearchState, standing: Standing) -> None:
    search_state.state.best, search_state.state.best_segment = standing.judgement, search_state.state.segment
    search_state.state.best_examples = search_state.student.trained_examples
    search_state.kept = search_state.student.tensors()


def _takes_over(search_state: SearchState, standing: Standing) -> bool:
    """Whether a state of the training is kept in place of the best so far; of equals the longer trained is.

    By the metric alone: training moves outputs for the better, too, so that their distance to the float network's
    compares roundings of the same weights, and not these. The untrained state has to be better beyond chance:
    where the validation data once trained the float network, a rounding of its weights still remembers them.
    """
    best = _best(search_state)
    if best.met != standing.met:
        return standing.met
    untrained = search_state.state.best_segment == 0
    chance = 2 * search_state.session.judge.standard_error(best.judgement.accuracy) if untrained else 0.0
    return standing.judgement.accuracy >= best.judgement.accuracy - chance


def _best(search_state: SearchState) -> Standing:
    """What is kept, or the present where nothing has been trained since the search."""
    if search_state.state.best is None:
        return search_state.judged_on_all()
    return search_state.standing(
        search_state.session.plan(search_state.state.weights), search_state.state.best, search_state.limits
    )


def _finish(search_state: SearchState) -> None:
    """Re-estimate BatchNorm where that helps; the student ends with what is kept."""
    state, plan = search_state.state, search_state.session.plan(search_state.state.weights)
    line = None
    if not search_state.student.trained_examples:
        if state.best is not None:  # all training since has been thrown away
            search_state.accept(_best(search_state))
        line = search_state.line(search_state.present(), "post-training", True, {})
    else:
        best, tensors = _best(search_state), search_state.student.tensors()
        if search_state.student.has_batch_norm:
            search_state.student.reestimate(
                search_state.settings.batch_norm_examples, search_state.session.seed("batch norm")
            )
            after = search_state.judged_on_all()
            kept = not best.better_than(after, "feasible")
            if kept:
                best = after
            else:
                search_state.student.restore(plan, tensors, search_state.student.trained_examples)
            line = search_state.line(after, "batch norm", kept, {})
        search_state.accept(best)
        line = _untrained(search_state, best) or line
    search_state.student.network.check_coverage(plan)
    search_state.kept = {}
    state.stage = "done"
    search_state.save(line)
