"""The first stage of a search: the best candidate, phase 1, a finished run's plan, or another strategy."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cmp_to_key, partial

from sigmaquant.errors import DivergedError
from sigmaquant.runs.progress import task
from sigmaquant.search.bench import Bench
from sigmaquant.search.candidates import Candidate, candidates, filled
from sigmaquant.search.greedy import GreedyProgress
from sigmaquant.search.phase1 import BUFFER, Clustering, cluster_to_budget, shifted
from sigmaquant.search.phase2 import propose
from sigmaquant.search.problem import Bits, Sensitivity
from sigmaquant.search.start import Start
from sigmaquant.search.state import Standing
from sigmaquant.search.strategies import Evidence, find_strategy
from sigmaquant.statistics import layer_sigmas

_log = logging.getLogger("sigmaquant")

_ACCURACY_ZONE = 0.02
"""Phase 1 is content with an accuracy this far (as a part of the floor) below it: training has only begun."""


def plan_stage(bench: Bench, start: Start | None) -> None:
    """Find the first plan: phase 1, what a finished run found, or another strategy.

    Args:
        bench: with nothing planned, or in the middle of it.
        start: a finished run to begin from in place of phase 1.
    """
    trained = start is not None and start.trained_examples and bench.settings.trains
    if bench.settings.strategy == "sigma" and bench.settings.start == "best" and bench.problem.movable and not trained:
        _begin_well(bench, start)
    elif bench.settings.strategy == "sigma" and start is not None:
        _begin_from(bench, start)
    elif bench.settings.strategy == "sigma":
        _phase1(bench)
    else:
        bits = _strategy_bits(bench)
        with task(bench.progress, bench.settings.strategy, 1):
            standing = bench.measure_plainly(bits)
        bench.accept(standing)
        bench.state.measured = {}
        line = bench.line(standing, bench.settings.strategy, True, {})
        bench.state.stage, bench.state.search_seconds = "final", bench.seconds
        bench.save(line)


def _begin_well(bench: Bench, start: Start | None) -> None:
    """Measure every candidate once, without training, and begin from the best; a resumed run knows what it has seen."""
    state = bench.state
    table, per_element = bench.session.sensitivity(bench.session.graph)
    found = candidates(bench.session.graph, bench.problem, table, per_element)
    if start is not None:
        known = [candidate.bits for candidate in found]
        found += [c for c in _neighbour(bench, start, table, per_element) if c.bits not in known]
    standings = []
    with task(bench.progress, "candidates", len(found)):
        for number, candidate in enumerate(found, start=1):
            standing = _measured_once(bench, candidate.bits)
            standings.append(standing)
            bench.show(standing)
            bench.progress.advance()
            if number > state.cycle:
                bench.accept(standing)  # what the student is at
                state.cycle = number
                bench.save(bench.line(standing, "candidate", False, {"candidate": candidate.name}))
                bench.log(standing, f"candidate {candidate.name}")
    key = cmp_to_key(partial(_order, bench))
    ranked = sorted(range(len(found)), key=lambda number: key(standings[number]))
    best, standing = found[ranked[0]], standings[ranked[0]]
    bench.student.apply(standing.plan)
    if bench.trains_in_cycles:  # as every move will be
        standing = _trained_start(bench, standing)
    bench.accept(standing)
    # The first of them is the widest uniform plan, where one fits.
    rivals = dict.fromkeys([ranked[0], 0, *ranked[1:2]])
    state.rivals = [list(bench.problem.key(found[number].bits)) for number in rivals]
    state.measured = {}
    origin = {} if start is None else {"run": start.name}
    line = bench.line(standing, "start", True, {"candidate": best.name, **origin})
    _enter_phase2(bench)
    bench.save(line)
    bench.log(standing, f"the search begins from {best.name}")


def _trained_start(bench: Bench, untrained: Standing) -> Standing:
    """The start after a cycle of training, at a rate that does not ruin it; untrained where there is none."""
    tensors, trained = bench.student.tensors(), bench.student.trained_examples
    while True:
        try:
            standing = bench.measure(untrained.plan.weights, "start, training")
            if not bench.collapsed(untrained, standing):
                return standing
        except DivergedError as error:
            _log.warning("%s", error)
        if not bench.back_off(untrained, tensors, trained, "the first training cycle"):
            return untrained


def _order(bench: Bench, one: Standing, other: Standing) -> int:
    objective = bench.session.objective
    return other.better_than(one, objective) - one.better_than(other, objective)


def _neighbour(bench: Bench, start: Start, table: Sensitivity, per_element: bool) -> list[Candidate]:
    """The plan of a finished run, brought within the limits."""
    problem, bits = bench.problem, bench.session.plan(start.weights).weights
    problem.key(bits)
    if not problem.fits(bits):
        every = len(problem.choices)
        move = propose(problem, bits, table, accuracy_met=None, count=every, per_element=per_element)
        bits = bits if move is None else move.bits
    return [Candidate(f"the plan of {start.name}", filled(problem, bits, table, per_element))] * problem.fits(bits)


def _begin_from(bench: Bench, start: Start) -> None:
    """Take over a finished run's plan, and its weights where they were trained."""
    plan = bench.session.plan(start.weights)
    bench.problem.key(plan.weights)
    if start.trained_examples and bench.settings.trains:
        network = {f"network.{key}": value for key, value in start.tensors.items()}
        bench.student.restore(plan, network, start.trained_examples)
    standing = bench.measure_plainly(plan.weights)
    bench.accept(standing)
    line = bench.line(standing, "start", True, {"run": start.name})
    _enter_phase2(bench)
    bench.save(line)


