"""The first stage of a search: the best candidate, phase 1, a finished run's plan, or another strategy."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cmp_to_key, partial

from sigmaquant.errors import DivergedError
from sigmaquant.runs.progress import task
from sigmaquant.search.candidates import Candidate, candidates, filled
from sigmaquant.search.greedy import GreedyProgress
from sigmaquant.search.phase1 import BUFFER, Clustering, cluster_to_budget, shifted
from sigmaquant.search.phase2 import propose
from sigmaquant.search.problem import Bits, Sensitivity
from sigmaquant.search.search_state import SearchState
from sigmaquant.search.state import Standing
from sigmaquant.search.strategies import Evidence, find_strategy, needs_sensitivity
from sigmaquant.search.warm_start import Start
from sigmaquant.statistics import layer_sigmas

_log = logging.getLogger("sigmaquant")

_ACCURACY_ZONE = 0.02
"""Phase 1 is content with an accuracy this far (as a part of the floor) below it: training has only begun."""


def plan_stage(search_state: SearchState, start: Start | None) -> None:
    """Find the first plan: phase 1, what a finished run found, or another strategy.

    Args:
        search_state: with nothing planned, or in the middle of it.
        start: a finished run to begin from in place of phase 1.
    """
    trained = start is not None and start.trained_examples and search_state.settings.trains
    if (
        search_state.settings.strategy == "sigma"
        and search_state.settings.start == "best"
        and search_state.problem.movable
        and not trained
    ):
        _begin_well(search_state, start)
    elif search_state.settings.strategy == "sigma" and start is not None:
        _begin_from(search_state, start)
    elif search_state.settings.strategy == "sigma":
        _phase1(search_state)
    else:
        bits = _strategy_bits(search_state)
        with task(search_state.progress, search_state.settings.strategy, 1):
            standing = search_state.measure_plainly(bits)
        search_state.accept(standing)
        search_state.state.measured = {}
        line = search_state.line(standing, search_state.settings.strategy, True, {})
        search_state.state.stage, search_state.state.search_seconds = "final", search_state.seconds
        search_state.save(line)


def _begin_well(search_state: SearchState, start: Start | None) -> None:
    """Measure every candidate once, without training, and begin from the best; a resumed run knows what it has seen."""
    state = search_state.state
    table, per_element = search_state.session.sensitivity(search_state.session.graph)
    found = candidates(search_state.session.graph, search_state.problem, table, per_element)
    if start is not None:
        known = [candidate.bits for candidate in found]
        found += [c for c in _neighbour(search_state, start, table, per_element) if c.bits not in known]
    standings = []
    with task(search_state.progress, "candidates", len(found)):
        for number, candidate in enumerate(found, start=1):
            standing = _measured_once(search_state, candidate.bits)
            standings.append(standing)
            search_state.show(standing)
            search_state.progress.advance()
            if number > state.cycle:
                search_state.accept(standing)  # what the student is at
                state.cycle = number
                search_state.save(search_state.line(standing, "candidate", False, {"candidate": candidate.name}))
                search_state.log(standing, f"candidate {candidate.name}")
    key = cmp_to_key(partial(_order, search_state))
    ranked = sorted(range(len(found)), key=lambda number: key(standings[number]))
    best, standing = found[ranked[0]], standings[ranked[0]]
    search_state.student.apply(standing.plan)
    if search_state.trains_in_cycles:  # as every move will be
        standing = _trained_start(search_state, standing)
    search_state.accept(standing)
    # The first of them is the widest uniform plan, where one fits.
    rivals = dict.fromkeys([ranked[0], 0, *ranked[1:2]])
    state.rivals = [list(search_state.problem.key(found[number].bits)) for number in rivals]
    state.measured = {}
    origin = {} if start is None else {"run": start.name}
    line = search_state.line(standing, "start", True, {"candidate": best.name, **origin})
    _enter_phase2(search_state)
    search_state.save(line)
    search_state.log(standing, f"the search begins from {best.name}")


def _trained_start(search_state: SearchState, untrained: Standing) -> Standing:
    """The start after a cycle of training, at a rate that does not ruin it; untrained where there is none."""
    tensors, trained = search_state.student.tensors(), search_state.student.trained_examples
    while True:
        try:
            standing = search_state.measure(untrained.plan.weights, "start, training")
            if not search_state.collapsed(untrained, standing):
                return standing
        except DivergedError as error:
            _log.warning("%s", error)
        if not search_state.back_off(untrained, tensors, trained, "the first training cycle"):
            return untrained


def _order(search_state: SearchState, one: Standing, other: Standing) -> int:
    objective = search_state.session.objective
    return other.better_than(one, objective) - one.better_than(other, objective)


def _neighbour(search_state: SearchState, start: Start, table: Sensitivity, per_element: bool) -> list[Candidate]:
    """The plan of a finished run, brought within the limits."""
    problem, bits = search_state.problem, search_state.session.plan(start.weights).weights
    problem.key(bits)
    if not problem.fits(bits):
        every = len(problem.choices)
        move = propose(problem, bits, table, accuracy_met=None, count=every, per_element=per_element)
        bits = bits if move is None else move.bits
    return [Candidate(f"the plan of {start.name}", filled(problem, bits, table, per_element))] * problem.fits(bits)


def _begin_from(search_state: SearchState, start: Start) -> None:
    """Take over a finished run's plan, and its weights where they were trained."""
    plan = search_state.session.plan(start.weights)
    search_state.problem.key(plan.weights)
    if start.trained_examples and search_state.settings.trains:
        network = {f"network.{key}": value for key, value in start.tensors.items()}
        search_state.student.restore(plan, network, start.trained_examples)
    standing = search_state.measure_plainly(plan.weights)
    search_state.accept(standing)
    line = search_state.line(standing, "start", True, {"run": start.name})
    _enter_phase2(search_state)
    search_state.save(line)


