"""The search as plain numbers: which bitwidths each layer may have, what each costs, and what is allowed.

Strategies see this and a sensitivity table, never the model: each is a pure function that can be tested exhaustively.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from sigmaquant.errors import BudgetError, PlanError, SigmaQuantError
from sigmaquant.plan import check_bitwidth

Bits = Mapping[str, int]
"""Weight bitwidth by layer name."""

Assignment = tuple[int, ...]
"""Weight bitwidths in the order of `SearchProblem.layers`: a plan as something hashable."""

Sensitivity = Mapping[str, Mapping[int, float]]
"""Harm of quantizing a layer (by name) to a bitwidth, on any common scale: higher is worse, falls as bits grow."""


@dataclass(frozen=True)
class SearchProblem:
    """Layers, allowed bitwidths, additive costs and limits.

    Costs normally grow with the bitwidth, but nothing here relies on it: a kernel for 4 bits may be faster than one
    for 3, and a plateau (3 bits stored as 4) is common.

    Attributes:
        choices: allowed bitwidths of each layer, ascending; one entry for a pinned layer. Its keys are all layers.
        costs: resource -> layer -> bitwidth -> what that layer adds. Only limited resources need to be here.
        fixed: resource -> what everything else adds.
        upper: resource -> largest allowed total. Resources that do not depend on weight bitwidths have been checked.
        elements: number of weights of each layer.

    Raises:
        PlanError: no layer, a layer without a bitwidth, bitwidths outside 2..8 or not ascending, or no element count.
        BudgetError: a limit that is not a finite number above zero, or a limited resource without its costs.

    Example:
        >>> size = {"conv": {2: 10.0, 4: 20.0}, "fc": {2: 30.0, 4: 60.0}}
        >>> choices = {"conv": (2, 4), "fc": (2, 4)}
        >>> elements = {"conv": 40, "fc": 120}
        >>> problem = SearchProblem(choices, {"size_bytes": size}, {"size_bytes": 5.0}, {"size_bytes": 70.0}, elements)
        >>> problem.ratios({"conv": 4, "fc": 4})["size_bytes"] > 1, problem.fits({"conv": 4, "fc": 2})
        (True, True)
    """

    choices: Mapping[str, tuple[int, ...]]
    costs: Mapping[str, Mapping[str, Mapping[int, float]]]
    fixed: Mapping[str, float]
    upper: Mapping[str, float]
    elements: Mapping[str, int]

    def __post_init__(self) -> None:
        if not self.choices:
            raise PlanError("there is no layer to search over. The model needs at least one quantizable weight.")
        for name, allowed in self.choices.items():
            if not allowed:
                raise PlanError(f"layer {name!r} has no allowed bitwidth. Give it at least one of 2..8.")
            for bits in allowed:
                check_bitwidth(bits, f"layer {name!r}")
            if list(allowed) != sorted(set(allowed)):
                raise PlanError(f"layer {name!r}: the allowed bitwidths {allowed} must be ascending, each once.")
            if name not in self.elements:
                raise PlanError(f"layer {name!r} has no number of weights in `elements`.")
        for resource, limit in self.upper.items():
            if not math.isfinite(limit) or limit <= 0:
                raise BudgetError(f"the limit of {resource} is {limit!r}; it must be a finite number above zero.")
            table = self.costs.get(resource, {})
            for name, allowed in self.choices.items():
                missing = [bits for bits in allowed if bits not in table.get(name, {})]
                if missing:
                    raise BudgetError(
                        f"{resource} is limited, but layer {name!r} has no cost at {missing[0]} bits. "
                        "A limited resource needs the cost of every layer at every allowed bitwidth."
                    )

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all layers."""
        return tuple(self.choices)

    @property
    def bitwidths(self) -> tuple[int, ...]:
        """Every bitwidth that some layer may have, ascending."""
        return tuple(sorted({bits for allowed in self.choices.values() for bits in allowed}))

    @property
    def lowest(self) -> dict[str, int]:
        """Every layer at its lowest allowed bitwidth."""
        return {name: allowed[0] for name, allowed in self.choices.items()}

    def key(self, bits: Bits) -> Assignment:
        """The plan as something hashable, for caches and sets of rejected plans.

        Raises:
            PlanError: a layer without a bitwidth, or with one that it may not have.
        """
        for name, allowed in self.choices.items():
            if bits.get(name) not in allowed:
                raise PlanError(f"layer {name!r} is at {bits.get(name)} bits, but its allowed bitwidths are {allowed}.")
        return tuple(bits[name] for name in self.choices)

    def total(self, bits: Bits, resource: str) -> float:
        """The whole network's cost."""
        table = self.costs[resource]
        # The exactly rounded sum: whether a plan fits must not depend on the order of the layers.
        return math.fsum([self.fixed.get(resource, 0.0), *[table[name][bits[name]] for name in self.choices]])

    def ratios(self, bits: Bits) -> dict[str, float]:
        """Cost over limit for every limited resource."""
        return {resource: self.total(bits, resource) / limit for resource, limit in self.upper.items()}

    @cached_property
    def movable(self) -> tuple[str, ...]:
        """The limited resources that some layer's bitwidth changes: peak activation memory is none."""
        return tuple(
            resource
            for resource in self.upper
            if any(len({self.price(resource, name, b) for b in allowed}) > 1 for name, allowed in self.choices.items())
        )

    def binding(self, bits: Bits) -> str | None:
        """The limited resource with the largest cost/limit ratio of those that bitwidths change, or None."""
        return Ledger(self, bits).binding()

    def fits(self, bits: Bits) -> bool:
        """Whether every limit holds."""
        return all(ratio <= 1 for ratio in self.ratios(bits).values())

    def price(self, resource: str | None, name: str, bits: int) -> float:
        """What one layer adds to a resource; for None, when nothing is limited, its weight bits."""
        return float(self.elements[name] * bits) if resource is None else self.costs[resource][name][bits]

    def lower(self, name: str, bits: int) -> int | None:
        """The next lower allowed bitwidth of a layer, or None."""
        below = [b for b in self.choices[name] if b < bits]
        return below[-1] if below else None

    def higher(self, name: str, bits: int) -> int | None:
        """The next higher allowed bitwidth of a layer, or None."""
        above = [b for b in self.choices[name] if b > bits]
        return above[0] if above else None

    def cheaper(self, name: str, bits: int, resource: str | None) -> list[int]:
        """The lower allowed bitwidths of a layer that save `resource`, the highest first.

        On a plateau (3 bits stored as 4) the next lower bitwidth saves nothing, so it is passed over.
        """
        price = self.price(resource, name, bits)
        return [b for b in reversed(self.choices[name]) if b < bits and self.price(resource, name, b) < price]


