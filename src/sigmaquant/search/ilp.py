"""Exact: the least summed sensitivity within all limits, as a multiple-choice knapsack for HiGHS."""

from __future__ import annotations

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from sigmaquant.errors import SigmaQuantError
from sigmaquant.search.feasibility import check_reachable, unreachable
from sigmaquant.search.problem import SearchProblem, Sensitivity, layer_totals

_OBJECTIVE_SCALE = 1e6
"""The solver stops at an absolute gap of 1e-6: scaled to this, that is a relative one of 1e-12."""
_COST_SCALE = 1e3
"""The solver lets a row exceed its limit by 1e-6: scaled to this, by a part of 1e-9 of one layer's cost."""
_LARGEST_CUTS = 50


def ilp(
    problem: SearchProblem,
    sensitivity: Sensitivity,
    *,
    per_element: bool = True,
    relative_gap: float = 0.0,
    time_limit_s: float = 60.0,
) -> dict[str, int]:
    """The plan with the least summed sensitivity that meets every limit; exact, several limits at once.

    Before solving, a layer loses the bitwidths that another of its own makes pointless: no less harmful and no cheaper
    in any limited resource. Ties within a layer thus go to the cheaper bitwidth, and between bitwidths of equal harm
    and cost to the higher one. Between different plans of equal sum the solver's choice stands: it is the same on every
    run with the same version of scipy.

    Args:
        problem: choices, costs and limits.
        sensitivity: harm by layer and bitwidth.
        per_element: True where `sensitivity` is per weight and must be multiplied by the number of weights.
        relative_gap: accept a plan that is proven to be within this part of the optimum.
        time_limit_s: give up after so many seconds.

    Raises:
        UnreachableBudgetError: no plan meets every limit.
        SigmaQuantError: a sensitivity is missing or not finite, or the solver ended without an optimum.

    Example:
        >>> size = {"conv": {2: 10.0, 4: 20.0}, "fc": {2: 30.0, 4: 60.0}}
        >>> choices, elements = {"conv": (2, 4), "fc": (2, 4)}, {"conv": 40, "fc": 120}
        >>> problem = SearchProblem(choices, {"size_bytes": size}, {}, {"size_bytes": 70.0}, elements)
        >>> ilp(problem, {"conv": {2: 0.5, 4: 0.1}, "fc": {2: 0.3, 4: 0.1}})
        {'conv': 2, 'fc': 4}
    """
    harm = layer_totals(problem, sensitivity, per_element)
    check_reachable(problem)
    useful = {name: _undominated(problem, name, harm[name]) for name in problem.choices}
    decided = {name: options[0] for name, options in useful.items() if len(options) == 1}
    pairs = [(name, bits) for name, options in useful.items() if len(options) > 1 for bits in options]
    if not pairs:
        if not problem.fits(decided):
            raise unreachable(problem, "No plan meets all limits together.")
        return _in_order(problem, decided)
    objective = np.array([harm[name][bits] - min(harm[name].values()) for name, bits in pairs])
    objective *= _OBJECTIVE_SCALE / (objective.max() or 1.0)
    constraints = [_one_bitwidth_each(pairs), *_limits(problem, useful, pairs)]
    for _ in range(_LARGEST_CUTS):
        # HiGHS may print a line "transformNewIntegerFeasibleSolution" on standard output when it repairs a solution; no
        # option of scipy's silences it, and it does not mean an error.
        found = milp(
            objective,
            integrality=np.ones(len(pairs)),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": relative_gap, "time_limit": time_limit_s},
        )
        if found.status == 2 and not problem.fits(problem.lowest):  # else it errs: the lowest bitwidths are a plan
            raise unreachable(problem, "No plan meets all limits together.")
        if found.status != 0 or found.x is None:
            raise SigmaQuantError(
                f"the solver ended without an optimal plan: {str(found.message).strip()} "
                f"Use the strategy 'greedy' or 'sigma'; or call `ilp` with a time_limit_s above {time_limit_s:g} s."
            )
        chosen = found.x > 0.5
        bits = _in_order(problem, decided | dict(pair for pair, taken in zip(pairs, chosen, strict=True) if taken))
        if problem.fits(bits):
            return bits
        # Within the solver's tolerance but over a limit: forbid exactly this plan and solve again.
        constraints.append(LinearConstraint(csr_array(chosen[None].astype(float)), -np.inf, chosen.sum() - 1))
    raise SigmaQuantError(
        f"the solver offered {_LARGEST_CUTS} plans that exceed a limit by a rounding error. "
        "Change the limit by a millionth, or use the strategy 'greedy'."
    )


def _in_order(problem: SearchProblem, bits: dict[str, int]) -> dict[str, int]:
    return {name: bits[name] for name in problem.choices}


def _undominated(problem: SearchProblem, name: str, harm: dict[int, float]) -> list[int]:
    """The bitwidths of a layer that can be part of an optimum, ascending."""
    tables = [problem.costs[resource][name] for resource in problem.upper]
    kept: list[int] = []
    # Best first, so that whatever makes a bitwidth pointless has been kept before it is looked at.
    for bits in sorted(problem.choices[name], key=lambda b: (harm[b], [table[b] for table in tables], -b)):
        if not any(all(table[better] <= table[bits] for table in tables) for better in kept):
            kept.append(bits)
    return sorted(kept)


def _one_bitwidth_each(pairs: list[tuple[str, int]]) -> LinearConstraint:
    row_of = {name: row for row, name in enumerate(dict.fromkeys(name for name, _ in pairs))}
    rows = [row_of[name] for name, _ in pairs]
    matrix = csr_array((np.ones(len(pairs)), (rows, range(len(pairs)))), shape=(len(row_of), len(pairs)))
    return LinearConstraint(matrix, 1, 1)


def _limits(
    problem: SearchProblem, useful: dict[str, list[int]], pairs: list[tuple[str, int]]
) -> list[LinearConstraint]:
    """One row for each resource, as increments over the layers' cheapest bitwidths."""
    result = []
    for resource, limit in problem.upper.items():
        table = problem.costs[resource]
        cheapest = {name: min(options, key=lambda b, row=table[name]: row[b]) for name, options in useful.items()}  # type: ignore[misc]
        row = np.array([table[name][bits] - table[name][cheapest[name]] for name, bits in pairs])
        scale = _COST_SCALE / (row.max() or 1.0)
        slack = limit - problem.total(cheapest, resource)
        result.append(LinearConstraint(csr_array(row[None] * scale), -np.inf, slack * scale))
    return result
