"""The first stage of a search: phase 1, a finished run's plan, or another strategy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from sigmaquant.runs.progress import task
from sigmaquant.search.bench import Bench
from sigmaquant.search.greedy import GreedyProgress
from sigmaquant.search.phase1 import BUFFER, Clustering, cluster_to_budget, shifted
from sigmaquant.search.problem import Bits
from sigmaquant.search.start import Start
from sigmaquant.search.state import Standing
from sigmaquant.search.strategies import Evidence, find_strategy
from sigmaquant.statistics import layer_sigmas

_ACCURACY_ZONE = 0.02
"""Phase 1 is content with an accuracy this far (as a part of the floor) below it: training has only begun."""


def plan_stage(bench: Bench, start: Start | None) -> None:
    """Find the first plan: phase 1, what a finished run found, or another strategy.

    Args:
        bench: with nothing planned, or in the middle of it.
        start: a finished run to begin from in place of phase 1.
    """
    if bench.settings.strategy == "sigma" and start is not None:
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
        bench.state.stage = "final"
        bench.save(line)


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
