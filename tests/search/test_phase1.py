from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_cases import problems, size_problem, with_constant_cost

from sigmaquant.errors import ModelError, PlanError, UnknownLayerError
from sigmaquant.search.phase1 import cluster_to_budget, shifted

ELEMENTS = dict.fromkeys("abcdefgh", 100)
SIGMA = dict(zip("abcdefgh", (0.40, 0.21, 0.20, 0.11, 0.10, 0.05, 0.04, 0.42), strict=True))


@st.composite
def cases(draw, monotone: bool = True):
    problem = draw(problems(most_layers=6, monotone=monotone))
    sigma = {name: draw(st.one_of(st.sampled_from([0.1, 0.2]), st.floats(0, 1))) for name in problem.choices}
    return problem, sigma


def uniform_bits(count: int, bits: int) -> float:
    return 100.0 * count * bits


def test_small_sigma_means_few_bits():
    found = shifted(SIGMA, size_problem(ELEMENTS, None), 0.0)
    assert found.bits == {"a": 8, "b": 6, "c": 6, "d": 4, "e": 4, "f": 2, "g": 2, "h": 8}
    assert len(found.centroids) == 4
    assert len(found.boundaries) == 3


def test_without_a_limit_the_clustering_is_not_shifted():
    problem = size_problem(ELEMENTS, None)
    found = cluster_to_budget(SIGMA, problem)
    assert found == shifted(SIGMA, problem, 0.0)
    assert (found.tau, found.landing) == (0.0, "unlimited")


@settings(max_examples=50, deadline=None)
@given(cases(), st.lists(st.floats(-2, 2), min_size=2, max_size=8))
def test_bitwidths_and_costs_never_rise_with_tau(case, taus):
    problem, sigma = case
    plans = [shifted(sigma, problem, tau) for tau in sorted(taus)]
    for before, after in pairwise(plans):
        assert all(after.bits[name] <= before.bits[name] for name in problem.choices)
        assert after.ratio <= before.ratio


@settings(max_examples=50, deadline=None)
@given(cases())
def test_larger_sigma_never_means_fewer_bits_for_unrestricted_layers(case):
    problem, sigma = case
    found = cluster_to_budget(sigma, problem)
    free = [name for name, allowed in problem.choices.items() if allowed == problem.bitwidths]
    ordered = [found.bits[name] for name in sorted(free, key=lambda name: sigma[name])]
    assert ordered == sorted(ordered)


@settings(max_examples=60, deadline=None)
@given(cases(monotone=False), st.lists(st.floats(-2, 2), max_size=30))
def test_no_other_shift_lands_better_and_none_that_is_smaller_lands_inside(case, taus):
    problem, sigma = case
    found = cluster_to_budget(sigma, problem)
    assert shifted(sigma, problem, found.tau) == found
    assert all(found.bits[name] in allowed for name, allowed in problem.choices.items())
    if not problem.upper:
        return

    def distance(ratio: float) -> float:
        return max(1 - ratio, ratio - 1.15, 0.0)

    for tau in [*taus, 0.0, found.tau / 2, found.tau * 0.999]:
        other = shifted(sigma, problem, tau)
        assert distance(other.ratio) >= distance(found.ratio) - 1e-9
        if other.landing == "inside":
            assert found.landing == "inside"
            assert abs(tau) >= abs(found.tau)


@settings(max_examples=50, deadline=None)
@given(cases())
def test_a_large_enough_shift_reaches_both_ends_for_every_layer(case):
    problem, sigma = case
    assert shifted(sigma, problem, 1e6).bits == problem.lowest
    highest = {name: allowed[-1] for name, allowed in problem.choices.items()}
    assert shifted(sigma, problem, -1e6).bits == highest


def test_the_landing_zone_reaches_from_the_limit_to_fifteen_percent_above():
    problem = size_problem(ELEMENTS, uniform_bits(8, 3))
    found = cluster_to_budget(SIGMA, problem)
    assert found.landing == "inside"
    assert 1 <= found.ratio <= 1.15
    assert found.tau > 0


def test_slack_moves_the_boundaries_down_to_more_bits():
    problem = size_problem(ELEMENTS, uniform_bits(8, 7))
    found = cluster_to_budget(SIGMA, problem)
    assert found.landing == "inside"
    assert found.tau < 0


def test_a_plan_exactly_at_the_limit_lies_inside_the_zone():
    unshifted = shifted(SIGMA, size_problem(ELEMENTS, None), 0.0)
    limit = sum(100.0 * bits for bits in unshifted.bits.values())
    found = cluster_to_budget(SIGMA, size_problem(ELEMENTS, limit), buffer=0.0)
    assert (found.tau, found.ratio, found.landing) == (0.0, 1.0, "inside")


def test_more_budget_than_the_highest_bitwidths_need_ends_below_the_limit():
    found = cluster_to_budget(SIGMA, size_problem(ELEMENTS, 1e9))
    assert set(found.bits.values()) == {8}
    assert found.landing == "below"


