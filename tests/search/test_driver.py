"""The driver of the search: stages, the accept rule, exact restores, and the best state at the end."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from driver_cases import Scripted, driver, graph, lines, session

import tiny
from sigmaquant import Budget
from sigmaquant.data import as_source
from sigmaquant.errors import BudgetError, PlanError, UnreachableBudgetError
from sigmaquant.runs.progress import Field, NullProgress
from sigmaquant.search import refining
from sigmaquant.search.phase1 import cluster_to_budget, shifted
from sigmaquant.search.phase2 import Move
from sigmaquant.search.planning import plan_stage
from sigmaquant.search.refining import refine_stage
from sigmaquant.search.session import Data
from sigmaquant.search.state import Standing
from sigmaquant.search.strategies import STRATEGIES, Evidence, register
from sigmaquant.statistics import layer_sigmas
from sigmaquant.training.student import Judgement
from sigmaquant.units import format_bytes, format_count

EIGHT = Budget(size="8x")


def of_stage(steps: list[dict], stage: str) -> list[dict]:
    return [step for step in steps if step["stage"] == stage]


def test_phase1_measures_the_clustered_plan_once_where_cost_has_no_slack() -> None:
    search = driver(EIGHT)
    search.run()
    first = search.search_state.recorder.lines[0]
    found = cluster_to_budget(layer_sigmas(graph()), search.search_state.problem)
    assert first["weights"] == found.bits
    assert first["changes"] == {"tau": found.tau, "landing": found.landing}
    assert first["violations"], "phase 1 lands above the limit on purpose"
    assert len(of_stage(search.search_state.recorder.lines, "phase1")) == 1


def test_phase1_goes_back_by_half_of_the_last_step_while_accuracy_is_low_and_cost_has_slack() -> None:
    search = driver(Budget(accuracy="97 %"), phase1_cycles=4, max_cycles=0, final_epochs=0)
    search.run()
    cycles = of_stage(search.search_state.recorder.lines, "phase1")
    taus = [step["changes"]["tau"] for step in cycles]
    sigmas = layer_sigmas(graph())
    steps = [before - after for before, after in pairwise(taus)]
    assert len(taus) == 4
    assert taus[0] == 0
    assert steps[0] == pytest.approx((max(sigmas.values()) - min(sigmas.values())) / 2)
    assert steps[1] == pytest.approx(steps[0] / 2)
    assert steps[2] == pytest.approx(steps[1] / 2)
    for step in cycles:
        assert step["weights"] == shifted(sigmas, search.search_state.problem, step["changes"]["tau"]).bits


def test_phase1_is_content_with_an_accuracy_near_the_floor() -> None:
    search = driver(Budget(accuracy="90 %"))
    search.search_state.session.search_judge = Scripted(0.885)
    search.run()
    assert len(of_stage(search.search_state.recorder.lines, "phase1")) == 1


def test_every_line_names_the_stage_it_was_made_in() -> None:
    steps = lines(Budget(size="7x", accuracy="-1 %"))
    moves = {(step["stage"], step["move"]) for step in steps}
    assert {stage for stage, move in moves if move == "cluster"} == {"phase1"}
    assert {stage for stage, move in moves if move in ("demote", "promote", "exchange")} == {"phase2"}
    assert {stage for stage, move in moves if move in ("final training", "batch norm")} == {"final"}
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
    uniform = lines(EIGHT, strategy="uniform", final_epochs=0, post_training=True)
    assert [(step["stage"], step["move"]) for step in uniform] == [("phase1", "uniform"), ("final", "post-training")]


def test_limits_are_kept_even_without_cycles_left() -> None:
    steps = lines(EIGHT, max_cycles=0, final_epochs=0)
    assert [step["move"] for step in of_stage(steps, "phase2")] == ["demote"]
    assert "size_bytes" not in steps[-1]["violations"]


@pytest.mark.parametrize("cycles", [1, 2, 3])
def test_phase2_uses_no_more_cycles_than_it_may(cycles: int) -> None:
    steps = lines(Budget(size="4x", accuracy="99 %"), max_cycles=cycles, final_epochs=0)
    assert len(of_stage(steps, "phase2")) <= cycles


def test_phase2_ends_with_its_time_but_not_before_the_limits_are_met() -> None:
    demanding = Budget(accuracy="99 %")
    assert of_stage(lines(demanding, phase1_cycles=1, max_cycles=2, final_epochs=0), "phase2")
    late = lines(demanding, phase1_cycles=1, max_cycles=2, final_epochs=0, search_minutes=1e-9)
    assert not of_stage(late, "phase2")
    late = lines(EIGHT, final_epochs=0, search_minutes=1e-9)
    assert [step["move"] for step in of_stage(late, "phase2")] == ["demote"]
    assert "size_bytes" not in late[-1]["violations"]


def test_phase2_does_nothing_when_all_is_met() -> None:
    assert not of_stage(lines(Budget(accuracy="50 %"), final_epochs=0), "phase2")


def test_without_phase2_only_the_limits_are_seen_to() -> None:
    moves = [step["move"] for step in of_stage(lines(EIGHT, phase2=False, final_epochs=0), "phase2")]
    assert moves == ["demote"]
    assert not of_stage(lines(Budget(accuracy="99 %"), phase2=False, phase1_cycles=1, final_epochs=0), "phase2")


def test_a_rejected_move_is_undone_exactly_and_never_proposed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    search = driver(Budget(accuracy="99 %"), phase1_cycles=1, max_cycles=3, final_epochs=0)
    plan_stage(search.search_state, None)
    assert search.state.stage == "phase2"
    search.state.count = 4
    before, weights, trained = search.student.tensors(), dict(search.state.weights), search.student.trained_examples
    assert any(key.startswith("optimizer.") for key in before)
    monkeypatch.setattr(Standing, "better_than", lambda *_: False)
    refine_stage(search.search_state)
    assert tiny.same_tensors(search.student.tensors(), before)
    assert {name: quantizer.bits for name, quantizer in search.student.network.weight_quantizers.items()} == weights
    assert search.student.trained_examples == trained == search.state.search_examples
    assert search.state.weights == weights
    steps = of_stage(search.search_state.recorder.lines, "phase2")
    tried = [tuple(step["weights"].values()) for step in steps]
    assert len(set(tried)) == len(tried) == 3
    assert [tuple(key) for key in search.state.tabu] == tried
    assert not any(step["accepted"] for step in steps)
    assert search.state.count == 1, "4, 2, 1: halved by each rejection"


def test_the_number_of_layers_moved_at_once_halves_after_a_rejection(monkeypatch: pytest.MonkeyPatch) -> None:
    search = driver(Budget(accuracy="99 %"), phase1_cycles=1, max_cycles=2, final_epochs=0)
    plan_stage(search.search_state, None)
    search.state.count = 4
    monkeypatch.setattr(Standing, "better_than", lambda *_: False)
    refine_stage(search.search_state)
    sizes = [len(step["changes"]) for step in of_stage(search.search_state.recorder.lines, "phase2")]
    assert sizes == [3, 2], "three layers have a higher bitwidth; then half of four"


def test_an_accepted_move_is_kept_and_sensitivities_are_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    search = driver(Budget(accuracy="99 %"), phase1_cycles=1, max_cycles=2, final_epochs=0)
    plan_stage(search.search_state, None)
    measured = []
    original = search.search_state.session.sensitivity
    monkeypatch.setattr(search.search_state.session, "sensitivity", lambda g: measured.append(g) or original(g))
    monkeypatch.setattr(Standing, "better_than", lambda *_: True)
    trained = search.student.trained_examples
    refine_stage(search.search_state)
    steps = of_stage(search.search_state.recorder.lines, "phase2")
    assert search.state.weights == steps[-1]["weights"]
    assert search.state.accuracy == steps[-1]["accuracy"]
    assert search.student.trained_examples == trained + 100 * len(steps)
    assert len(measured) == 1 + len(steps)


@pytest.mark.parametrize("sensitivity", ["output_kl", "curvature", "fisher"])
def test_sensitivities_of_a_trained_network_are_those_of_its_float_weights(
    sensitivity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not seen through the grid that it has now: there 8 bits would be rounded to 2, and be worse than these."""
    search = driver(Budget(size="16x", size_counts="weights"), sensitivity=sensitivity, phase1_cycles=1, max_cycles=1)
    plan_stage(search.search_state, None)
    assert search.student.trained_examples
    tables = []
    original = search.search_state.session.sensitivity
    monkeypatch.setattr(search.search_state.session, "sensitivity", lambda g: tables.append(original(g)) or tables[-1])
    present = {name: q.bits for name, q in search.student.network.weight_quantizers.items()}
    refine_stage(search.search_state)
    assert set(present.values()) == {2}
    table, _ = tables[0]
    for row in table.values():
        assert row[2] > row[4] > row[8] >= 0
    assert {name: q.bits for name, q in search.student.network.weight_quantizers.items()} == present


