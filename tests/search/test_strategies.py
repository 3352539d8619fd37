from __future__ import annotations

import math
import random
import sys
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_cases import every_plan, problems, problems_with_harm, size_problem, total_harm, with_constant_cost

from sigmaquant.errors import MetricError, SigmaQuantError, UnreachableBudgetError
from sigmaquant.search.greedy import greedy
from sigmaquant.search.ilp import ilp
from sigmaquant.search.problem import SearchProblem
from sigmaquant.search.random_search import random_plan
from sigmaquant.search.strategies import STRATEGIES, Evidence, find_strategy, register
from sigmaquant.search.uniform import uniform

ABC = dict.fromkeys("abc", 10)


def concave_loss(weights):
    return lambda bits: sum(weight * 4.0 ** -bits[name] for name, weight in weights.items())


# --- every strategy


@settings(max_examples=40, deadline=None)
@given(problems_with_harm(most_layers=4))
def test_every_strategy_stays_within_limits_and_choices_or_says_that_nothing_fits(case):
    problem, harm, _ = case
    evidence = Evidence(harm, per_element=False, loss=lambda bits: total_harm(harm, bits), seed=3)
    reachable = problem.fits(problem.lowest)
    for name in ("uniform", "ilp", "greedy", "random"):
        if reachable:
            bits = find_strategy(name)(problem, evidence)
            assert problem.fits(bits)
            assert list(bits) == list(problem.choices)
            assert all(bits[layer] in allowed for layer, allowed in problem.choices.items())
        else:
            with pytest.raises(UnreachableBudgetError, match="cannot be met"):
                find_strategy(name)(problem, evidence)


@settings(max_examples=40, deadline=None)
@given(problems_with_harm(most_layers=5), st.integers(0, 99))
def test_the_exact_strategy_is_never_worse_than_the_others(case, seed):
    problem, harm, _ = case
    if not problem.fits(problem.lowest):
        return
    exact = total_harm(harm, ilp(problem, harm, per_element=False))
    others = [uniform(problem), greedy(problem, lambda bits: total_harm(harm, bits)), random_plan(problem, seed)]
    assert all(exact <= total_harm(harm, bits) + 1e-9 for bits in others)


@pytest.mark.parametrize("name", ["ilp", "greedy"])
def test_a_strategy_without_its_evidence_says_what_it_needs(name):
    with pytest.raises(SigmaQuantError, match=f"'{name}' needs a "):
        find_strategy(name)(size_problem(ABC, None), Evidence())


def test_an_unknown_strategy_lists_the_near_matches():
    with pytest.raises(SigmaQuantError, match=r"no strategy 'gredy'\. Did you mean 'greedy'"):
        find_strategy("gredy")


def test_a_strategy_can_be_added_once():
    try:
        register("mine")(lambda problem, evidence: problem.lowest)
        assert find_strategy("mine")(size_problem(ABC, None), Evidence()) == dict.fromkeys("abc", 2)
        with pytest.raises(SigmaQuantError, match="already a strategy 'mine'"):
            register("mine")
    finally:
        del STRATEGIES["mine"]


# --- uniform


@pytest.mark.parametrize(("limit", "bits"), [(60.0, 2), (119.0, 2), (120.0, 4), (1e9, 8)])
def test_uniform_takes_the_largest_bitwidth_that_fits(limit, bits):
    assert uniform(size_problem(ABC, limit)) == dict.fromkeys("abc", bits)


def test_uniform_rounds_restricted_layers_down_and_counts_them():
    choices = {"a": (3, 8), "b": (6,), "c": (2, 4, 6, 8)}
    assert uniform(size_problem(ABC, 150.0, choices)) == {"a": 3, "b": 6, "c": 6}
    assert uniform(size_problem(ABC, 149.0, choices)) == {"a": 3, "b": 6, "c": 4}


def test_uniform_without_a_limit_takes_the_highest():
    assert uniform(size_problem(ABC, None)) == dict.fromkeys("abc", 8)


def test_uniform_explains_a_conflict_between_limits():
    costs = {"size_bytes": {"a": {2: 1.0, 4: 3.0}}, "latency_ms": {"a": {2: 3.0, 4: 1.0}}}
    problem = SearchProblem({"a": (2, 4)}, costs, {}, {"size_bytes": 2.0, "latency_ms": 2.0}, {"a": 1})
    with pytest.raises(UnreachableBudgetError, match="No uniform bitwidth meets all limits"):
        uniform(problem)


# --- ilp