def test_less_budget_than_the_lowest_bitwidths_need_ends_above_the_zone():
    found = cluster_to_budget(SIGMA, size_problem(ELEMENTS, 1.0))
    assert set(found.bits.values()) == {2}
    assert found.landing == "above"


def test_the_nearest_plan_is_taken_where_none_lies_inside_the_zone():
    problem = size_problem({"only": 100}, 590.0)
    assert cluster_to_budget({"only": 0.1}, problem, buffer=0.0).bits == {"only": 6}
    assert cluster_to_budget({"only": 0.1}, size_problem({"only": 100}, 500.0), buffer=0.0).landing == "below"
    assert cluster_to_budget({"only": 0.1}, size_problem({"only": 100}, 480.0), buffer=0.0).bits == {"only": 4}


def test_equal_sigmas_begin_at_the_highest_bitwidth_and_move_together():
    sigma = dict.fromkeys(ELEMENTS, 0.1)
    assert set(shifted(sigma, size_problem(ELEMENTS, None), 0.0).bits.values()) == {8}
    for bits in (2, 4, 6, 8):
        found = cluster_to_budget(sigma, size_problem(ELEMENTS, uniform_bits(8, bits)))
        assert set(found.bits.values()) == {bits}
        assert found.landing == "inside"


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_a_single_layer_reaches_every_bitwidth(bits, value):
    found = cluster_to_budget({"only": value}, size_problem({"only": 100}, 100.0 * bits))
    assert found.bits == {"only": bits}


def test_fewer_distinct_sigmas_than_bitwidths_take_the_highest_bitwidths():
    sigma = {"a": 0.1, "b": 0.1, "c": 0.3}
    assert shifted(sigma, size_problem(dict.fromkeys("abc", 1), None), 0.0).bits == {"a": 6, "b": 6, "c": 8}


def test_pinned_and_restricted_layers_take_the_nearest_allowed_bitwidth_the_higher_on_a_tie():
    choices = {"a": (2,), "f": (6, 8), "d": (2, 6), **dict.fromkeys("bcegh", (2, 4, 6, 8))}
    found = shifted(SIGMA, size_problem(ELEMENTS, None, choices), 0.0)
    assert (found.bits["a"], found.bits["f"], found.bits["d"]) == (2, 6, 6)
    assert found.bits["b"] == 6


def test_a_plan_that_is_pinned_throughout_stays():
    choices = {"a": (8,), "b": (4,)}
    problem = size_problem({"a": 100, "b": 100}, 100.0, choices)
    found = cluster_to_budget({"a": 0.1, "b": 0.2}, problem)
    assert (found.bits, found.landing) == ({"a": 8, "b": 4}, "above")
    assert abs(found.tau) == 0


def test_one_bitwidth_for_all_needs_no_boundary():
    found = cluster_to_budget({"a": 0.1, "b": 0.2}, size_problem({"a": 1, "b": 1}, 8.0, (4,)))
    assert (found.bits, found.boundaries, found.landing) == ({"a": 4, "b": 4}, (), "inside")


def test_the_binding_limit_decides_among_several():
    size = {name: {2: 2.0, 4: 4.0} for name in "ab"}
    slow = {name: {2: 1.0, 4: 100.0} for name in "ab"}
    problem = size_problem({"a": 1, "b": 1}, 8.0, (2, 4))
    both = type(problem)(
        problem.choices,
        {"size_bytes": size, "latency_ms": slow},
        {},
        {"size_bytes": 8.0, "latency_ms": 2.0},
        problem.elements,
    )
    assert cluster_to_budget({"a": 0.1, "b": 0.2}, problem).bits == {"a": 4, "b": 4}
    assert cluster_to_budget({"a": 0.1, "b": 0.2}, both).bits == {"a": 2, "b": 2}


@pytest.mark.parametrize("ratio", [0.5, 0.99, 1.0])
def test_a_limit_that_no_bitwidth_changes_moves_no_layer(ratio):
    plain = size_problem(ELEMENTS, 16.0 * sum(ELEMENTS.values()))
    found, alone = (cluster_to_budget(SIGMA, problem) for problem in (with_constant_cost(plain, ratio), plain))
    assert (found.bits, found.landing, found.ratio) == (alone.bits, alone.landing, alone.ratio)
    assert found.bits != cluster_to_budget(SIGMA, size_problem(ELEMENTS, None)).bits


def test_a_missing_sigma_names_the_layer():
    with pytest.raises(PlanError, match="layer 'b' has no sigma"):
        cluster_to_budget({"a": 0.1}, size_problem({"a": 1, "b": 1}, 8.0))


def test_an_unknown_layer_is_an_error_with_near_matches():
    with pytest.raises(UnknownLayerError, match=r"'cnv1', which the model does not have\. Did you mean 'conv1'"):
        cluster_to_budget({"conv1": 0.1, "cnv1": 0.1}, size_problem({"conv1": 1}, 8.0))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_sigma_that_is_not_finite_names_the_layer(value):
    with pytest.raises(ModelError, match=r"sigma of layer 'a' is (nan|inf)"):
        shifted({"a": value}, size_problem({"a": 1}, 8.0), 0.0)