class Ledger:
    """A plan that is being changed, with its limited costs kept up to date: O(resources) for a change.

    Example:
        >>> size = {"conv": {2: 10.0, 4: 20.0}}
        >>> problem = SearchProblem({"conv": (2, 4)}, {"size_bytes": size}, {}, {"size_bytes": 10.0}, {"conv": 40})
        >>> ledger = Ledger(problem, {"conv": 4})
        >>> ledger.fits(), ledger.binding()
        (False, 'size_bytes')
        >>> ledger.set("conv", 2)
        >>> ledger.fits()
        True
    """

    def __init__(self, problem: SearchProblem, bits: Bits) -> None:
        self.problem = problem
        self.bits = dict(bits)
        self._totals = {resource: problem.total(bits, resource) for resource in problem.upper}

    def copy(self) -> Ledger:
        """An independent copy."""
        other = object.__new__(Ledger)
        other.problem, other.bits, other._totals = self.problem, dict(self.bits), dict(self._totals)
        return other

    def set(self, name: str, bits: int) -> None:
        """Change one layer's bitwidth."""
        old = self.bits[name]
        self.bits[name] = bits
        for resource in self._totals:
            table = self.problem.costs[resource][name]
            self._totals[resource] += table[bits] - table[old]

    def _within(self, totals: Mapping[str, float]) -> bool:
        return all(totals[resource] / limit <= 1 for resource, limit in self.problem.upper.items())

    def fits(self) -> bool:
        """Whether every limit holds; exact, although the running totals carry rounding errors."""
        if any(abs(self._totals[resource] / limit - 1) < 1e-9 for resource, limit in self.problem.upper.items()):
            return self.problem.fits(self.bits)
        return self._within(self._totals)

    def fits_with(self, name: str, bits: int) -> bool:
        """Whether every limit would hold with one layer at another bitwidth."""
        old = self.bits[name]
        totals = dict(self._totals)  # put back as they were: a change and its reverse need not cancel exactly
        self.set(name, bits)
        try:
            return self.fits()
        finally:
            self.bits[name], self._totals = old, totals

    def spares(self, name: str, bits: int) -> bool:
        """Whether one layer's change takes no limited cost over its limit, and none that is over it further up.

        A cost need not fall with the bits: a device may have no fast path for 3 bits.
        """
        for resource, limit in self.problem.upper.items():
            table = self.problem.costs[resource][name]
            added = table[bits] - table[self.bits[name]]
            if added > 0 and self._totals[resource] + added > limit:
                return False
        return True

    def binding(self) -> str | None:
        """The limited resource with the largest cost/limit ratio of those that bitwidths change, or None."""
        upper, movable = self.problem.upper, self.problem.movable
        return max(movable, key=lambda resource: self._totals[resource] / upper[resource]) if movable else None


