"""What a search begins with: every candidate measured once, the best taken, none of them better than the result."""

from __future__ import annotations

from dataclasses import replace

import pytest
from driver_cases import Memory, driver, graph, session, without_seconds

import tiny
from sigmaquant import Budget
from sigmaquant.errors import SigmaQuantError, UnreachableBudgetError
from sigmaquant.search import candidates as module
from sigmaquant.search import ilp as program
from sigmaquant.search.candidates import candidates, filled
from sigmaquant.search.ilp import ilp
from sigmaquant.search.problem import SearchProblem
from sigmaquant.search.uniform import uniform

BUDGET = Budget(size="9x", size_counts="weights")
BEST = {"start": "best", "post_training": True, "bitwidths": (2, 3, 4, 5, 6, 8)}


def of(found: list[module.Candidate], name: str) -> dict[str, int]:
    return next(candidate.bits for candidate in found if candidate.name == name)


def test_candidates_fit_and_leave_nothing_that_would_help() -> None:
    made = session(BUDGET, **BEST)
    table, per_element = made.sensitivity(graph())
    found = candidates(graph(), made.problem, table, per_element)
    assert of(found, "uniform, 3 bits") == uniform(made.problem)
    assert of(found, "integer program") == ilp(made.problem, table, per_element=per_element)
    assert len({tuple(candidate.bits.values()) for candidate in found}) == len(found)
    for candidate in found:
        assert made.problem.fits(candidate.bits)
        if candidate.name != "uniform, 3 bits":
            assert filled(made.problem, candidate.bits, table, per_element) == candidate.bits


def test_what_cannot_be_had_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    made = session(BUDGET, **BEST)
    table, per_element = made.sensitivity(graph())

    def gives_up(*arguments: object, **options: object) -> None:
        raise SigmaQuantError("the solver ended without an optimal plan")

    monkeypatch.setattr(program, "ilp", gives_up)
    names = [candidate.name for candidate in candidates(graph(), made.problem, table, per_element)]
    assert "integer program" not in names
    assert "uniform, 3 bits" in names
    tight = replace(made.problem, upper={"size_bytes": made.problem.total(made.problem.lowest, "size_bytes") - 1})
    with pytest.raises(UnreachableBudgetError):
        candidates(graph(), tight, table, per_element)


def test_the_rest_is_spent_where_it_helps_most() -> None:
    size = {name: {2: 2.0, 4: 4.0, 8: 8.0} for name in "abc"}
    choices, elements = dict.fromkeys("abc", (2, 4, 8)), dict.fromkeys("abc", 8)
    problem = SearchProblem(choices, {"size_bytes": size}, {}, {"size_bytes": 12.0}, elements)
    harm = {"a": {2: 9.0, 4: 5.0, 8: 0.0}, "b": {2: 1.0, 4: 0.5, 8: 0.4}, "c": {2: 0.1, 4: 0.2, 8: 0.3}}
    assert filled(problem, dict.fromkeys("abc", 2), harm, False) == {"a": 8, "b": 2, "c": 2}
    problem = replace(problem, upper={"size_bytes": 14.0})
    assert filled(problem, dict.fromkeys("abc", 2), harm, False) == {"a": 8, "b": 4, "c": 2}


def test_the_search_begins_from_the_best_and_ends_no_worse() -> None:
    search = driver(BUDGET, **BEST)
    search.run()
    steps = search.search_state.recorder.lines
    measured = [step for step in steps if step["move"] == "candidate"]
    start = next(step for step in steps if step["move"] == "start")
    assert len(measured) >= 3
    assert not any(step["violations"] for step in measured)
    assert start["divergence"] == min(step["divergence"] for step in measured)
    assert start["changes"]["candidate"] in [step["changes"]["candidate"] for step in measured]
    assert search.state.measured == {}
    # Rounded with compensation, every rival is still no better than what is returned.
    for rival in search.state.rivals:
        student = search.search_state.session.student()
        student.apply(
            search.search_state.session.plan(dict(zip(search.search_state.problem.layers, rival, strict=True)))
        )
        student.compensate()
        assert search.search_state.session.search_judge(student.network).divergence >= search.state.divergence - 1e-12


@pytest.mark.parametrize("step", [1, 3])
def test_a_search_that_was_stopped_among_its_candidates_goes_on_with_the_others(step: int) -> None:
    whole = driver(BUDGET, **BEST)
    whole.run()
    number, tensors, meta = whole.search_state.recorder.states[step - 1]
    rest = Memory((number, tensors, meta))
    resumed = driver(BUDGET, rest, **BEST)
    resumed.run()
    assert without_seconds(rest.lines) == without_seconds(whole.search_state.recorder.lines[step:])
    assert tiny.same_tensors(resumed.student.tensors(), whole.student.tensors())


def test_with_training_cycles_the_start_is_trained_like_every_move() -> None:
    search = driver(BUDGET, **{**BEST, "post_training": False})
    search.run()
    moves = [step["move"] for step in search.search_state.recorder.lines]
    assert moves.index("start") == moves.count("candidate")
    assert search.search_state.recorder.states[moves.index("start")][2]["trained_examples"] == 100


def test_clusters_alone_are_the_published_start_and_that_of_an_accuracy_alone() -> None:
    for budget, options in ((BUDGET, {**BEST, "start": "sigma"}), (Budget(accuracy="-2 %"), BEST)):
        search = driver(budget, **options)
        search.run()
        assert search.search_state.recorder.lines[0]["move"] == "cluster"