@settings(max_examples=70, deadline=None)
@given(problems_with_harm(most_layers=4, resources=3, monotone=False))
def test_the_exact_strategy_equals_brute_force(case):
    problem, harm, _ = case
    plans = [bits for bits in every_plan(problem) if problem.fits(bits)]
    if not plans:
        with pytest.raises(UnreachableBudgetError):
            ilp(problem, harm, per_element=False)
        return
    bits = ilp(problem, harm, per_element=False)
    assert problem.fits(bits)
    assert total_harm(harm, bits) == pytest.approx(min(total_harm(harm, plan) for plan in plans), rel=1e-9, abs=1e-9)


def test_a_solver_that_calls_a_solvable_problem_infeasible_is_not_believed(monkeypatch):
    result = types.SimpleNamespace(status=2, x=None, message="The problem is infeasible.")
    monkeypatch.setattr("sigmaquant.search.ilp.milp", lambda *args, **kwargs: result)
    harm = {name: {b: 1.0 / b for b in (2, 4, 6, 8)} for name in ABC}
    with pytest.raises(SigmaQuantError, match="without an optimal plan") as raised:
        ilp(size_problem(ABC, 100.0), harm)
    assert not isinstance(raised.value, UnreachableBudgetError)


def test_the_exact_strategy_multiplies_sensitivities_per_weight_by_the_number_of_weights():
    cost = {"latency_ms": {"a": {2: 0.0, 4: 1.0}, "b": {2: 0.0, 4: 1.0}}}
    problem = SearchProblem({"a": (2, 4), "b": (2, 4)}, cost, {}, {"latency_ms": 1.0}, {"a": 30, "b": 10})
    harm = {"a": {2: 1.0, 4: 0.0}, "b": {2: 2.0, 4: 0.0}}
    assert ilp(problem, harm, per_element=True) == {"a": 4, "b": 2}
    assert ilp(problem, harm, per_element=False) == {"a": 2, "b": 4}


def test_ties_within_a_layer_go_to_the_cheaper_and_then_to_the_higher_bitwidth():
    flat = {name: dict.fromkeys((2, 4, 6, 8), 1.0) for name in ABC}
    assert ilp(size_problem(ABC, 1e9), flat) == dict.fromkeys("abc", 2)
    assert ilp(size_problem(ABC, None), flat) == dict.fromkeys("abc", 8)


def test_a_large_problem_is_not_pushed_over_its_limit_by_the_solvers_tolerance():
    rng = random.Random(1)
    elements = {f"layer{i}": rng.randint(1, 3_000_000) for i in range(40)}
    harm = {name: {b: rng.random() * 4.0**-b for b in (2, 4, 6, 8)} for name in elements}
    limit = math.floor(3.7 * sum(elements.values()))
    problem = size_problem(elements, limit)
    bits = ilp(problem, harm)
    assert problem.fits(bits)


def test_limits_that_only_conflict_with_each_other_are_found_out():
    names = ["a", "b"]
    costs = {
        "size_bytes": {n: {2: 1.0, 4: 3.0} for n in names},
        "latency_ms": {n: {2: 3.0, 4: 1.0} for n in names},
    }
    problem = SearchProblem(dict.fromkeys(names, (2, 4)), costs, {}, dict.fromkeys(costs, 3.0), dict.fromkeys(names, 1))
    with pytest.raises(UnreachableBudgetError, match="No plan meets all limits together"):
        ilp(problem, {n: {2: 1.0, 4: 0.0} for n in names})


@pytest.mark.parametrize("status", [1, 4])
def test_a_solver_that_ends_without_an_optimum_is_an_error(monkeypatch, status):
    result = types.SimpleNamespace(status=status, x=None, message="Time limit reached.")
    monkeypatch.setattr("sigmaquant.search.ilp.milp", lambda *args, **kwargs: result)
    harm = {name: {b: 1.0 / b for b in (2, 4, 6, 8)} for name in ABC}
    with pytest.raises(SigmaQuantError, match=r"without an optimal plan: Time limit reached\. Use the strategy"):
        ilp(size_problem(ABC, 100.0), harm)


def test_a_plan_that_the_solver_wrongly_lets_through_is_excluded(monkeypatch):
    module = sys.modules["sigmaquant.search.ilp"]
    harm = {name: {2: 1.0, 4: 0.0} for name in "ab"}
    problem = size_problem(dict.fromkeys("ab", 10), 60.0, (2, 4))
    answers = []

    def loose(objective, *, constraints, **options):
        loosened = [type(c)(c.A, c.lb, c.ub + 1e9) if c.A.shape[0] == 1 and not answers else c for c in constraints]
        answers.append(real(objective, constraints=loosened, **options))
        return answers[-1]

    real = module.milp
    monkeypatch.setattr(module, "milp", loose)
    assert sorted(ilp(problem, harm).values()) == [2, 4]
    assert len(answers) == 2


# --- greedy