def _enter_phase2(search_state: SearchState) -> None:
    search_state.state.stage, search_state.state.cycle = "phase2", 0
    search_state.state.count = max(1, len(search_state.problem.layers) // 4)


def _strategy_bits(search_state: SearchState) -> dict[str, int]:
    strategy = find_strategy(search_state.settings.strategy)
    evidence = Evidence(
        seed=search_state.settings.seed,
        loss=partial(_calibration_loss, search_state),
        progress=_recorded_upgrades(search_state),
    )
    if needs_sensitivity(search_state.settings.strategy):
        table, per_element = search_state.session.sensitivity(search_state.session.graph)
        evidence = replace(evidence, sensitivity=table, per_element=per_element)
    with task(search_state.progress, f"strategy {search_state.settings.strategy}"):
        bits = strategy(search_state.problem, evidence)
    search_state.problem.key(bits)  # a user's own strategy may have forgotten a layer or a pin
    return bits


def _calibration_loss(search_state: SearchState, bits: Bits) -> float:
    """Distance to the float network's outputs at a plan, without training; for strategies that measure plans."""
    standing = _measured_once(search_state, bits)
    search_state.progress.advance()
    return standing.judgement.divergence


def _measured_once(search_state: SearchState, bits: Bits) -> Standing:
    """A plan without a training cycle; a resumed run knows those that it has measured before."""
    plan, measured = search_state.session.plan(bits), search_state.state.measured
    key = " ".join(str(bits.get(name)) for name in search_state.problem.layers)
    if key not in measured:
        search_state.student.apply(plan)
        measured[key] = search_state.session.search_judge(search_state.student.network)
    return search_state.standing(plan, measured[key])


def _recorded_upgrades(search_state: SearchState) -> Callable[[GreedyProgress], None]:
    """Makes a step of every upgrade; a resumed run goes the same way again, and records what is new."""
    recorded, told, before = search_state.state.step, 0, search_state.problem.lowest

    def record(found: GreedyProgress) -> None:
        nonlocal told, before
        standing = _measured_once(search_state, found.bits)
        search_state.show(standing)
        changes = {name: [before[name], bits] for name, bits in found.bits.items() if bits != before[name]}
        told, before = told + 1, dict(found.bits)
        if told <= recorded:
            return
        # The state is that of the student, which was last put at a plan that need not be the one upgraded to.
        assert search_state.student.network.plan is not None, "a plan has been measured"
        search_state.accept(_measured_once(search_state, search_state.student.network.plan.weights))
        search_state.save(search_state.line(standing, "upgrade" if changes else "lowest", True, changes))
        search_state.log(standing, f"{len(changes)} layers upgraded" if changes else "lowest bitwidths")

    return record


def _phase1(search_state: SearchState) -> None:
    sigma = layer_sigmas(search_state.session.graph, search_state.settings.sigma)
    state = search_state.state
    with task(search_state.progress, "phase 1", search_state.settings.phase1_cycles):
        while state.cycle < search_state.settings.phase1_cycles:
            found = (
                cluster_to_budget(sigma, search_state.problem)
                if state.cycle == 0
                else shifted(sigma, search_state.problem, state.tau)
            )
            standing = search_state.measure(found.bits, "phase 1, training")
            search_state.accept(standing)
            state.cycle += 1
            state.tau = found.tau
            line = search_state.line(standing, "cluster", True, {"tau": found.tau, "landing": found.landing})
            line["zones"] = {"cost": BUFFER, "accuracy": _ACCURACY_ZONE}
            go_on = _shift_back(search_state, found, standing, sigma)
            search_state.progress.advance()
            if not go_on or state.cycle == search_state.settings.phase1_cycles:
                _enter_phase2(search_state)
                search_state.save(line)
                return
            search_state.save(line)


def _shift_back(search_state: SearchState, found: Clustering, standing: Standing, sigma: dict[str, float]) -> bool:
    """Step 3 of phase 1: where the accuracy is too low and cost has slack, go half of the last step back."""
    floor = search_state.aims.accuracy_floor
    if floor is None or standing.judgement.accuracy >= floor - _ACCURACY_ZONE * abs(floor):
        return False
    if max(search_state.aims.ratios(standing.cost).values(), default=0.0) >= 1:
        return False
    spread = max(sigma.values()) - min(sigma.values())
    last = search_state.state.tau_step or abs(found.tau) or spread
    search_state.state.tau_step = last / 2
    search_state.state.tau = found.tau - search_state.state.tau_step
    return True
