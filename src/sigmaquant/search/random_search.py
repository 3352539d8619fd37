"""A random plan within the limits: the control that shows whether a strategy's choices matter at all."""

from __future__ import annotations

import numpy as np

from sigmaquant.search.feasibility import lowest_that_fits
from sigmaquant.search.problem import Ledger, SearchProblem


def random_plan(problem: SearchProblem, seed: int = 0) -> dict[str, int]:
    """A random plan that fits and that no single further upgrade leaves within the limits.

    It uses the budget as fully as the other strategies do, so that a comparison shows where the bits went and not how
    many there were. Starting at the lowest bitwidths, random layers are upgraded one step at a time for as long as one
    fits; each layer is drawn with its own random probability, or all plans would be nearly uniform ones.

    Args:
        problem: choices, costs and limits.
        seed: the same seed gives the same plan.

    Raises:
        UnreachableBudgetError: the lowest bitwidths exceed a limit.

    Example:
        >>> size = {name: {2: 2.0, 4: 4.0} for name in "abc"}
        >>> choices = {name: (2, 4) for name in "abc"}
        >>> problem = SearchProblem(choices, {"size_bytes": size}, {}, {"size_bytes": 9.0}, dict.fromkeys("abc", 8))
        >>> sorted(random_plan(problem, seed=1).values())
        [2, 2, 4]
    """
    generator = np.random.default_rng(seed)
    ledger = Ledger(problem, lowest_that_fits(problem))
    weights = dict(zip(problem.choices, generator.exponential(size=len(problem.choices)).tolist(), strict=True))
    while True:
        upgrades = {
            name: higher for name, bits in ledger.bits.items() if (higher := _upgrade(ledger, name, bits)) is not None
        }
        if not upgrades:
            return ledger.bits
        names = list(upgrades)
        odds = np.array([weights[name] for name in names])
        name = names[int(generator.choice(len(names), p=odds / odds.sum()))]
        ledger.set(name, upgrades[name])


def _upgrade(ledger: Ledger, name: str, bits: int) -> int | None:
    return next((b for b in ledger.problem.choices[name] if b > bits and ledger.fits_with(name, b)), None)
