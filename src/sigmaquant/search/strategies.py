"""The strategies by name. A strategy is one typed callable; `register` adds a user's own.

Example:
    >>> @register("all-lowest")
    ... def all_lowest(problem: SearchProblem, evidence: Evidence) -> dict[str, int]:
    ...     return dict(problem.lowest)
    >>> find_strategy("all-lowest") is all_lowest
    True
    >>> del STRATEGIES["all-lowest"]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sigmaquant.errors import SigmaQuantError, near_matches
from sigmaquant.search.greedy import GreedyProgress, Loss, greedy
from sigmaquant.search.problem import SearchProblem, Sensitivity
from sigmaquant.search.random_search import random_plan
from sigmaquant.search.uniform import uniform


@dataclass(frozen=True)
class Evidence:
    """What a strategy may decide by. Whoever calls one fills in what it needs.

    Attributes:
        sensitivity: harm by layer and bitwidth; None for a strategy that was registered as one that does not read it.
        per_element: whether `sensitivity` is per weight.
        loss: calibration loss of a plan, or None; expensive.
        seed: for strategies that draw.
        progress: told of every upgrade of the strategy ``"greedy"``.
    """

    sensitivity: Sensitivity | None = None
    per_element: bool = True
    loss: Loss | None = None
    seed: int = 0
    progress: Callable[[GreedyProgress], None] | None = None


class Strategy(Protocol):
    """Bitwidths for a problem: within all limits and every layer's choices, or `UnreachableBudgetError`."""

    def __call__(self, problem: SearchProblem, evidence: Evidence, /) -> dict[str, int]:
        """Decide."""


STRATEGIES: dict[str, Strategy] = {}
"""Every known strategy by name."""

_WITHOUT_SENSITIVITY: set[str] = set()

_S = TypeVar("_S", bound=Strategy)


def register(name: str, *, sensitivity: bool = True) -> Callable[[_S], _S]:
    """Decorator that adds a strategy under a new name.

    Args:
        name: of the strategy.
        sensitivity: whether it reads `Evidence.sensitivity`; where it does not, none is measured for it.

    Raises:
        SigmaQuantError: the name is taken.
    """
    if name in STRATEGIES:
        raise SigmaQuantError(f"there is already a strategy {name!r}. Register yours under another name.")

    def add(strategy: _S) -> _S:
        STRATEGIES[name] = strategy
        (_WITHOUT_SENSITIVITY.discard if sensitivity else _WITHOUT_SENSITIVITY.add)(name)
        return strategy

    return add


def needs_sensitivity(name: str) -> bool:
    """Whether a strategy reads the sensitivity table, as was said when it was registered."""
    return name not in _WITHOUT_SENSITIVITY


def find_strategy(name: str) -> Strategy:
    """The strategy of that name.

    Raises:
        SigmaQuantError: there is none; the near matches are listed.

    Example:
        >>> find_strategy("unifrom")
        Traceback (most recent call last):
        sigmaquant.errors.SigmaQuantError: there is no strategy 'unifrom'. Did you mean 'uniform'?
    """
    if name not in STRATEGIES:
        raise SigmaQuantError(f"there is no strategy {name!r}. {near_matches(name, STRATEGIES)}")
    return STRATEGIES[name]


@register("uniform", sensitivity=False)
def _uniform(problem: SearchProblem, evidence: Evidence) -> dict[str, int]:
    return uniform(problem)


@register("ilp")
def _ilp(problem: SearchProblem, evidence: Evidence) -> dict[str, int]:
    from sigmaquant.search.ilp import ilp  # only here: scipy's solver takes half a second to import

    if evidence.sensitivity is None:
        raise SigmaQuantError("the strategy 'ilp' needs a sensitivity table, but none was measured.")
    return ilp(problem, evidence.sensitivity, per_element=evidence.per_element)


@register("greedy", sensitivity=False)
def _greedy(problem: SearchProblem, evidence: Evidence) -> dict[str, int]:
    if evidence.loss is None:
        raise SigmaQuantError("the strategy 'greedy' needs a loss to measure plans with, but none was given.")
    return greedy(problem, evidence.loss, evidence.progress)


@register("random", sensitivity=False)
def _random(problem: SearchProblem, evidence: Evidence) -> dict[str, int]:
    return random_plan(problem, evidence.seed)