def test_a_strategy_of_the_users_own_must_name_every_layer_and_keep_the_pins() -> None:
    register("forgetful")(lambda problem, evidence: dict(list(problem.lowest.items())[1:]))
    register("unruly")(lambda problem, evidence: dict.fromkeys(problem.choices, 4))
    try:
        with pytest.raises(PlanError, match="layer '0' is at None bits"):
            driver(EIGHT, strategy="forgetful").run()
        with pytest.raises(PlanError, match=r"layer '3' is at 4 bits, but its allowed bitwidths are \(8,\)"):
            driver(Budget(size="4x"), strategy="unruly", pin={"3": 8}).run()
    finally:
        del STRATEGIES["forgetful"], STRATEGIES["unruly"]


@pytest.mark.parametrize("reads", [True, False])
def test_a_strategy_is_given_the_sensitivity_that_it_was_registered_for(reads: bool) -> None:
    given: list[Evidence] = []
    register("curious", sensitivity=reads)(lambda problem, evidence: given.append(evidence) or dict(problem.lowest))
    try:
        search = driver(EIGHT, strategy="curious")
        plan_stage(search.search_state, None)
    finally:
        del STRATEGIES["curious"]
    assert [evidence.sensitivity is not None for evidence in given] == [reads]
    assert (search.search_state.session.statistics.sensitivity is not None) is reads


