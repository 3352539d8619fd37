"""A time for everything: how it is shared out between the search, reconstruction and the final training."""

from __future__ import annotations

import logging
import time

from sigmaquant.parallel import agreed
from sigmaquant.search.search_state import SearchState
from sigmaquant.search.settings import Settings
from sigmaquant.search.state import Progression

_log = logging.getLogger("sigmaquant")

_SEARCH = 0.25
"""Share of the time after which phase 2 tries nothing more."""
_RECONSTRUCTION = 0.25
"""Of what the search leaves, where training follows; without, reconstruction has all of it."""
SEGMENTS = 4
"""Of the final training, after each of which its best state so far is kept."""
_TIMED_STEPS = 3
_LEAST_STEPS = 10
_SPARE = 2.0
"""Evaluations after the final training: of re-estimated statistics, and of the float network's test."""


def total_seconds(settings: Settings) -> float | None:
    """Of one search with all that follows; the uniform control has as many again."""
    if settings.minutes is None:
        return None
    return 60 * settings.minutes / (2 if settings.control else 1)


def search_seconds(settings: Settings) -> float | None:
    """After which phase 2 tries nothing more; None: there is no such end."""
    total = total_seconds(settings)
    limits = [60 * settings.search_minutes] if settings.search_minutes is not None else []
    if total is not None:
        limits.append(_SEARCH * total)
    return min(limits, default=None)


def reconstruction_seconds(search_state: SearchState) -> float:
    """What reconstruction may take from now on."""
    total = total_seconds(search_state.settings)
    assert total is not None, "asked for where a time is given"
    left = max(0.0, total - search_state.seconds)
    return left if search_state.settings.post_training else _RECONSTRUCTION * left


def training_examples(search_state: SearchState) -> int:
    """Examples that the final training has time for, decided once: a resumed run goes by the same.

    A few steps are taken, timed and undone.
    """
    state, student = search_state.state, search_state.student
    if state.final_examples is None:
        start = time.perf_counter()
        before = search_state.judged_on_all()
        evaluation = time.perf_counter() - start
        kept, trained = student.tensors(), student.trained_examples
        count = _TIMED_STEPS * search_state.settings.batch_size
        seed = search_state.session.seed("timing")
        search_state.session.device.seed(seed)
        start = time.perf_counter()
        student.segment(count, seed, 0, count)
        pace = (time.perf_counter() - start) / max(1, student.trained_examples - trained)
        student.restore(before.plan, kept, trained)
        student.reset_momentum()
        total = total_seconds(search_state.settings)
        assert total is not None, "asked for where a time is given"
        left = total - search_state.seconds - (SEGMENTS + _SPARE) * evaluation
        left -= pace / 3 * search_state.settings.batch_norm_examples * student.has_batch_norm  # forward alone
        examples = int(agreed(left / pace))
        least = _LEAST_STEPS * search_state.settings.batch_size
        state.final_examples = examples if examples >= least else 0
        _log.info("final training: %d examples in the time that is left", state.final_examples)
        search_state.save()
    return state.final_examples


def told(settings: Settings, state: Progression) -> str:
    """What a given time was used for; ``""`` where none was given."""
    if settings.minutes is None:
        return ""
    parts = [f"a search of {state.search_seconds:.0f} s"]
    work = state.reconstruction
    if work is None or not any(work.steps):
        parts.append("no reconstruction")
    else:
        kept = "kept" if work.learned else "no better on held-out examples, thrown away"
        parts.append(f"reconstruction of {sum(work.steps):,} steps on {work.batches} batches ({kept})")
    if not settings.post_training:
        parts.append(f"final training on {state.final_examples or 0:,} examples")
    return f"the {settings.minutes:g} minutes became: " + ", ".join(parts)
