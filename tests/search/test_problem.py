from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_cases import problems_with_harm, size_problem

from sigmaquant.errors import BudgetError, PlanError, SigmaQuantError
from sigmaquant.search.problem import Ledger, SearchProblem, layer_totals, worth

TWO = size_problem({"conv": 10, "fc": 30}, limit=200.0)


def test_the_key_follows_the_order_of_the_layers_and_not_of_the_plan():
    assert TWO.key({"fc": 4, "conv": 2}) == (2, 4)


@pytest.mark.parametrize("bits", [{"conv": 2}, {"conv": 2, "fc": 3}])
def test_a_plan_with_a_missing_or_forbidden_bitwidth_has_no_key(bits):
    with pytest.raises(PlanError, match=r"'fc' is at .* allowed bitwidths are \(2, 4, 6, 8\)"):
        TWO.key(bits)


def test_a_problem_without_layers_is_an_error():
    with pytest.raises(PlanError, match="no layer"):
        SearchProblem({}, {}, {}, {}, {})


@pytest.mark.parametrize(
    ("allowed", "message"), [((), "no allowed bitwidth"), ((4, 2), "ascending"), ((2, 2), "ascending"), ((9,), "9")]
)
def test_malformed_choices_are_errors(allowed, message):
    with pytest.raises(PlanError, match=message):
        SearchProblem({"conv": allowed}, {}, {}, {}, {"conv": 1})


@pytest.mark.parametrize("limit", [0.0, -1.0, math.inf, math.nan])
def test_a_limit_that_is_no_positive_number_is_an_error(limit):
    with pytest.raises(BudgetError, match="above zero"):
        replace(TWO, upper={"size_bytes": limit})


def test_a_limited_resource_without_costs_is_an_error():
    with pytest.raises(BudgetError, match="latency_ms is limited, but layer 'conv' has no cost at 2 bits"):
        replace(TWO, upper={"latency_ms": 1.0})


def test_layers_without_element_counts_are_an_error():
    with pytest.raises(PlanError, match="number of weights"):
        replace(TWO, elements={"conv": 1})


UNEVEN = SearchProblem(
    {"conv": (2, 3, 4, 8)},
    {
        "size_bytes": {"conv": {2: 1.0, 3: 2.0, 4: 2.0, 8: 4.0}},
        "latency_ms": {"conv": {2: 1.0, 3: 9.0, 4: 2.0, 8: 4.0}},
    },
    {},
    {"size_bytes": 9.0, "latency_ms": 8.0},
    {"conv": 1},
)


def test_the_cheaper_bitwidths_pass_over_a_plateau():
    assert UNEVEN.cheaper("conv", 8, "size_bytes") == [4, 3, 2]
    assert UNEVEN.cheaper("conv", 4, "size_bytes") == [2]
    assert UNEVEN.cheaper("conv", 3, "latency_ms") == [2]
    assert UNEVEN.cheaper("conv", 2, "size_bytes") == []


def test_a_change_that_takes_another_cost_over_its_limit_does_not_spare_it():
    ledger = Ledger(UNEVEN, {"conv": 8})
    assert [ledger.spares("conv", bits) for bits in (4, 3, 2)] == [True, False, True]
    loose = Ledger(replace(UNEVEN, upper={"size_bytes": 9.0, "latency_ms": 9.0}), {"conv": 8})
    assert loose.spares("conv", 3)
    beyond = Ledger(replace(UNEVEN, upper={"size_bytes": 9.0, "latency_ms": 3.0}), {"conv": 8})
    assert [beyond.spares("conv", bits) for bits in (4, 3)] == [True, False]


@settings(max_examples=40, deadline=None)
@given(problems_with_harm(resources=3), st.data())
def test_a_ledger_agrees_with_the_problem_after_any_changes(case, data):
    problem, _, bits = case
    ledger = Ledger(problem, bits)
    for _ in range(10):
        name = data.draw(st.sampled_from(problem.layers))
        target = data.draw(st.sampled_from(problem.choices[name]))
        asked, before = ledger.fits_with(name, target), dict(ledger.bits)
        assert ledger.bits == before
        ledger.set(name, target)
        assert ledger.fits() == asked == problem.fits(ledger.bits)


def test_a_plan_exactly_at_its_limit_fits_whatever_the_changes_before():
    tenth = {f"l{i}": {2: 0.1, 4: 0.2} for i in range(10)}
    elements = dict.fromkeys(tenth, 1)
    problem = SearchProblem(dict.fromkeys(tenth, (2, 4)), {"latency_ms": tenth}, {}, {"latency_ms": 1.0}, elements)
    ledger = Ledger(problem, dict.fromkeys(tenth, 4))
    for name in tenth:
        assert not ledger.fits()
        ledger.set(name, 2)
    assert ledger.fits()


@pytest.mark.parametrize(("table", "found"), [({}, "is missing"), ({2: math.nan}, "is nan"), ({2: math.inf}, "is inf")])
def test_a_sensitivity_that_is_missing_or_not_finite_names_the_layer(table, found):
    problem = SearchProblem({"conv": (2,)}, {}, {}, {}, {"conv": 1})
    with pytest.raises(SigmaQuantError, match=f"layer 'conv' at 2 bits {found}"):
        layer_totals(problem, {"conv": table}, per_element=False)


def test_worth_orders_purchases():
    purchases = [(1.0, 0.0), (4.0, 1.0), (4.0, 2.0), (0.0, 0.0), (-1.0, 1.0), (-1.0, 5.0)]
    values = [worth(gain, cost) for gain, cost in purchases]
    assert values == sorted(values, reverse=True)
