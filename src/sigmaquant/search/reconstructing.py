"""Reconstruction as a part of a run: how long, on what, saved block by block, and kept only where it helps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from sigmaquant.parallel import agreed, share_tensors_
from sigmaquant.quant import counted_positions, settle_weights_
from sigmaquant.reconstruction import Reconstruction, in_batches
from sigmaquant.runs.progress import task
from sigmaquant.search.search_state import SearchState
from sigmaquant.search.state import Reconstructed
from sigmaquant.search.timing import reconstruction_seconds
from sigmaquant.tasks import as_float32, counting
from sigmaquant.training.metrics import call

_log = logging.getLogger("sigmaquant")

_BATCH = 32
_HELD_OUT = 0.125
_MOST_HELD_OUT = 256


def reconstruct(search_state: SearchState) -> None:
    """Learn the rounding block by block, where the settings ask for it, and keep it where it helps.

    Every block is a complete step: what it learned, and how many steps the others have, is in the saved state. A
    resumed run so learns what an unbroken one does.

    Args:
        search_state: rounded with error compensation, or in the middle of a reconstruction.
    """
    state, student = search_state.state, search_state.student
    if not search_state.settings.reconstructs or (state.reconstruction and state.reconstruction.learned is not None):
        return
    learned_on, held_out = _parts(search_state)
    if not learned_on or not held_out:
        _log.info("too few examples for a reconstruction: it takes %d at least", 2 * _BATCH)
        settle_weights_(student.network)
        state.reconstruction = Reconstructed(0, [], 0, 0.0, learned=False)
        return
    seed = search_state.session.seed("reconstruction")
    with search_state.session.device.random_state(seed):
        work = Reconstruction(student.network, learned_on, search_state.session.judge.task, seed)
        if state.reconstruction is None:
            _begin(search_state, work, held_out)
        progress = state.reconstruction
        assert progress is not None, "just begun"
        with task(search_state.progress, "reconstruction", max(1, sum(progress.steps))):
            search_state.progress.advance(sum(progress.steps[: progress.done]))
            if any(progress.steps):
                _learn(search_state, work, progress, held_out)
    _decide(search_state, progress, held_out)


def _whole(
    search_state: SearchState, work: Reconstruction, steps: int, tick: Callable[[float], None], held_out: list[Any]
) -> tuple[float, float]:
    """Learn the whole network, where that helps on examples that it was not learned on; so many parameters fit fast."""
    student, plan = search_state.student, search_state.session.plan(search_state.state.weights)
    kept, before = student.tensors(), _moved(search_state, held_out)
    distances = work.learn(steps, tick)
    after = _moved(search_state, held_out)
    _log.info("the whole network: distance on held-out examples %.4g, after %d steps %.4g", before, steps, after)
    if not after < before:
        student.restore(plan, kept, 0)
    return distances


def _begin(search_state: SearchState, work: Reconstruction, held_out: list[Any]) -> None:
    settings, state = search_state.settings, search_state.state
    if settings.reconstruction_steps is not None:
        schedule = work.fixed(settings.reconstruction_steps)
    else:
        schedule = agreed(work.schedule(reconstruction_seconds(search_state)))
    before = _moved(search_state, held_out)
    state.reconstruction = Reconstructed(schedule.batches, list(schedule.steps), 0, before, parts=schedule.parts)
    search_state.kept = search_state.student.tensors()
    if not any(schedule.steps):
        _log.warning("the time is used up: nothing is reconstructed")
        return
    _log.info(
        "reconstruction: %d blocks, %d steps of %d examples, on %d examples",
        len(work.blocks) - (work.whole is not None),
        sum(schedule.steps),
        _BATCH // schedule.parts,
        schedule.batches * _BATCH,
    )
    if work.left_alone:
        _log.info("not reconstructed: %s", ", ".join(work.left_alone))
    search_state.save(search_state.line(search_state.present(), "compensated rounding", True, {}))


def _learn(search_state: SearchState, work: Reconstruction, progress: Reconstructed, held_out: list[Any]) -> None:
    work.begin(progress.batches, progress.done, progress.parts)

    def tick(distance: float) -> None:
        search_state.progress.note(distance=distance)
        search_state.progress.advance()

    while work.done < len(work.blocks):
        block, steps = work.blocks[work.done], progress.steps[work.done]
        if block is work.whole and steps:
            before, after = _whole(search_state, work, steps, tick, held_out)
        else:
            before, after = work.learn(steps, tick)
        progress.done = work.done
        if steps:
            _log.info("%s: distance %.4g, after %d steps %.4g", block.title, before, steps, after)
            search_state.save()


def _decide(search_state: SearchState, progress: Reconstructed, held_out: list[Any]) -> None:
    """Keep what has been learned where it is closer to the float network on examples that it was not learned on."""
    state, student = search_state.state, search_state.student
    share_tensors_(student.network.state().values())  # what each has learned may differ in its last digits
    after = agreed(_moved(search_state, held_out))
    progress.learned = after < progress.before
    _log.info(
        "reconstruction: distance on held-out examples %.4g before, %.4g after%s",
        progress.before,
        after,
        "" if progress.learned else "; the network is as it was before",
    )
    standing = search_state.judged(search_state.session.search_judge)
    if not progress.learned:
        student.restore(search_state.session.plan(state.weights), search_state.kept, 0)
        settle_weights_(student.network)
    search_state.kept = {}
    line = search_state.line(standing, "reconstruction", progress.learned, {})
    if progress.learned:
        search_state.accept(standing)
    search_state.save(line)


def _parts(search_state: SearchState) -> tuple[list[Any], list[Any]]:
    """Calibration examples to learn from, and others to judge by, in batches."""
    batches = in_batches(search_state.student.calibration, _BATCH)
    sizes = [len(x[0] if isinstance(x, tuple | list) else x) for x in batches]
    most = max(1, search_state.settings.reconstruction_examples // _BATCH)
    apart = max(1, round(_HELD_OUT * len(batches)))
    used = min(most, len(batches) - apart)
    if used < 1:
        return [], []
    held_out = batches[used : used + _MOST_HELD_OUT // _BATCH]
    full = [x for x, size in zip(batches[:used], sizes, strict=False) if size > 1]
    return full, held_out


@torch.no_grad()
def _moved(search_state: SearchState, batches: list[Any]) -> float:
    """Mean distance of the network's outputs from the float network's."""
    student, teacher = search_state.student, search_state.session.teacher
    student.network.eval()
    task = search_state.session.judge.task
    found = [
        counting(task, counted_positions(student.network.graph.module, x)).distance(
            as_float32(call(student.network, x, task)), as_float32(call(teacher, x, task))
        )
        for x in batches
    ]
    return float(torch.cat(found).mean())
