"""The joint choice of channels and bitwidths, on made-up harms."""

from __future__ import annotations

import pytest

from sigmaquant.errors import UnreachableBudgetError
from sigmaquant.graph.specs import LayerSpec, QuantGraph
from sigmaquant.pruning.groups import ChannelGroup
from sigmaquant.search.problem import SearchProblem
from sigmaquant.search.pruning import GroupHarm, all_removed, allowed_counts, choose_removal

LAYERS = tuple(
    LayerSpec(name, "linear", f"{name}.weight", (outs, ins), 0, 1, False, outs * ins, (ins,), (outs,))
    for name, ins, outs in (("a", 8, 8), ("b", 8, 8), ("c", 8, 4))
)
GRAPH = QuantGraph(None, LAYERS)  # type: ignore[arg-type]


def group(one: str, other: str, harm: float) -> GroupHarm:
    units = tuple(((one, "outputs", k), (other, "inputs", k)) for k in range(8))
    counts = allowed_counts(8, 0.5)
    return GroupHarm(ChannelGroup(one, units), tuple(range(8)), {n: harm * n for n in (1, 4)}, counts)


def problem(size: float, macs: float) -> SearchProblem:
    choices = {spec.name: (2, 4, 8) for spec in LAYERS}
    costs = {
        "size_bytes": {s.name: {b: s.elements * b / 8 for b in (2, 4, 8)} for s in LAYERS},
        "macs": {s.name: dict.fromkeys((2, 4, 8), float(s.macs)) for s in LAYERS},
    }
    elements = {s.name: s.elements for s in LAYERS}
    return SearchProblem(choices, costs, {}, {"size_bytes": size, "macs": macs}, elements)


HARM = {s.name: {2: 1.0, 4: 0.1, 8: 0.0} for s in LAYERS}


def test_nothing_goes_where_it_buys_nothing():
    assert choose_removal(GRAPH, problem(1e6, 1e6), HARM, [group("a", "b", 0.01), group("b", "c", 0.01)]) == {
        "a": 0,
        "b": 0,
    }


def test_a_limit_of_macs_takes_the_channels_that_are_missed_least():
    found = choose_removal(GRAPH, problem(1e6, 112), HARM, [group("a", "b", 0.5), group("b", "c", 0.001)])
    assert found == {"a": 0, "b": 4}  # 64 + 32 + 16 multiply-accumulates are left
    assert all_removed([group("b", "c", 0.001)], {"b": 2}) == {"b": {"outputs": (0, 1)}, "c": {"inputs": (0, 1)}}


def test_channels_pay_for_bits():
    """At 2.5 bits a weight all layers but one would have 2 bits; half of the channels hardly matter."""
    kept = choose_removal(GRAPH, problem(50, 1e6), HARM, [group("a", "b", 10.0), group("b", "c", 10.0)])
    gone = choose_removal(GRAPH, problem(50, 1e6), HARM, [group("a", "b", 1e-4), group("b", "c", 1e-4)])
    assert kept == {"a": 0, "b": 0}
    assert gone["a"] == gone["b"] == 4


def test_the_largest_share_is_told_where_it_does_not_do():
    with pytest.raises(UnreachableBudgetError, match=r"multiply-accumulates is .* times its limit"):
        choose_removal(GRAPH, problem(1e6, 40), HARM, [group("a", "b", 0.1), group("b", "c", 0.1)])