def test_greedy_asks_what_an_upgrade_costs_where_a_limit_is_constant():
    plain = size_problem(ABC, 5 * sum(ABC.values()))
    loss = lambda bits: sum(number / bits[name] for number, name in enumerate(bits, 1))  # noqa: E731
    assert greedy(with_constant_cost(plain, 0.99), loss) == greedy(plain, loss)


def test_greedy_buys_what_pays_most_for_the_binding_cost():
    loss = concave_loss({"a": 100.0, "b": 10.0, "c": 1.0})
    assert greedy(size_problem(ABC, 100.0), loss) == {"a": 4, "b": 4, "c": 2}


@settings(max_examples=40, deadline=None)
@given(problems(most_layers=4), st.integers(0, 99))
def test_lazy_evaluation_finds_what_a_full_sweep_finds_where_layers_do_not_interact(problem, seed):
    if not problem.fits(problem.lowest):
        return
    rng = random.Random(seed)
    weights = {name: rng.randint(1, 9) for name in problem.choices}

    def loss(bits):
        return sum(weight * (8 - bits[name]) ** 2 for name, weight in weights.items())

    bits = dict(problem.lowest)
    while True:
        resource, candidates = problem.binding(bits), []
        for index, name in enumerate(problem.choices):
            higher = problem.higher(name, bits[name])
            if higher is not None and problem.fits({**bits, name: higher}):
                cost = problem.price(resource, name, higher) - problem.price(resource, name, bits[name])
                gain = loss(bits) - loss({**bits, name: higher})
                candidates.append((-gain / cost if cost > 0 else -math.inf, higher, index, name))
        if not candidates:
            break
        _, higher, _, name = min(candidates)
        bits[name] = higher
    assert greedy(problem, loss) == bits


def test_greedy_measures_no_plan_twice_and_fewer_than_a_full_sweep():
    seen = []
    names = [f"layer{i}" for i in range(30)]
    weights = {name: 1.0 + index for index, name in enumerate(names)}

    def loss(bits):
        seen.append(tuple(bits.values()))
        return concave_loss(weights)(bits)

    steps = []
    greedy(size_problem(dict.fromkeys(names, 10), 30 * 10 * 6.0), loss, steps.append)
    assert len(seen) == len(set(seen)) == steps[-1].evaluations
    assert len(seen) < 0.3 * len(names) * (len(steps) - 1)


def test_greedy_stops_only_when_no_upgrade_fits():
    problem = size_problem(ABC, 170.0)
    bits = greedy(problem, concave_loss({"a": 3.0, "b": 2.0, "c": 1.0}))
    assert all(
        (higher := problem.higher(name, b)) is None or not problem.fits({**bits, name: higher})
        for name, b in bits.items()
    )


def test_greedy_goes_on_through_upgrades_that_gain_nothing_alone():
    def chance_until_all_have_four_bits(bits):
        return 0.1 if min(bits.values()) >= 4 else 2.3

    assert min(greedy(size_problem(ABC, 120.0), chance_until_all_have_four_bits).values()) == 4


def test_greedy_returns_the_best_plan_of_its_way():
    def worse_above_four(bits):
        return sum(abs(b - 4) for b in bits.values())

    assert greedy(size_problem(ABC, None), worse_above_four) == dict.fromkeys("abc", 4)


def test_greedy_reports_its_start_and_every_upgrade():
    steps = []
    greedy(size_problem(ABC, 80.0), concave_loss({"a": 3.0, "b": 2.0, "c": 1.0}), steps.append)
    assert [step.layer for step in steps] == [None, "a"]
    assert steps[0].bits == dict.fromkeys("abc", 2)
    assert steps[1].bits == {"a": 4, "b": 2, "c": 2}
    assert steps[1].loss < steps[0].loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_an_error(value):
    with pytest.raises(MetricError, match="one finite number"):
        greedy(size_problem(ABC, None), lambda bits: value)


# --- random


@settings(max_examples=40, deadline=None)
@given(problems(most_layers=5, monotone=True), st.integers(0, 999))
def test_a_random_plan_leaves_no_single_upgrade_within_the_limits(problem, seed):
    if not problem.fits(problem.lowest):
        return
    bits = random_plan(problem, seed)
    assert problem.fits(bits)
    for name, allowed in problem.choices.items():
        assert not any(problem.fits({**bits, name: higher}) for higher in allowed if higher > bits[name])


def test_the_seed_decides_the_random_plan():
    problem = size_problem({f"layer{i}": 10 for i in range(20)}, 800.0)
    assert random_plan(problem, 1) == random_plan(problem, 1)
    assert len({tuple(random_plan(problem, seed).values()) for seed in range(8)}) == 8
