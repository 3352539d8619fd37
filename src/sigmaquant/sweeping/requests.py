"""What a sweep asks for: a budget and a strategy for each run, and the runs' names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sigmaquant.budget import RESOURCE, Budget, base_resource
from sigmaquant.errors import BudgetError


@dataclass(frozen=True)
class Request:
    """What one run is asked for.

    Attributes:
        budget: what is allowed.
        strategy: how the plan is searched; empty: as the sweep's settings say.
    """

    budget: Budget
    strategy: str = ""

    def text(self, swept: Sequence[str]) -> str:
        """Its limits of those that differ, as the user wrote them.

        Example:
            >>> Request(Budget(size="8x", latency="15 ms")).text(["size", "latency"])
            '8x, 15 ms'
        """
        given = self.budget.to_dict()
        return ", ".join(str(given[name]) for name in swept)


@dataclass(frozen=True)
class Requests:
    """All runs of a sweep.

    Attributes:
        swept: the one or two limits that differ; where only strategies do, the first one that is given.
        named: what each run is asked for, by the name of its folder.
    """

    swept: tuple[str, ...]
    named: Mapping[str, Request]

    @property
    def resources(self) -> tuple[str, ...]:
        """The costs that the swept limits limit, each at its operating point where it has one."""
        limited = next(iter(self.named.values())).budget.limited
        return tuple(next(cost for cost in limited if base_resource(cost) == RESOURCE[name]) for name in self.swept)

    def to_dict(self) -> dict[str, Any]:
        """For the sweep's configuration. Strategies stand there only where they are swept."""
        strategies = [request.strategy for request in self.named.values()]
        document: dict[str, Any] = {"budgets": [request.budget.to_dict() for request in self.named.values()]}
        return {**document, "strategies": strategies} if any(strategies) else document


def requests(budgets: Sequence[Budget], strategies: Sequence[str] = ()) -> Requests:
    """Every budget with every strategy.

    Args:
        budgets: which differ in one limit, or in two.
        strategies: none or one: that of the settings.

    Raises:
        BudgetError: fewer than two runs, two equal ones, more than two limits that differ, or none to draw.

    Example:
        >>> found = requests([Budget(size="6x"), Budget(size="134 KB")])
        >>> found.swept, list(found.named)
        (('size',), ['size-6x', 'size-134KB'])
        >>> two = [Budget(size="6x", latency="9 ms"), Budget(size="8x", latency="5 ms")]
        >>> list(requests(two, ["sigma", "ilp"]).named)[:2]
        ['sigma+size-6x+latency-9ms', 'ilp+size-6x+latency-9ms']
    """
    several = list(dict.fromkeys(strategies)) if len(strategies) > 1 else [""]
    if len(several) == 1 and len(strategies) > 1:
        raise BudgetError(f"the strategy {strategies[0]} stands twice. Give each once.")
    if len(budgets) * len(several) < 2:
        raise BudgetError(
            "a sweep needs two or more budgets, such as sizes 6x,8x,10x, or two or more strategies. For one, use "
            "quantize."
        )
    swept = _swept(budgets, len(several) > 1)
    if len({budget.limited for budget in budgets if set(swept) <= set(budget.to_dict())}) > 1:
        raise BudgetError("the budgets of a sweep name different operating points. Vary the limits at the same ones.")
    named: dict[str, Request] = {}
    for budget in budgets:
        document = budget.to_dict()
        for limit in swept:
            if limit not in document:
                raise BudgetError(f"one budget of the sweep has no {limit}, others have. Give it to all.")
        texts = [f"{limit}-{re.sub(r'[^A-Za-z0-9.+-]', '', str(document[limit]))}" for limit in swept]
        for strategy in several:
            name = "+".join((*filter(None, (strategy,)), *texts))
            if name in named:
                both = " and ".join(f"{limit}, {document[limit]}" for limit in swept)
                raise BudgetError(f"two budgets of the sweep have the same {both}. Give it once.")
            named[name] = Request(budget, strategy)
    return Requests(swept, named)


def _swept(budgets: Sequence[Budget], by_strategy: bool) -> tuple[str, ...]:
    """The limits that differ, in the order of `RESOURCE`."""
    given = [budget.to_dict() for budget in budgets]
    keys = dict.fromkeys((*RESOURCE, *sorted({key for document in given for key in document})))
    differ = [key for key in keys if len({repr(document.get(key)) for document in given}) > 1]
    if any(key not in RESOURCE for key in differ) or len(differ) > 2:
        raise BudgetError(
            f"the budgets of a sweep differ in {', '.join(differ)}. Vary one or two of {', '.join(RESOURCE)}, and keep "
            "everything else the same."
        )
    if differ:
        return tuple(differ)
    if len(budgets) > 1 or not by_strategy:
        raise BudgetError("all budgets of the sweep are equal. Give different ones.")
    limited = [key for key in RESOURCE if key in given[0]]
    if not limited:
        raise BudgetError(
            "several strategies are compared at a cost, and the budget limits none. Give one, such as size='8x'."
        )
    return (limited[0],)
