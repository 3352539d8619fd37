from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_cases import problems_with_harm, size_problem, total_harm, with_constant_cost

from sigmaquant.errors import PlanError, SigmaQuantError
from sigmaquant.search.phase2 import propose
from sigmaquant.search.problem import SearchProblem

COUNTS = st.integers(1, 6)
ELEMENTS = {"a": 10, "b": 10, "c": 20}
HARM = {
    "a": {2: 9.0, 4: 3.0, 6: 1.0, 8: 0.5},
    "b": {2: 5.0, 4: 2.0, 6: 0.8, 8: 0.4},
    "c": {2: 8.0, 4: 4.0, 6: 1.5, 8: 0.6},
}


def at(*bits: int) -> dict[str, int]:
    return dict(zip(ELEMENTS, bits, strict=True))


def decide(problem, bits, harm=HARM, accuracy_met=True, per_element=False, **options):
    return propose(problem, bits, harm, accuracy_met=accuracy_met, per_element=per_element, **options)


@settings(max_examples=60, deadline=None)
@given(problems_with_harm(monotone=False), st.sampled_from([True, False, None]), st.booleans(), COUNTS)
def test_every_move_is_described_truly_and_respects_pins_and_choices(case, accuracy_met, smallest, count):
    problem, harm, bits = case
    objective = "smallest" if smallest else "feasible"
    move = decide(problem, bits, harm, accuracy_met, objective=objective, count=count)
    if move is None:
        return
    assert all(move.bits[name] in allowed for name, allowed in problem.choices.items())
    assert move.changes == {n: (bits[n], move.bits[n]) for n in bits if move.bits[n] != bits[n]}
    assert move.changes
    assert move.harm == pytest.approx(total_harm(harm, move.bits) - total_harm(harm, bits), abs=1e-9)
    ups = {after > before for before, after in move.changes.values()}
    assert {"demote": {False}, "promote": {True}, "exchange": {True, False}}[move.kind] == ups


@settings(max_examples=60, deadline=None)
@given(problems_with_harm(monotone=False), COUNTS)
def test_over_the_limit_a_move_reduces_the_binding_cost_and_takes_no_other_over_its_limit(case, count):
    problem, harm, bits = case
    move = decide(problem, bits, harm, count=count)
    if problem.fits(bits):
        assert move is None
    elif move is not None:
        assert move.kind == "demote"
        assert len(move.changes) <= count
        before, after = problem.ratios(bits), problem.ratios(move.bits)
        assert after[problem.binding(bits)] < before[problem.binding(bits)]
        assert all(after[resource] <= max(before[resource], 1) for resource in before)


@settings(max_examples=60, deadline=None)
@given(
    problems_with_harm(resources=1),
    st.lists(st.floats(0, 9), min_size=30, max_size=30),
    st.sampled_from([True, False]),
    COUNTS,
)
def test_a_limit_far_away_changes_no_decision_even_where_fewer_bits_cost_more_of_it(case, values, met, count):
    """Measured latencies rise and fall with the bits in the third decimal."""
    problem, harm, bits = case
    value = iter(values)
    energy = {name: {b: next(value) for b in allowed} for name, allowed in problem.choices.items()}
    far = replace(
        problem,
        costs={**problem.costs, "energy_pj": energy},
        fixed={**problem.fixed, "energy_pj": 0.0},
        upper={**problem.upper, "energy_pj": 1e9},
    )
    if problem.upper:
        assert decide(far, bits, harm, met, count=count) == decide(problem, bits, harm, met, count=count)


def slow_at_three_bits(latency_limit: float) -> SearchProblem:
    return SearchProblem(
        choices={"layer": (2, 3, 4)},
        costs={"size_bytes": {"layer": {2: 0.0, 3: 0.0, 4: 1.0}}, "latency_ms": {"layer": {2: 0.0, 3: 1.0, 4: 0.0}}},
        fixed={"size_bytes": 0.0, "latency_ms": 0.0},
        upper={"size_bytes": 0.5, "latency_ms": latency_limit},
        elements={"layer": 1},
    )


@pytest.mark.parametrize(("latency_limit", "bits"), [(1.0, 3), (0.9, 2)])
def test_a_bitwidth_that_costs_more_of_another_limit_is_taken_as_long_as_it_holds(latency_limit, bits):
    move = decide(slow_at_three_bits(latency_limit), {"layer": 4}, {"layer": {2: 1.0, 3: 0.0, 4: 0.0}})
    assert move.changes == {"layer": (4, bits)}


