"""Plans that can be had without training: what a search measures once each, to begin from the best of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import get_args

from sigmaquant.errors import SigmaQuantError
from sigmaquant.graph.specs import QuantGraph
from sigmaquant.search.phase1 import cluster_to_budget
from sigmaquant.search.phase2 import propose
from sigmaquant.search.problem import Bits, Ledger, SearchProblem, Sensitivity, layer_totals, worth
from sigmaquant.search.uniform import uniform
from sigmaquant.statistics import SigmaVariant, layer_sigmas

_log = logging.getLogger("sigmaquant")


@dataclass(frozen=True)
class Candidate:
    """A plan within all limits, and where it comes from.

    Attributes:
        name: for people.
        bits: weight bitwidth by layer.
    """

    name: str
    bits: dict[str, int]


def candidates(
    graph: QuantGraph, problem: SearchProblem, sensitivity: Sensitivity, per_element: bool
) -> list[Candidate]:
    """The widest uniform plan that fits, the integer program's, and clusters of all three kinds of σ; each plan once.

    Clusters land near the limits: they are demoted by sensitivity until they fit, and spend what is left of the limits
    by sensitivity, as a copy of the uniform plan does. What cannot be had (no uniform bitwidth fits, the solver gives
    up, BatchNorm has no statistics) is left out.

    Args:
        graph: the float network.
        problem: choices, costs and limits.
        sensitivity: harm by layer and bitwidth.
        per_element: whether that is per weight.

    Raises:
        UnreachableBudgetError: no plan at all meets the limits.
    """
    found: dict[tuple[int, ...], Candidate] = {}
    problems: list[SigmaQuantError] = []
    clusters = [partial(_clusters, variant) for variant in get_args(SigmaVariant)]
    sources: list[Callable[[QuantGraph, SearchProblem, Sensitivity, bool], Iterator[Candidate]]]
    sources = [_uniform, _program, *clusters]
    for make in sources:
        try:
            for candidate in make(graph, problem, sensitivity, per_element):
                if problem.fits(candidate.bits):
                    found.setdefault(problem.key(candidate.bits), candidate)
        except SigmaQuantError as error:
            problems.append(error)
            _log.info("not a candidate: %s", error)
    if not found:
        raise problems[0]
    return list(found.values())


def _uniform(
    graph: QuantGraph, problem: SearchProblem, sensitivity: Sensitivity, per_element: bool
) -> Iterator[Candidate]:
    bits = uniform(problem)
    name = f"uniform, {'/'.join(map(str, sorted(set(bits.values()))))} bits"
    yield Candidate(name, bits)
    yield Candidate(f"{name}, the rest by sensitivity", filled(problem, bits, sensitivity, per_element))


def _program(
    graph: QuantGraph, problem: SearchProblem, sensitivity: Sensitivity, per_element: bool
) -> Iterator[Candidate]:
    from sigmaquant.search.ilp import ilp  # only here: scipy's solver takes half a second to import

    yield Candidate("integer program", ilp(problem, sensitivity, per_element=per_element))


def _clusters(
    variant: SigmaVariant, graph: QuantGraph, problem: SearchProblem, sensitivity: Sensitivity, per_element: bool
) -> Iterator[Candidate]:
    bits: Bits = cluster_to_budget(layer_sigmas(graph, variant), problem).bits
    if not problem.fits(bits):
        move = propose(
            problem, bits, sensitivity, accuracy_met=None, count=len(problem.choices), per_element=per_element
        )
        bits = bits if move is None else move.bits
    if problem.fits(bits):
        yield Candidate(f"clusters of σ, {variant}", filled(problem, bits, sensitivity, per_element))


def filled(problem: SearchProblem, bits: Bits, sensitivity: Sensitivity, per_element: bool) -> dict[str, int]:
    """What is left of the limits spent: again and again the promotion that undoes most harm for its cost, if it fits.

    Example:
        >>> size = {"conv": {2: 10.0, 4: 20.0}, "fc": {2: 30.0, 4: 60.0}}
        >>> choices, elements = {"conv": (2, 4), "fc": (2, 4)}, {"conv": 40, "fc": 120}
        >>> problem = SearchProblem(choices, {"size_bytes": size}, {}, {"size_bytes": 70.0}, elements)
        >>> filled(problem, {"conv": 2, "fc": 2}, {"conv": {2: 0.5, 4: 0.1}, "fc": {2: 0.3, 4: 0.1}}, False)
        {'conv': 4, 'fc': 2}
    """
    harm: Mapping[str, Mapping[int, float]] = layer_totals(problem, sensitivity, per_element)
    ledger = Ledger(problem, bits)
    while True:
        resource = ledger.binding()
        best: tuple[float, str, int] | None = None
        for name, present in ledger.bits.items():
            for higher in problem.choices[name]:
                gain = harm[name][present] - harm[name][higher]
                if higher <= present or gain <= 0 or not ledger.fits_with(name, higher):
                    continue
                price = problem.price(resource, name, higher) - problem.price(resource, name, present)
                if best is None or worth(gain, price) > best[0]:
                    best = worth(gain, price), name, higher
        if best is None:
            return ledger.bits
        ledger.set(best[1], best[2])
