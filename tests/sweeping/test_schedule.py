"""The order of a sweep, as numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sigmaquant.sweeping.schedule import nearest, next_budget

LIMITS = {"6x": [60.0], "8x": [45.0], "10x": [36.0], "16x": [22.5]}


def test_one_worker_goes_from_the_loosest_to_the_tightest() -> None:
    pending, finished, order = set(LIMITS), [], []
    while pending:
        budget = next_budget(sorted(pending), [], finished, LIMITS)
        order.append((budget, nearest(budget, finished, LIMITS)))
        pending.remove(budget)
        finished.append(budget)
    assert order == [("6x", None), ("8x", "6x"), ("10x", "8x"), ("16x", "10x")]


def test_two_workers_begin_at_the_ends() -> None:
    assert next_budget(["8x", "10x", "16x"], ["6x"], [], LIMITS) == "16x"
    assert next_budget(["8x", "10x"], ["16x"], ["6x"], LIMITS) == "8x"


def test_of_two_equally_near_ones_the_looser_is_the_start() -> None:
    assert nearest("b", ["c", "a"], {"a": [40.0], "b": [20.0], "c": [10.0]}) == "a"


def test_two_limits_count_alike() -> None:
    limits = {"a": [40.0, 1.0], "b": [40.0, 4.0], "c": [20.0, 4.0], "d": [10.0, 1.0]}
    assert next_budget(sorted(limits), [], [], limits) == "b"
    assert nearest("d", ["a", "b", "c"], limits) == "a"


@given(st.dictionaries(st.text(min_size=1), st.tuples(st.floats(1e-3, 1e9)), min_size=2), st.data())
def test_always_one_that_waits_and_a_start_that_is_finished(
    limits: dict[str, tuple[float]], data: st.DataObject
) -> None:
    names = data.draw(st.permutations(sorted(limits)))
    cut = data.draw(st.integers(1, len(names) - 1))
    pending, finished = names[:cut], names[cut:]
    chosen = next_budget(pending, [], finished, limits)
    assert chosen in pending
    assert nearest(chosen, finished, limits) in finished