def test_a_demotion_that_another_limit_forbids_is_open_again_once_a_third_layer_makes_room():
    """``a`` can save size only where ``b`` has made room for its latency; it ranks first, and is asked again."""
    problem = SearchProblem(
        choices={"a": (4, 8), "b": (4, 8)},
        costs={
            "size_bytes": {"a": {4: 1.0, 8: 5.0}, "b": {4: 4.0, 8: 5.0}},
            "latency_ms": {"a": {4: 2.0, 8: 1.0}, "b": {4: 1.0, 8: 2.0}},
        },
        fixed={"size_bytes": 0.0, "latency_ms": 0.0},
        upper={"size_bytes": 5.0, "latency_ms": 3.5},
        elements={"a": 1, "b": 1},
    )
    harm = {"a": {4: 0.1, 8: 0.0}, "b": {4: 9.0, 8: 0.0}}
    move = decide(problem, {"a": 8, "b": 8}, harm, count=2)
    assert move.bits == {"a": 4, "b": 4}


@settings(max_examples=60, deadline=None)
@given(problems_with_harm())
def test_demotion_of_enough_layers_fits_whenever_the_lowest_bitwidths_do(case):
    problem, harm, bits = case
    if not problem.fits(bits) and problem.fits(problem.lowest):
        assert problem.fits(decide(problem, bits, harm, count=len(bits)).bits)


@settings(max_examples=60, deadline=None)
@given(problems_with_harm(monotone=False), COUNTS)
def test_below_the_floor_a_move_keeps_the_limits_and_an_exchange_lowers_the_harm(case, count):
    problem, harm, bits = case
    if not problem.fits(bits):
        return
    move = decide(problem, bits, harm, False, count=count)
    if move is not None:
        assert problem.fits(move.bits)
        assert move.kind in ("promote", "exchange")
        assert move.kind == "promote" or move.harm < 0


@settings(max_examples=60, deadline=None)
@given(problems_with_harm(), st.sampled_from([True, False]), COUNTS)
def test_no_proposal_is_tabu_and_the_moves_run_out(case, accuracy_met, count):
    problem, harm, bits = case
    tabu = set()
    while move := decide(problem, bits, harm, accuracy_met, objective="smallest", count=count, tabu=tabu):
        key = problem.key(move.bits)
        assert key not in tabu
        tabu.add(key)
        assert len(tabu) < 200