def test_the_smallest_objective_needs_an_accuracy() -> None:
    with pytest.raises(BudgetError, match=r"'smallest' shrinks the network .*has no accuracy\. Give one"):
        session(EIGHT, objective="smallest")


def test_a_budget_that_only_pins_make_impossible_names_the_pins() -> None:
    with pytest.raises(UnreachableBudgetError, match=r"Unpin '9' \(8 bits\), '5' \(8 bits\)"):
        session(EIGHT, pin=dict.fromkeys(graph().layer, 8))


def test_every_cycle_and_segment_sees_other_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    search, seeds = driver(Budget(accuracy="99 %"), max_cycles=2), []

    def noted(method):
        def call(examples: int, seed: int, *given):
            seeds.append(seed)
            return method(examples, seed, *given)

        return call

    for name in ("cycle", "segment"):
        monkeypatch.setattr(search.student, name, noted(getattr(search.student, name)))
    search.run()
    assert len(set(seeds)) == len(seeds) >= 6


def test_the_search_is_judged_by_examples_from_everywhere() -> None:
    """Validation data are often sorted by class: the first examples would be of one class only."""
    one = session(EIGHT, search_examples=60, calibration_examples=60)
    inputs, targets = tiny.validation_data()
    order = targets.argsort()
    data = as_source((inputs[order], targets[order]), batch_size=50)
    one.data = Data(data, data)
    assert len(one.search_judge.targets) == 60
    assert set(one.search_judge.targets.tolist()) == set(range(tiny.CLASSES))
    everything = session(EIGHT, search_examples=250).search_judge
    assert torch.equal(everything.targets, targets)


