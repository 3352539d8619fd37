"""Reconstruction as a part of a run: how long, on what, saved block by block, and kept only where it helps."""

from __future__ import annotations

import logging
from typing import Any

import torch

from sigmaquant.quant import settle_weights_
from sigmaquant.reconstruction import Reconstruction, in_batches
from sigmaquant.runs.progress import task
from sigmaquant.search.bench import Bench
from sigmaquant.search.state import Reconstructed
from sigmaquant.search.timing import reconstruction_seconds
from sigmaquant.tasks import as_float32
from sigmaquant.training.metrics import call

_log = logging.getLogger("sigmaquant")

_BATCH = 32
_HELD_OUT = 0.125
_MOST_HELD_OUT = 256


def reconstruct(bench: Bench) -> None:
    """Learn the rounding block by block, where the settings ask for it, and keep it where it helps.

    Every block is a complete step: what it learned, and how many steps the others have, is in the saved state. A
    resumed run so learns what an unbroken one does.

    Args:
        bench: rounded with error compensation, or in the middle of a reconstruction.
    """
    state, student = bench.state, bench.student
    if not bench.settings.reconstructs or (state.reconstruction and state.reconstruction.learned is not None):
        return
    learned_on, held_out = _parts(bench)
    if not learned_on or not held_out:
        _log.info("too few examples for a reconstruction: it takes %d at least", 2 * _BATCH)
        settle_weights_(student.network)
        state.reconstruction = Reconstructed(0, [], 0, 0.0, learned=False)
        return
    seed = bench.session.seed("reconstruction")
    with bench.session.device.random_state(seed):
        work = Reconstruction(student.network, learned_on, bench.session.judge.task, seed)
        if state.reconstruction is None:
            _begin(bench, work, held_out)
        progress = state.reconstruction
        assert progress is not None, "just begun"
        with task(bench.progress, "reconstruction", max(1, sum(progress.steps))):
            bench.progress.advance(sum(progress.steps[: progress.done]))
            if any(progress.steps):
                _learn(bench, work, progress)
    _decide(bench, progress, held_out)


def _begin(bench: Bench, work: Reconstruction, held_out: list[Any]) -> None:
    settings, state = bench.settings, bench.state
    if settings.reconstruction_steps is not None:
        schedule = work.fixed(settings.reconstruction_steps)
    else:
        schedule = work.schedule(reconstruction_seconds(bench))
    state.reconstruction = Reconstructed(schedule.batches, list(schedule.steps), 0, _moved(bench, held_out))
    bench.kept = bench.student.tensors()
    if not any(schedule.steps):
        _log.warning("the time is used up: nothing is reconstructed")
        return
    _log.info(
        "reconstruction: %d blocks, %d steps of %d examples, on %d examples",
        len(work.blocks),
        sum(schedule.steps),
        _BATCH,
        schedule.batches * _BATCH,
    )
    if work.left_alone:
        _log.info("not reconstructed: %s", ", ".join(work.left_alone))
    bench.save(bench.line(bench.present(), "compensated rounding", True, {}))


def _learn(bench: Bench, work: Reconstruction, progress: Reconstructed) -> None:
    work.begin(progress.batches, progress.done)

    def tick(distance: float) -> None:
        bench.progress.note(distance=distance)
        bench.progress.advance()

    while work.done < len(work.blocks):
        block, steps = work.blocks[work.done], progress.steps[work.done]
        before, after = work.learn(steps, tick)
        progress.done = work.done
        if steps:
            _log.info("%s: distance %.4g, after %d steps %.4g", block.title, before, steps, after)
            bench.save()


def _decide(bench: Bench, progress: Reconstructed, held_out: list[Any]) -> None:
    """Keep what has been learned where it is closer to the float network on examples that it was not learned on."""
    state, student = bench.state, bench.student
    after = _moved(bench, held_out)
    progress.learned = after < progress.before
    _log.info(
        "reconstruction: distance on held-out examples %.4g before, %.4g after%s",
        progress.before,
        after,
        "" if progress.learned else "; the network is as it was before",
    )
    standing = bench.judged(bench.session.search_judge)
    if not progress.learned:
        student.restore(bench.session.plan(state.weights), bench.kept, 0)
        settle_weights_(student.network)
    bench.kept = {}
    line = bench.line(standing, "reconstruction", progress.learned, {})
    if progress.learned:
        bench.accept(standing)
    bench.save(line)


def _parts(bench: Bench) -> tuple[list[Any], list[Any]]:
    """Calibration examples to learn from, and others to judge by, in batches."""
    batches = in_batches(bench.student.calibration, _BATCH)
    sizes = [len(x[0] if isinstance(x, tuple | list) else x) for x in batches]
    most = max(1, bench.settings.reconstruction_examples // _BATCH)
    apart = max(1, round(_HELD_OUT * len(batches)))
    used = min(most, len(batches) - apart)
    if used < 1:
        return [], []
    held_out = batches[used : used + _MOST_HELD_OUT // _BATCH]
    full = [x for x, size in zip(batches[:used], sizes, strict=False) if size > 1]
    return full, held_out


@torch.no_grad()
def _moved(bench: Bench, batches: list[Any]) -> float:
    """Mean distance of the network's outputs from the float network's."""
    student, teacher = bench.student, bench.session.teacher
    student.network.eval()
    task = bench.session.judge.task
    found = [
        task.distance(as_float32(call(student.network, x, task)), as_float32(call(teacher, x, task))) for x in batches
    ]
    return float(torch.cat(found).mean())
