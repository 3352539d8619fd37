"""The second stage of a search, phase 2: moves by sensitivity, each measured, and undone where it is no better."""

from __future__ import annotations

from typing import Any

from sigmaquant.quant import float_weights
from sigmaquant.runs.progress import task
from sigmaquant.search.phase2 import Move, propose
from sigmaquant.search.problem import Sensitivity
from sigmaquant.search.search_state import SearchState
from sigmaquant.search.timing import search_seconds


def refine_stage(search_state: SearchState) -> None:
    """Phase 2: move bits between layers while that makes things better."""
    state, settings = search_state.state, search_state.settings
    with task(search_state.progress, "phase 2", settings.max_cycles):
        search_state.progress.advance(state.cycle)
        table, per_element = _sensitivity(search_state)
        while True:
            move = _propose(search_state, table, per_element)
            if move is None:
                break
            if _spent(search_state):
                break
            accepted = _try(search_state, move)
            search_state.progress.advance()
            if accepted and search_state.student.trained_examples:
                table, per_element = _sensitivity(search_state)
    state.stage, state.search_examples, state.search_seconds = (
        "final",
        search_state.student.trained_examples,
        search_state.seconds,
    )
    search_state.save()


def _sensitivity(search_state: SearchState) -> tuple[Sensitivity, bool]:
    """Harm by layer and bitwidth of the present weights, and whether it is per weight."""
    if not search_state.student.trained_examples:  # the weights are still the float network's
        return search_state.session.sensitivity(search_state.session.graph)
    # Through the present grid every other bitwidth would be rounded twice, and clipped weights had no gradient.
    with float_weights(search_state.student.network):
        return search_state.session.sensitivity(search_state.student.graph)


def _spent(search_state: SearchState) -> bool:
    """Whether the cycles or the time for improvements are used up.

    A limit is worth any time and more cycles, but not any number of rejected ones. Time is that of the last complete
    step, so that a resumed run decides alike.
    """
    state, settings = search_state.state, search_state.settings
    if not search_state.problem.fits(state.weights):
        return state.cycle >= 2 * settings.max_cycles + 4
    end = search_seconds(settings)
    late = end is not None and state.seconds >= end
    return late or state.cycle >= settings.max_cycles


def _propose(search_state: SearchState, table: Any, per_element: bool) -> Move | None:
    state, objective = search_state.state, search_state.session.objective
    fits = search_state.problem.fits(state.weights)
    floor = search_state.aims.accuracy_floor
    met: bool | None = None if floor is None else state.accuracy >= floor
    if objective == "accurate":
        met = False
    if not search_state.settings.phase2:
        if fits:
            return None
        met = None  # only what the limits require
    return propose(
        search_state.problem,
        state.weights,
        table,
        accuracy_met=met,
        objective="smallest" if objective == "smallest" else "feasible",
        count=len(search_state.problem.layers) if not fits else max(1, state.count),
        tabu={tuple(key) for key in state.tabu},
        per_element=per_element,
    )


def _try(search_state: SearchState, move: Move) -> bool:
    """Measure a move; keep it if it is better, else undo it exactly and never propose it again."""
    state = search_state.state
    before, tensors, trained = (
        search_state.present(),
        search_state.student.tensors(),
        search_state.student.trained_examples,
    )
    standing = search_state.measure(move.bits, f"phase 2, {move.kind}")
    accepted = standing.better_than(before, search_state.session.objective)
    state.cycle += 1
    if accepted:
        search_state.accept(standing)
    else:
        search_state.student.restore(before.plan, tensors, trained)
        state.tabu.append(list(search_state.problem.key(move.bits)))
        state.count = max(1, state.count // 2)
    changes = {name: list(pair) for name, pair in move.changes.items()}
    search_state.save(search_state.line(standing, move.kind, accepted, changes))
    search_state.log(standing, f"{move.kind} of {len(changes)} layers, {'accepted' if accepted else 'rejected'}")
    return accepted
