"""What a budget can reach at all, and an error that says so before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from sigmaquant.budget import base_resource, label
from sigmaquant.errors import UnreachableBudgetError
from sigmaquant.search.problem import SearchProblem
from sigmaquant.units import format_bytes, format_count, parse_count, parse_energy_pj, parse_latency_ms, parse_size

_PARSERS: dict[str, Callable[[str], Any]] = {
    "size_bytes": parse_size,
    "energy_pj": parse_energy_pj,
    "latency_ms": parse_latency_ms,
    "bops": parse_count,
    "macs": parse_count,
    "ram_bytes": parse_size,
    "flash_bytes": parse_size,
}
_ENERGY = ((1e12, "J"), (1e9, "mJ"), (1e6, "uJ"), (1e3, "nJ"), (1.0, "pJ"))
_TIME = ((1e3, "s"), (1.0, "ms"), (1e-3, "us"), (1e-6, "ns"))


def format_cost(resource: str, value: float) -> str:
    """A cost for people, in its own unit.

    Example:
        >>> format_cost("size_bytes", 134168), format_cost("energy_pj", 2.5e6), format_cost("latency_ms", 0.02)
        ('134.2 KB', '2.5 uJ', '20 us')
    """
    resource = base_resource(resource)
    if resource in ("size_bytes", "ram_bytes", "flash_bytes"):
        return format_bytes(value)
    if resource in ("energy_pj", "latency_ms"):
        scale = _ENERGY if resource == "energy_pj" else _TIME
        factor, unit = next((entry for entry in scale if abs(value) >= entry[0]), scale[-1])
        return f"{value / factor:.4g} {unit}"
    return format_count(value)


def format_limit(resource: str, value: float) -> str:
    """A limit for people that the value fits into: what `format_cost` rounds down is rounded up.

    Example:
        >>> format_limit("size_bytes", 1231), format_limit("bops", 65520)
        ('1.3 KB', '65.52 k')
    """
    raised = value
    while _PARSERS[base_resource(resource)](text := format_cost(resource, raised)) < value:
        raised *= 1.005
    return text


def _distinct(resource: str, smallest: float, limit: float) -> tuple[str, str]:
    """Both quantities for people, or the bare numbers where rounding would show two equal texts."""
    texts = format_cost(resource, smallest), format_cost(resource, limit)
    if texts[0] != texts[1]:
        return texts
    unit = base_resource(resource).rpartition("_")[2]
    return f"{smallest!r} {unit}", f"{limit!r} {unit}"


def smallest_reachable(problem: SearchProblem) -> dict[str, float]:
    """The smallest total of each limited resource, each taken for itself.

    Example:
        >>> size = {"conv": {2: 10.0, 4: 20.0}}
        >>> fixed, upper = {"size_bytes": 3.0}, {"size_bytes": 15.0}
        >>> problem = SearchProblem({"conv": (2, 4)}, {"size_bytes": size}, fixed, upper, {"conv": 40})
        >>> smallest_reachable(problem)
        {'size_bytes': 13.0}
    """
    result = {}
    for resource in problem.upper:
        table = problem.costs[resource]
        smallest = [min(table[name][bits] for bits in allowed) for name, allowed in problem.choices.items()]
        result[resource] = math.fsum([problem.fixed.get(resource, 0.0), *smallest])
    return result


def check_reachable(problem: SearchProblem) -> None:
    """Raise unless every limit, taken for itself, can be met.

    Where costs grow with the bitwidth, as they nearly always do, the lowest bitwidths meet all limits together then;
    where they do not, `ilp` decides exactly.

    Raises:
        UnreachableBudgetError: with the smallest reachable cost, its limit, and what to do.
    """
    found = _each_for_itself(problem)
    if found:
        raise UnreachableBudgetError(found)


def _each_for_itself(problem: SearchProblem) -> str:
    return " ".join(
        _explain(problem, resource, smallest)
        for resource, smallest in smallest_reachable(problem).items()
        if smallest / problem.upper[resource] > 1
    )


def _explain(problem: SearchProblem, resource: str, smallest: float) -> str:
    what, limit = label(resource), problem.upper[resource]
    reachable, allowed = _distinct(resource, smallest, limit)
    said = f"the {what} limit of {allowed} cannot be met: the smallest reachable {what} is {reachable}."
    fixed = problem.fixed.get(resource, 0.0)
    if fixed >= limit:
        return f"{said} {format_cost(resource, fixed)} of it does not depend on any bitwidth. Raise the limit."
    remedies = []
    pinned = [name for name, choices in problem.choices.items() if len(choices) == 1 and choices[0] > 2]
    if any(len(choices) > 1 and choices[0] > 2 for choices in problem.choices.values()):
        lowest = max(choices[0] for choices in problem.choices.values() if len(choices) > 1)
        remedies.append(f"allow bitwidths below {lowest}")
    if pinned:
        # The pins that cost most are the ones worth giving up.
        pinned.sort(key=lambda name: -problem.price(resource, name, problem.choices[name][0]))
        shown = ", ".join(f"{name!r} ({problem.choices[name][0]} bits)" for name in pinned[:3])
        remedies.append(f"unpin {shown}{' or others' if len(pinned) > 3 else ''}")
    remedies.append(f"raise the limit to {format_limit(resource, smallest)} or more")
    text = ", or ".join(remedies)
    return f"{said} {text[0].upper()}{text[1:]}."


def unreachable(problem: SearchProblem, found: str) -> UnreachableBudgetError:
    """The most exact error there is for limits that cannot be met.

    Args:
        problem: whose limits cannot be met.
        found: what was found, as a full sentence; used where each limit for itself could be met.
    """
    costs = ", ".join(
        f"{label(resource)} {format_cost(resource, smallest)} (limit {format_cost(resource, problem.upper[resource])})"
        for resource, smallest in smallest_reachable(problem).items()
    )
    return UnreachableBudgetError(
        _each_for_itself(problem)
        or f"{found} Smallest reachable costs, each for itself: {costs}. "
        "Raise one of the limits, allow more bitwidths, or unpin layers."
    )


def lowest_that_fits(problem: SearchProblem) -> dict[str, int]:
    """The lowest bitwidths, where strategies that only upgrade begin.

    Raises:
        UnreachableBudgetError: they exceed a limit.
    """
    bits = problem.lowest
    if not problem.fits(bits):
        raise unreachable(problem, "The lowest allowed bitwidths exceed the limits.")
    return bits