def layer_totals(problem: SearchProblem, sensitivity: Sensitivity, per_element: bool) -> dict[str, dict[int, float]]:
    """The harm of every allowed choice as a layer's total, checked.

    Args:
        problem: layers, choices and element counts.
        sensitivity: harm by layer and bitwidth; may hold more than the problem needs.
        per_element: True where the table is per weight (a divergence of a histogram): it is multiplied by the number
            of weights. False where it is a layer's total already (a loss, a Fisher-weighted error).

    Raises:
        SigmaQuantError: an allowed choice without a finite sensitivity.

    Example:
        >>> problem = SearchProblem({"conv": (2, 4)}, {}, {}, {}, {"conv": 40})
        >>> layer_totals(problem, {"conv": {2: 0.5, 4: 0.25}}, per_element=True)
        {'conv': {2: 20.0, 4: 10.0}}
    """
    result: dict[str, dict[int, float]] = {}
    for name, allowed in problem.choices.items():
        row = sensitivity.get(name, {})
        factor = problem.elements[name] if per_element else 1
        result[name] = {}
        for bits in allowed:
            value = row.get(bits, math.nan)
            if not math.isfinite(value):
                found = f"is {value!r}" if bits in row else "is missing"
                raise SigmaQuantError(
                    f"the sensitivity of layer {name!r} at {bits} bits {found}. The table needs a finite number for "
                    "every layer at every allowed bitwidth: measure it anew, or pin the layer."
                )
            result[name][bits] = value * factor
    return result


def worth(gain: float, cost: float) -> float:
    """How good a purchase is: gain per unit of cost, such that a higher number is always the better purchase.

    What is free ranks first, by its sign; a loss ranks by loss times cost, since dividing would make an expensive loss
    look better than a cheap one.

    Example:
        >>> worth(2.0, 4.0), worth(1.0, 0.0), worth(-2.0, 4.0)
        (0.5, inf, -8.0)
    """
    if cost <= 0:
        return math.inf if gain > 0 else (0.0 if gain == 0 else gain)
    return gain / cost if gain > 0 else gain * cost