def _enter_phase2(bench: Bench) -> None:
    bench.state.stage, bench.state.cycle = "phase2", 0
    bench.state.count = max(1, len(bench.problem.layers) // 4)


def _strategy_bits(bench: Bench) -> dict[str, int]:
    strategy = find_strategy(bench.settings.strategy)
    evidence = Evidence(
        seed=bench.settings.seed, loss=partial(_calibration_loss, bench), progress=_recorded_upgrades(bench)
    )
    if bench.settings.strategy not in ("uniform", "random", "greedy"):
        table, per_element = bench.session.sensitivity(bench.session.graph)
        evidence = replace(evidence, sensitivity=table, per_element=per_element)
    with task(bench.progress, f"strategy {bench.settings.strategy}"):
        bits = strategy(bench.problem, evidence)
    bench.problem.key(bits)  # a user's own strategy may have forgotten a layer or a pin
    return bits


def _calibration_loss(bench: Bench, bits: Bits) -> float:
    """Distance to the float network's outputs at a plan, without training; for strategies that measure plans."""
    standing = _measured_once(bench, bits)
    bench.progress.advance()
    return standing.judgement.divergence


def _measured_once(bench: Bench, bits: Bits) -> Standing:
    """A plan without a training cycle; a resumed run knows those that it has measured before."""
    plan, measured = bench.session.plan(bits), bench.state.measured
    key = " ".join(str(bits.get(name)) for name in bench.problem.layers)
    if key not in measured:
        bench.student.apply(plan)
        measured[key] = bench.session.search_judge(bench.student.network)
    return bench.standing(plan, measured[key])


def _recorded_upgrades(bench: Bench) -> Callable[[GreedyProgress], None]:
    """Makes a step of every upgrade; a resumed run goes the same way again, and records what is new."""
    recorded, told, before = bench.state.step, 0, bench.problem.lowest

    def record(found: GreedyProgress) -> None:
        nonlocal told, before
        standing = _measured_once(bench, found.bits)
        bench.show(standing)
        changes = {name: [before[name], bits] for name, bits in found.bits.items() if bits != before[name]}
        told, before = told + 1, dict(found.bits)
        if told <= recorded:
            return
        # The state is that of the student, which was last put at a plan that need not be the one upgraded to.
        assert bench.student.network.plan is not None, "a plan has been measured"
        bench.accept(_measured_once(bench, bench.student.network.plan.weights))
        bench.save(bench.line(standing, "upgrade" if changes else "lowest", True, changes))
        bench.log(standing, f"{len(changes)} layers upgraded" if changes else "lowest bitwidths")

    return record


def _phase1(bench: Bench) -> None:
    sigma = layer_sigmas(bench.session.graph, bench.settings.sigma)
    state = bench.state
    with task(bench.progress, "phase 1", bench.settings.phase1_cycles):
        while state.cycle < bench.settings.phase1_cycles:
            found = (
                cluster_to_budget(sigma, bench.problem)
                if state.cycle == 0
                else shifted(sigma, bench.problem, state.tau)
            )
            standing = bench.measure(found.bits, "phase 1, training")
            bench.accept(standing)
            state.cycle += 1
            state.tau = found.tau
            line = bench.line(standing, "cluster", True, {"tau": found.tau, "landing": found.landing})
            line["zones"] = {"cost": BUFFER, "accuracy": _ACCURACY_ZONE}
            go_on = _shift_back(bench, found, standing, sigma)
            bench.progress.advance()
            if not go_on or state.cycle == bench.settings.phase1_cycles:
                _enter_phase2(bench)
                bench.save(line)
                return
            bench.save(line)


def _shift_back(bench: Bench, found: Clustering, standing: Standing, sigma: dict[str, float]) -> bool:
    """Step 3 of phase 1: where the accuracy is too low and cost has slack, go half of the last step back."""
    floor = bench.aims.accuracy_floor
    if floor is None or standing.judgement.accuracy >= floor - _ACCURACY_ZONE * abs(floor):
        return False
    if max(bench.aims.ratios(standing.cost).values(), default=0.0) >= 1:
        return False
    spread = max(sigma.values()) - min(sigma.values())
    last = bench.state.tau_step or abs(found.tau) or spread
    bench.state.tau_step = last / 2
    bench.state.tau = found.tau - bench.state.tau_step
    return True