@pytest.mark.parametrize(
    ("budget", "shown"),
    [
        (Budget(bops="16x", size="6x"), {"size": "total_bytes", "bops": "bops"}),
        (Budget(size="8x", size_counts="weights"), {"size": "weight_bytes"}),
        (Budget(accuracy="50 %"), {"size": "total_bytes"}),
    ],
)
def test_what_is_limited_is_shown(budget: Budget, shown: dict[str, str]) -> None:
    notes: list[dict[str, Field]] = []

    class Noted(NullProgress):
        def note(self, **fields: Field) -> None:
            notes.append(fields)

    search = driver(budget)
    search.search_state.progress = Noted()
    cost = search.search_state.measure_plainly(dict.fromkeys(graph().layer, 4)).cost
    costs = {name: (format_bytes if name == "size" else format_count)(getattr(cost, q)) for name, q in shown.items()}
    (note,) = notes
    assert {key: value for key, value in note.items() if isinstance(value, str)} == {**costs, "limits": "met"}


def test_seeds_differ_by_purpose_step_and_run() -> None:
    one, other = session(EIGHT), session(EIGHT, seed=1)
    seeds = [one.seed("cycle", 0), one.seed("cycle", 1), one.seed("final", 0), other.seed("cycle", 0)]
    assert len(set(seeds)) == 4
    assert one.seed("cycle", 0) == session(EIGHT).seed("cycle", 0)


def test_better_is_feasible_then_less_violated_then_what_the_objective_wants() -> None:
    search = driver(Budget(size="8x", accuracy="90 %"))

    def standing(bits: int, accuracy: float) -> Standing:
        plan = search.search_state.session.plan(dict.fromkeys(graph().layer, bits))
        return search.search_state.standing(plan, Scripted(accuracy)(None))

    assert standing(2, 0.9).better_than(standing(8, 0.99), "feasible")
    assert standing(2, 0.89).better_than(standing(2, 0.8), "feasible")
    assert standing(2, 0.3).better_than(standing(4, 0.9), "feasible"), "costs first: they do not train away"
    assert standing(4, 0.3).better_than(standing(8, 0.9), "feasible")
    assert standing(2, 0.95).better_than(standing(2, 0.94), "accurate")
    assert not standing(2, 0.95).better_than(standing(2, 0.95), "feasible")


def test_the_smallest_is_told_by_what_bitwidths_change() -> None:
    part = session(Budget(size="2x"))
    plans = [part.plan(dict.fromkeys(graph().layer, bits)) for bits in (8, 4, 2)]
    costs = [part.costs.cost(plan) for plan in plans]
    ram = costs[0].ram_bytes
    assert ram is not None
    limits = replace(part.limits, upper={**part.limits.upper, "ram_bytes": 1.01 * ram})
    found = [
        Standing.of(plan, cost, Judgement(1 - 0.1 * place, 0.1), limits)
        for place, (plan, cost) in enumerate(zip(plans, costs, strict=True))
    ]
    assert limits.binding(costs[0]) == limits.binding(costs[2]) == "ram_bytes"
    assert found[1].better_than(found[0], "smallest")
    assert found[2].better_than(found[1], "smallest")


def test_the_floor_is_that_of_the_examples_which_judge() -> None:
    part = session(Budget(size="4x", accuracy="-2 %"), search_examples=40)
    assert part.search_judge.float_accuracy != part.float_accuracy
    assert part.limits.accuracy_floor == pytest.approx(part.float_accuracy - 0.02)
    assert part.aims.accuracy_floor == pytest.approx(part.search_judge.float_accuracy - 0.02)
    assert part.aims.upper == part.limits.upper
    everything = session(Budget(accuracy="-2 %"), search_examples=250)
    assert everything.aims == everything.limits


def test_moves_beyond_the_problem_do_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    proposed: list[Move | None] = []
    search = driver(Budget(accuracy="99 %"), pin=dict.fromkeys(graph().layer, 8), phase1_cycles=1, final_epochs=0)
    original = refining._propose
    monkeypatch.setattr(refining, "_propose", lambda *given: proposed.append(original(*given)) or proposed[-1])
    search.run()
    assert proposed == [None]
    assert set(search.state.weights.values()) == {8}