@settings(max_examples=60, deadline=None)
@given(problems_with_harm(), st.sampled_from(["feasible", "smallest"]), COUNTS, st.integers(0, 2**16))
def test_a_search_that_accepts_and_rejects_at_random_ends(case, objective, count, seed):
    problem, harm, bits = case
    coin, tabu, floor = random.Random(seed), set(), total_harm(harm, bits) / 2
    for _ in range(500):
        met = total_harm(harm, bits) <= floor
        move = decide(problem, bits, harm, met, objective=objective, count=count, tabu=tabu)
        if move is None:
            return
        if coin.random() < 0.5:
            # Like the driver: where it came from is worse, and is not visited again.
            tabu.add(problem.key(bits))
            bits = dict(move.bits)
        else:
            tabu.add(problem.key(move.bits))
            count = max(1, count // 2)
    pytest.fail("500 decisions and no end")


@settings(max_examples=50, deadline=None)
@given(problems_with_harm(), st.booleans(), COUNTS)
def test_a_decision_is_the_same_every_time(case, accuracy_met, count):
    problem, harm, bits = case
    first = decide(problem, bits, harm, accuracy_met, objective="smallest", count=count)
    assert decide(problem, dict(reversed(bits.items())), harm, accuracy_met, objective="smallest", count=count) == first


def test_all_met_means_no_move():
    problem = size_problem(ELEMENTS, 400.0)
    assert decide(problem, at(8, 8, 8)) is None
    assert decide(problem, at(8, 8, 8), accuracy_met=None) is None


def test_the_least_harm_per_unit_of_the_binding_cost_is_demoted_first():
    move = decide(size_problem(ELEMENTS, 310.0), at(8, 8, 8))
    assert move.changes == {"b": (8, 6)}


def test_per_element_sensitivities_are_multiplied_by_the_number_of_weights():
    harm = {"a": {2: 1.0, 4: 0.0}, "b": {2: 2.0, 4: 0.0}}
    cost = {"latency_ms": {"a": {2: 0.0, 4: 1.0}, "b": {2: 0.0, 4: 1.0}}}
    problem = SearchProblem({"a": (2, 4), "b": (2, 4)}, cost, {}, {"latency_ms": 1.0}, {"a": 30, "b": 10})
    bits = {"a": 4, "b": 4}
    assert set(decide(problem, bits, harm, per_element=False).changes) == {"a"}
    assert set(decide(problem, bits, harm, per_element=True).changes) == {"b"}


def test_demotion_stops_once_everything_fits_or_count_layers_have_moved():
    problem = size_problem(ELEMENTS, 200.0)
    assert len(decide(problem, at(8, 8, 8), count=1).changes) == 1
    move = decide(problem, at(8, 8, 8), count=3)
    assert problem.fits(move.bits)
    assert not problem.fits({**move.bits, "c": problem.higher("c", move.bits["c"])})


def test_demotions_that_a_later_one_makes_unnecessary_are_given_back():
    harm = {"small": {2: 1.0, 8: 0.0}, "large": {2: 500.0, 8: 0.0}}
    problem = size_problem({"small": 1, "large": 100}, 220.0, (2, 8))
    move = decide(problem, {"small": 8, "large": 8}, harm, count=2)
    assert move.changes == {"large": (8, 2)}


def test_the_binding_resource_is_looked_up_anew_after_every_step():
    costs = {
        "size_bytes": {"a": {2: 0.0, 4: 10.0}, "b": {2: 0.0, 4: 1.0}},
        "latency_ms": {"a": {2: 0.0, 4: 1.0}, "b": {2: 0.0, 4: 10.0}},
    }
    problem = SearchProblem(
        {"a": (2, 4), "b": (2, 4)}, costs, {}, {"size_bytes": 5.0, "latency_ms": 5.5}, {"a": 1, "b": 1}
    )
    harm = {"a": {2: 1.0, 4: 0.0}, "b": {2: 1.0, 4: 0.0}}
    assert decide(problem, {"a": 4, "b": 4}, harm, count=1).changes == {"a": (4, 2)}
    assert decide(problem, {"a": 4, "b": 4}, harm, count=2).changes == {"a": (4, 2), "b": (4, 2)}


def test_slack_is_used_by_promoting_where_most_harm_is_undone_per_unit_of_cost():
    move = decide(size_problem(ELEMENTS, 400.0), at(4, 4, 4), accuracy_met=False)
    assert (move.kind, move.changes) == ("promote", {"a": (4, 6)})


def test_without_slack_a_promotion_is_paid_for_by_demotions():
    harm = HARM | {"b": {2: 0.4, 4: 0.3, 6: 0.2, 8: 0.1}}
    move = decide(size_problem(ELEMENTS, 160.0), at(4, 4, 4), harm, accuracy_met=False)
    assert (move.kind, move.changes) == ("exchange", {"a": (4, 6), "b": (4, 2)})


def test_an_exchange_that_would_not_lower_the_harm_is_not_proposed():
    harm = {name: {2: 9.0, 4: 3.0, 6: 2.0, 8: 1.5} for name in ELEMENTS}
    assert decide(size_problem(ELEMENTS, 160.0), at(4, 4, 4), harm, accuracy_met=False) is None


def test_a_tabu_exchange_is_paid_for_by_another_layer():
    harm = {
        "a": {2: 9.0, 4: 6.0, 6: 1.0, 8: 0.5},
        "b": {2: 0.4, 4: 0.3, 6: 0.2, 8: 0.1},
        "c": {2: 0.9, 4: 0.3, 6: 0.2, 8: 0.1},
    }
    problem = size_problem(ELEMENTS, 160.0)
    first = decide(problem, at(4, 4, 4), harm, accuracy_met=False)
    second = decide(problem, at(4, 4, 4), harm, accuracy_met=False, tabu={problem.key(first.bits)})
    assert first.changes == {"a": (4, 6), "b": (4, 2)}
    assert second.kind == "exchange"
    assert second.changes == {"a": (4, 6), "c": (4, 2)}


def test_when_a_group_is_tabu_fewer_layers_are_moved():
    problem = size_problem(ELEMENTS, 1000.0)
    whole = decide(problem, at(8, 8, 8), objective="smallest", count=3)
    assert len(whole.changes) == 3
    half = decide(problem, at(8, 8, 8), objective="smallest", count=3, tabu={problem.key(whole.bits)})
    assert len(half.changes) == 1


def test_the_smallest_plan_is_sought_without_any_limit_on_costs():
    problem = size_problem(ELEMENTS, None)
    bits, steps = at(8, 8, 8), 0
    while move := decide(problem, bits, objective="smallest"):
        bits, steps = dict(move.bits), steps + 1
    assert (bits, steps) == (at(2, 2, 2), 9)


def test_a_limit_that_no_bitwidth_changes_changes_no_decision():
    plain = size_problem(ELEMENTS, 400.0)
    both = with_constant_cost(plain, 0.99)
    for bits, options in ((at(8, 8, 8), {"objective": "smallest"}), (at(4, 6, 2), {"accuracy_met": False})):
        move = decide(both, bits, **options)
        assert move is not None
        assert move == decide(plain, bits, **options)


def test_at_the_highest_bitwidths_there_is_nothing_to_promote():
    assert decide(size_problem(ELEMENTS, None), at(8, 8, 8), accuracy_met=False) is None


def test_at_the_lowest_bitwidths_there_is_nothing_to_demote():
    assert decide(size_problem(ELEMENTS, 1.0), at(2, 2, 2)) is None


def test_pinned_layers_leave_no_move():
    problem = size_problem(ELEMENTS, 1.0, dict.fromkeys(ELEMENTS, (4,)))
    assert decide(problem, at(4, 4, 4)) is None
    assert decide(replace(problem, upper={}), at(4, 4, 4), accuracy_met=False) is None


def test_a_flat_table_still_lets_slack_be_used():
    flat = {name: dict.fromkeys((2, 4, 6, 8), 1.0) for name in ELEMENTS}
    move = decide(size_problem(ELEMENTS, 190.0), at(4, 4, 4), flat, accuracy_met=False)
    assert (move.kind, move.changes) == ("promote", {"a": (4, 6)})


def test_layers_that_the_table_expects_nothing_of_are_left_out_of_a_group():
    harm = HARM | {"b": {2: 1.0, 4: 1.0, 6: 2.0, 8: 3.0}}
    problem = size_problem(ELEMENTS, 400.0)
    move = decide(problem, at(4, 4, 4), harm, accuracy_met=False, count=3)
    assert move.changes == {"a": (4, 6), "c": (4, 6)}
    assert decide(problem, at(8, 4, 8), harm, accuracy_met=False, count=3).changes == {"b": (4, 6)}


def test_ties_go_to_the_layer_that_comes_first():
    harm = {name: {2: 2.0, 4: 1.0} for name in "zyx"}
    problem = size_problem(dict.fromkeys("zyx", 1), 10.0, (2, 4))
    assert set(decide(problem, dict.fromkeys("zyx", 4), harm).changes) == {"z"}


def test_a_plan_outside_the_choices_is_an_error():
    with pytest.raises(PlanError, match="'a' is at 3 bits"):
        decide(size_problem(ELEMENTS, 100.0), at(3, 4, 4))


def test_a_table_that_lacks_a_layer_is_an_error():
    with pytest.raises(SigmaQuantError, match="layer 'b' at 2 bits is missing"):
        decide(size_problem(ELEMENTS, 100.0), at(4, 4, 4), {"a": HARM["a"]})


def test_a_count_below_one_is_an_error():
    with pytest.raises(SigmaQuantError, match="at least one layer"):
        decide(size_problem(ELEMENTS, 100.0), at(4, 4, 4), count=0)


@pytest.mark.parametrize("bits", [8, 4])
def test_two_hundred_layers_are_decided_quickly(bits):
    rng = random.Random(0)
    elements = {f"layer{i}": rng.randint(100, 100_000) for i in range(200)}
    harm = {name: {b: rng.random() * 4.0**-b for b in (2, 4, 6, 8)} for name in elements}
    problem = size_problem(elements, 4.0 * sum(elements.values()))
    start = time.process_time()
    assert propose(problem, dict.fromkeys(elements, bits), harm, accuracy_met=False, count=50)
    assert time.process_time() - start < 1
