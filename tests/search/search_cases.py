"""Problems and sensitivity tables for the tests of the search, drawn by Hypothesis or built by hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from hypothesis import strategies as st

from sigmaquant.search.problem import SearchProblem

BITWIDTHS = (2, 3, 4, 5, 6, 7, 8)
HARMS = st.floats(0, 100, allow_nan=False).map(lambda value: round(value, 3))


def size_problem(
    elements: Mapping[str, int],
    limit: float | None,
    choices: Sequence[int] | Mapping[str, tuple[int, ...]] = (2, 4, 6, 8),
    fixed: float = 0.0,
) -> SearchProblem:
    """Bits of weights as the only cost, called size_bytes."""
    allowed = choices if isinstance(choices, Mapping) else {name: tuple(choices) for name in elements}
    size = {name: {b: float(count * b) for b in BITWIDTHS} for name, count in elements.items()}
    upper = {} if limit is None else {"size_bytes": limit}
    return SearchProblem(allowed, {"size_bytes": size}, {"size_bytes": fixed}, upper, elements)


def with_constant_cost(problem: SearchProblem, ratio: float) -> SearchProblem:
    """The same with a limit on what no bitwidth changes, such as peak activation memory."""
    ram = {name: dict.fromkeys(allowed, 0.0) for name, allowed in problem.choices.items()}
    return SearchProblem(
        problem.choices,
        {**problem.costs, "ram_bytes": ram},
        {**problem.fixed, "ram_bytes": 1000 * ratio},
        {**problem.upper, "ram_bytes": 1000.0},
        problem.elements,
    )


@st.composite
def problems(draw, most_layers: int = 5, resources: int = 2, monotone: bool = True) -> SearchProblem:
    """Small problems: restricted and pinned layers, several limits, integer and fractional costs, plateaus."""
    names = [f"layer{index}" for index in range(draw(st.integers(1, most_layers)))]
    subsets = st.lists(st.sampled_from(BITWIDTHS), min_size=1, max_size=4, unique=True).map(lambda b: tuple(sorted(b)))
    choices = {name: draw(subsets) for name in names}
    elements = {name: draw(st.integers(1, 50)) for name in names}
    costs, fixed, upper = {}, {}, {}
    for resource in ("size_bytes", "latency_ms", "energy_pj")[: draw(st.integers(0, resources))]:
        values = st.integers(0, 9).map(float) if draw(st.booleans()) else st.floats(0, 9).map(lambda v: round(v, 2))
        costs[resource] = {}
        for name in names:
            row = [draw(values) for _ in choices[name]]
            costs[resource][name] = dict(zip(choices[name], sorted(row) if monotone else row, strict=True))
        fixed[resource] = draw(values)
        least = fixed[resource] + sum(min(row.values()) for row in costs[resource].values())
        most = fixed[resource] + sum(max(row.values()) for row in costs[resource].values())
        upper[resource] = max(least + draw(st.floats(-0.1, 1.1)) * (most - least), 0.5)
    return SearchProblem(choices, costs, fixed, upper, elements)


@st.composite
def problems_with_harm(draw, most_layers: int = 5, resources: int = 2, monotone: bool = True):
    """A problem, a table of layer totals, and any plan."""
    problem = draw(problems(most_layers, resources, monotone))
    harm = {}
    for name, allowed in problem.choices.items():
        row = [draw(HARMS) for _ in allowed]
        harm[name] = dict(zip(allowed, sorted(row, reverse=True) if monotone else row, strict=True))
    bits = {name: draw(st.sampled_from(allowed)) for name, allowed in problem.choices.items()}
    return problem, harm, bits


def every_plan(problem: SearchProblem) -> Iterator[dict[str, int]]:
    for combination in itertools.product(*problem.choices.values()):
        yield dict(zip(problem.choices, combination, strict=True))


def total_harm(harm: Mapping[str, Mapping[int, float]], bits: Mapping[str, int]) -> float:
    return sum(harm[name][b] for name, b in bits.items())
