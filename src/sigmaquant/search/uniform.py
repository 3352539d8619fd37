"""Uniform bitwidths: the control that every mixed-precision result must be compared with."""

from __future__ import annotations

from sigmaquant.search.feasibility import unreachable
from sigmaquant.search.problem import SearchProblem


def uniform(problem: SearchProblem) -> dict[str, int]:
    """The largest single bitwidth that fits, for all layers.

    A restricted layer takes the nearest of its bitwidths at or below; one that has none there, its lowest.

    Raises:
        UnreachableBudgetError: no bitwidth fits.

    Example:
        >>> size = {"conv": {2: 2.0, 4: 4.0, 8: 8.0}, "fc": {2: 2.0, 4: 4.0, 8: 8.0}}
        >>> choices, elements = {"conv": (8,), "fc": (2, 4, 8)}, {"conv": 8, "fc": 8}
        >>> uniform(SearchProblem(choices, {"size_bytes": size}, {}, {"size_bytes": 13.0}, elements))
        {'conv': 8, 'fc': 4}
    """
    return uniform_at(problem, widest(problem))


def widest(problem: SearchProblem) -> int:
    """The bitwidth of `uniform`.

    Raises:
        UnreachableBudgetError: no bitwidth fits.
    """
    for target in reversed(problem.bitwidths):
        if problem.fits(uniform_at(problem, target)):
            return target
    raise unreachable(problem, "No uniform bitwidth meets all limits.")


def uniform_at(problem: SearchProblem, target: int) -> dict[str, int]:
    """One bitwidth for all layers, as far as they allow it."""
    return {
        name: max((b for b in allowed if b <= target), default=allowed[0]) for name, allowed in problem.choices.items()
    }
