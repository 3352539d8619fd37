from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_cases import every_plan, problems, size_problem

from sigmaquant.budget import RESOURCES
from sigmaquant.errors import UnreachableBudgetError
from sigmaquant.search.feasibility import (
    check_reachable,
    format_cost,
    format_limit,
    lowest_that_fits,
    smallest_reachable,
    unreachable,
)
from sigmaquant.search.problem import SearchProblem
from sigmaquant.units import parse_count, parse_energy_pj, parse_latency_ms, parse_size


def parsers():
    bytes_of = dict.fromkeys(("size_bytes", "ram_bytes", "flash_bytes"), parse_size)
    return {
        **bytes_of,
        "energy_pj": parse_energy_pj,
        "latency_ms": parse_latency_ms,
        "bops": parse_count,
        "macs": parse_count,
    }


@settings(max_examples=40, deadline=None)
@given(problems(most_layers=4, monotone=False))
def test_the_smallest_reachable_cost_is_that_of_the_best_plan(problem):
    found = smallest_reachable(problem)
    assert set(found) == set(problem.upper)
    for resource, value in found.items():
        assert value == min(problem.total(bits, resource) for bits in every_plan(problem))


@settings(max_examples=40, deadline=None)
@given(problems(most_layers=4))
def test_where_costs_grow_with_bits_the_check_is_exact(problem):
    if any(problem.fits(bits) for bits in every_plan(problem)):
        check_reachable(problem)
        assert lowest_that_fits(problem) == problem.lowest
    else:
        with pytest.raises(UnreachableBudgetError):
            check_reachable(problem)
        with pytest.raises(UnreachableBudgetError):
            lowest_that_fits(problem)


def test_the_message_gives_the_smallest_cost_and_every_remedy():
    choices = {"conv1": (8,), "conv2": (4, 8), "fc": (8,)}
    problem = size_problem({"conv1": 1000, "conv2": 2000, "fc": 9000}, 40_000.0, choices, fixed=500.0)
    with pytest.raises(UnreachableBudgetError) as raised:
        check_reachable(problem)
    assert str(raised.value) == (
        "the size limit of 40.0 KB cannot be met: the smallest reachable size is 88.5 KB. "
        "Allow bitwidths below 4, or unpin 'fc' (8 bits), 'conv1' (8 bits), or raise the limit to 88.5 KB or more."
    )


def test_at_two_bits_throughout_only_the_limit_can_be_raised():
    with pytest.raises(UnreachableBudgetError, match=r"size is 2\.0 KB\. Raise the limit to 2\.0 KB or more\.$"):
        check_reachable(size_problem({"conv": 1000}, 1500.0))


@pytest.mark.parametrize("resource", RESOURCES)
@given(value=st.floats(1e-3, 1e13))
def test_what_a_limit_is_raised_to_is_enough(resource, value):
    """What is advised can be typed in, and is then no less than what is needed."""
    whole = resource not in ("energy_pj", "latency_ms")
    value = math.ceil(value) if whole else value
    assert value <= parsers()[resource](format_limit(resource, value)) <= 1.1 * value + whole


def test_what_no_bitwidth_changes_is_named():
    with pytest.raises(
        UnreachableBudgetError, match=r"3\.0 KB of it does not depend on any bitwidth\. Raise the limit"
    ):
        check_reachable(size_problem({"conv": 1000}, 1500.0, fixed=3000.0))


def test_a_limit_just_missed_is_shown_with_all_its_digits():
    with pytest.raises(UnreachableBudgetError, match=r"limit of 1999999\.0 bytes .* is 2000000\.0 bytes"):
        check_reachable(size_problem({"conv": 1_000_000}, 1_999_999.0))


def test_every_limit_that_cannot_be_met_is_named():
    table = {"conv": {2: 2e6, 4: 4e6}}
    upper = {"energy_pj": 1e6, "latency_ms": 0.5}
    problem = SearchProblem({"conv": (2, 4)}, {"energy_pj": table, "latency_ms": table}, {}, upper, {"conv": 1})
    with pytest.raises(
        UnreachableBudgetError, match=r"energy limit of 1 uJ .* is 2 uJ.*latency limit of 500 us .* is 2000 s"
    ):
        check_reachable(problem)


def test_limits_that_only_conflict_with_each_other_list_each_smallest_cost():
    costs = {"size_bytes": {"conv": {2: 1.0, 4: 3.0}}, "latency_ms": {"conv": {2: 3.0, 4: 1.0}}}
    problem = SearchProblem({"conv": (2, 4)}, costs, {}, {"size_bytes": 2.0, "latency_ms": 2.0}, {"conv": 1})
    check_reachable(problem)
    message = str(unreachable(problem, "No plan meets all limits together."))
    assert message.startswith("No plan meets all limits together. Smallest reachable costs")
    assert "size 1 B (limit 2 B), latency 1 ms (limit 2 ms)" in message


@pytest.mark.parametrize(
    ("resource", "value", "text"),
    [
        ("energy_pj", 0.5, "0.5 pJ"),
        ("energy_pj", 3e12, "3 J"),
        ("latency_ms", 15.25, "15.25 ms"),
        ("latency_ms", 0.0000001, "0.1 ns"),
        ("bops", 2.5e9, "2.50 G"),
        ("ram_bytes", 64_000, "64.0 KB"),
        ("flash_words", 12.0, "12"),
    ],
)
def test_costs_are_shown_in_their_own_units(resource, value, text):
    assert format_cost(resource, value) == text
