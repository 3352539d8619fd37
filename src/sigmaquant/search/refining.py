"""The second stage of a search, phase 2: moves by sensitivity, each measured, and undone where it is no better."""

from __future__ import annotations

from typing import Any

from sigmaquant.quant import float_weights
from sigmaquant.runs.progress import task
from sigmaquant.search.bench import Bench
from sigmaquant.search.phase2 import Move, propose
from sigmaquant.search.problem import Sensitivity
from sigmaquant.search.timing import search_seconds


def refine_stage(bench: Bench) -> None:
    """Phase 2: move bits between layers while that makes things better."""
    state, settings = bench.state, bench.settings
    with task(bench.progress, "phase 2", settings.max_cycles):
        bench.progress.advance(state.cycle)
        table, per_element = _sensitivity(bench)
        while True:
            move = _propose(bench, table, per_element)
            if move is None:
                break
            if _spent(bench):
                break
            accepted = _try(bench, move)
            bench.progress.advance()
            if accepted and bench.student.trained_examples:
                table, per_element = _sensitivity(bench)
    state.stage, state.search_examples, state.search_seconds = "final", bench.student.trained_examples, bench.seconds
    bench.save()


def _sensitivity(bench: Bench) -> tuple[Sensitivity, bool]:
    """Harm by layer and bitwidth of the present weights, and whether it is per weight."""
    if not bench.student.trained_examples:  # the weights are still the float network's
        return bench.session.sensitivity(bench.session.graph)
    # Through the present grid every other bitwidth would be rounded twice, and clipped weights had no gradient.
    with float_weights(bench.student.network):
        return bench.session.sensitivity(bench.student.graph)


def _spent(bench: Bench) -> bool:
    """Whether the cycles or the time for improvements are used up.

    A limit is worth any time and more cycles, but not any number of rejected ones. Time is that of the last complete
    step, so that a resumed run decides alike.
    """
    state, settings = bench.state, bench.settings
    if not bench.problem.fits(state.weights):
        return state.cycle >= 2 * settings.max_cycles + 4
    end = search_seconds(settings)
    late = end is not None and state.seconds >= end
    return late or state.cycle >= settings.max_cycles


def _propose(bench: Bench, table: Any, per_element: bool) -> Move | None:
    state, objective = bench.state, bench.session.objective
    fits = bench.problem.fits(state.weights)
    floor = bench.aims.accuracy_floor
    met: bool | None = None if floor is None else state.accuracy >= floor
    if objective == "accurate":
        met = False
    if not bench.settings.phase2:
        if fits:
            return None
        met = None  # only what the limits require
    return propose(
        bench.problem,
        state.weights,
        table,
        accuracy_met=met,
        objective="smallest" if objective == "smallest" else "feasible",
        count=len(bench.problem.layers) if not fits else max(1, state.count),
        tabu={tuple(key) for key in state.tabu},
        per_element=per_element,
    )


def _try(bench: Bench, move: Move) -> bool:
    """Measure a move; keep it if it is better, else undo it exactly and never propose it again."""
    state = bench.state
    before, tensors, trained = bench.present(), bench.student.tensors(), bench.student.trained_examples
    standing = bench.measure(move.bits, f"phase 2, {move.kind}")
    accepted = standing.better_than(before, bench.session.objective)
    state.cycle += 1
    if accepted:
        bench.accept(standing)
    else:
        bench.student.restore(before.plan, tensors, trained)
        state.tabu.append(list(bench.problem.key(move.bits)))
        state.count = max(1, state.count // 2)
    changes = {name: list(pair) for name, pair in move.changes.items()}
    bench.save(bench.line(standing, move.kind, accepted, changes))
    bench.log(standing, f"{move.kind} of {len(changes)} layers, {'accepted' if accepted else 'rejected'}")
    return accepted
