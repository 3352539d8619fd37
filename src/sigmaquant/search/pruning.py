"""Channels and bitwidths chosen together: what is removed before the search, such that both fit into one budget.

Harms of removal are measured, those of bitwidths are estimated, both as distances of the outputs in the same unit. For
every step of removal good bitwidths are found anew: channels go first where a limit is out of the bitwidths' reach, and
then as long as what is freed buys more in bitwidths than it costs.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sigmaquant.budget import label
from sigmaquant.errors import UnreachableBudgetError
from sigmaquant.graph.specs import LayerSpec, QuantGraph
from sigmaquant.plan import Removed
from sigmaquant.pruning.groups import ChannelGroup, merged
from sigmaquant.search.problem import SearchProblem, Sensitivity, layer_totals

_STEPS = 8
"""Removals that are looked at: multiples of this part of a group."""
_MEASURED = 3
_CANDIDATES = 8
"""Steps that are compared with the bitwidths after them; the others are ruled out by what they free for their harm."""


@dataclass(frozen=True)
class GroupHarm:
    """What removing channels of one group costs.

    Attributes:
        group: the group.
        order: its units, what is missed least first.
        harm: distance of the outputs by the number of units that are gone, where it was measured.
        counts: numbers of units that may go.
    """

    group: ChannelGroup
    order: tuple[int, ...]
    harm: Mapping[int, float]
    counts: tuple[int, ...]

    def at(self, count: int) -> float:
        """The harm of a number of units: a power law between those that were measured; 0 of none."""
        if count == 0:
            return 0.0
        known = sorted(self.harm)
        below = max((k for k in known if k <= count), default=known[0])
        above = min((k for k in known if k >= count), default=known[-1])
        low, high = (max(self.harm[k], 1e-9) for k in (below, above))
        if below == above:
            return low * (count / below) ** 2
        return float(low * (high / low) ** (math.log(count / below) / math.log(above / below)))

    def removed(self, count: int) -> Removed:
        """What goes."""
        return self.group.removed(self.order[:count])


def allowed_counts(units: int, share: float) -> tuple[int, ...]:
    """Numbers of units that may go of a group.

    Example:
        >>> allowed_counts(16, 0.5), allowed_counts(3, 0.5)
        ((2, 4, 6, 8), (1,))
    """
    most = min(units - 1, math.floor(units * share + 1e-9))
    return tuple(sorted({n for step in range(1, _STEPS + 1) if 0 < (n := round(units * step / _STEPS)) <= most}))


def measured_counts(counts: Sequence[int]) -> tuple[int, ...]:
    """Those of them whose harm is measured: a few, the largest among them.

    Example:
        >>> measured_counts((2, 4, 6, 8))
        (2, 6, 8)
    """
    if len(counts) <= _MEASURED:
        return tuple(counts)
    places = {round(i * (len(counts) - 1) / (_MEASURED - 1)) for i in range(_MEASURED)}
    return tuple(counts[place] for place in sorted(places))


def choose_removal(
    graph: QuantGraph,
    problem: SearchProblem,
    sensitivity: Sensitivity,
    harms: Sequence[GroupHarm],
) -> dict[str, int]:
    """How many units of each group go.

    Args:
        graph: of the whole network.
        problem: bitwidths, their costs and the limits, of the whole network; ``"macs"`` among the costs of every layer.
        sensitivity: estimated harm of each layer's bitwidths, a layer's total.
        harms: measured harm of removals.

    Raises:
        UnreachableBudgetError: not even the largest removals and lowest bitwidths fit.
    """
    choice = _Choice(graph, problem, sensitivity, harms)
    counts = dict.fromkeys((harm.group.name for harm in harms), 0)
    while choice.excess(counts) > 0:
        steps = choice.steps(counts)
        before, total = choice.excess(counts), choice.total(counts)
        gains = {step: before - choice.excess({**counts, **dict([step])}) for step in steps}
        useful = [step for step in steps if gains[step] > 0]
        if not useful:
            raise UnreachableBudgetError(choice.explain(counts))
        useful.sort(
            key=lambda step: -gains[step] / max(1e-9, choice.harm(*step) - choice.harm(step[0], counts[step[0]]))
        )

        def worth(step: tuple[str, int], before_total: float = total, gained: Mapping[tuple[str, int], float] = gains,
                  now: Mapping[str, int] = counts) -> float:  # fmt: skip
            added = choice.total({**now, **dict([step])}) - before_total
            return gained[step] / added if added > 0 else math.inf if added == 0 else -added * 1e12

        name, count = max(useful[:_CANDIDATES], key=worth)
        counts[name] = count
    while True:
        total = choice.total(counts)
        steps = sorted(
            choice.steps(counts), key=lambda step: choice.harm(*step) - choice.harm(step[0], counts[step[0]])
        )
        tried = [(choice.total({**counts, **dict([step])}), step) for step in steps[:_CANDIDATES]]
        if not tried or min(tried)[0] >= total * (1 - 1e-4):
            return counts
        name, count = min(tried)[1]
        counts[name] = count


class _Choice:
    def __init__(
        self, graph: QuantGraph, problem: SearchProblem, sensitivity: Sensitivity, harms: Sequence[GroupHarm]
    ) -> None:
        self._graph, self._problem = graph, problem
        self._harms = {harm.group.name: harm for harm in harms}
        self._quantized = layer_totals(problem, sensitivity, per_element=False)
        self._lost: dict[str, dict[tuple[str, str], float]] = {}  # positions of a module's side for each unit
        for name, harm in self._harms.items():
            table: dict[tuple[str, str], float] = {}
            for unit in harm.group.units:
                for owner, role, _ in unit:
                    table[owner, role] = table.get((owner, role), 0.0) + 1 / len(harm.group.units)
            self._lost[name] = table
        self._totals: dict[tuple[int, ...], float] = {}

    def harm(self, name: str, count: int) -> float:
        return self._harms[name].at(count)

    def steps(self, counts: Mapping[str, int]) -> list[tuple[str, int]]:
        """The next larger removal of every group."""
        found = []
        for name, harm in self._harms.items():
            larger = [count for count in harm.counts if count > counts[name]]
            if larger:
                found.append((name, larger[0]))
        return found

    def _shares(self, spec: LayerSpec, counts: Mapping[str, int]) -> tuple[float, float]:
        """What is left of a layer's outputs and inputs."""
        axis = spec.channel_axis
        outs = spec.weight_shape[axis] * (spec.groups if axis == 1 else 1)
        ins = spec.weight_shape[1 - axis] * (spec.groups if axis == 0 else 1)
        lost = [sum(counts[name] * table.get((spec.name, role), 0.0) for name, table in self._lost.items())
                for role in ("outputs", "inputs")]  # fmt: skip
        depthwise = spec.groups > 1 and outs == ins == spec.groups
        return 1 - lost[0] / outs, 1.0 if depthwise else 1 - lost[1] / ins

    def scaled(self, counts: Mapping[str, int]) -> tuple[SearchProblem, dict[str, dict[int, float]]]:
        """The problem of the smaller network, and what its bitwidths cost."""
        shares = {spec.name: self._shares(spec, counts) for spec in self._graph.layers}
        left = {name: out * into for name, (out, into) in shares.items()}
        outs = {spec.name: spec.channels for spec in self._graph.layers}
        width = sum(outs[name] * shares[name][0] for name in outs) / sum(outs.values())
        costs = {
            resource: {name: {b: c * left[name] for b, c in row.items()} for name, row in table.items()}
            for resource, table in self._problem.costs.items()
        }
        fixed = {key: value * (width if key == "size_bytes" else 1.0) for key, value in self._problem.fixed.items()}
        elements = {name: max(1, round(n * left[name])) for name, n in self._problem.elements.items()}
        harm = {name: {b: h * left[name] for b, h in row.items()} for name, row in self._quantized.items()}
        return replace(self._problem, costs=costs, fixed=fixed, elements=elements), harm

    def excess(self, counts: Mapping[str, int]) -> float:
        """By how much limits are exceeded at the lowest bitwidths."""
        problem, _ = self.scaled(counts)
        return math.fsum(max(0.0, ratio - 1) for ratio in problem.ratios(problem.lowest).values())

    def total(self, counts: Mapping[str, int]) -> float:
        """Harm of removals and of the bitwidths that are best then; of the lowest ones where none fit."""
        key = tuple(counts.values())
        if key not in self._totals:
            problem, harm = self.scaled(counts)
            bits = upgraded(problem, harm)
            removal = math.fsum(self.harm(name, count) for name, count in counts.items())
            self._totals[key] = removal + math.fsum(harm[name][b] for name, b in bits.items())
        return self._totals[key]

    def explain(self, counts: Mapping[str, int]) -> str:
        problem, _ = self.scaled(counts)
        over = {name: ratio for name, ratio in problem.ratios(problem.lowest).items() if ratio > 1}
        worst = max(over, key=lambda name: over[name])
        return (
            f"even without all the channels that may be removed the {label(worst)} is {over[worst]:.2f} times its "
            "limit. Raise the limit or the largest share (prune), or pin fewer layers."
        )


def upgraded(problem: SearchProblem, harm: Mapping[str, Mapping[int, float]]) -> dict[str, int]:
    """Good bitwidths in well under a millisecond a layer: from the lowest, what gains most for its share of the limits.

    The integer program finds the best ones, but hundreds of networks are compared here.

    Example:
        >>> size = {"conv": {2: 10.0, 4: 20.0}, "fc": {2: 30.0, 4: 60.0}}
        >>> choices, elements = {"conv": (2, 4), "fc": (2, 4)}, {"conv": 40, "fc": 120}
        >>> problem = SearchProblem(choices, {"size_bytes": size}, {}, {"size_bytes": 70.0}, elements)
        >>> upgraded(problem, {"conv": {2: 0.5, 4: 0.1}, "fc": {2: 0.3, 4: 0.1}})
        {'conv': 4, 'fc': 2}
    """
    bits = problem.lowest
    movable = problem.movable
    left = {resource: problem.upper[resource] - problem.total(bits, resource) for resource in movable}
    if min(left.values(), default=0.0) < 0:
        return bits

    def price(name: str, now: int, then: int, resource: str) -> float:
        return problem.costs[resource][name][then] - problem.costs[resource][name][now]

    def best(name: str) -> tuple[float, str, int] | None:
        now = bits[name]
        found = []
        for then in problem.choices[name]:
            gain = harm[name][now] - harm[name][then]
            prices = {resource: price(name, now, then, resource) for resource in movable}
            if then > now and gain > 0 and all(added <= left[resource] for resource, added in prices.items()):
                share = sum(added / problem.upper[resource] for resource, added in prices.items())
                found.append((-gain / max(share, 1e-12), name, then))
        return min(found, default=None)

    queue = [step for name in problem.choices if (step := best(name)) is not None]
    heapq.heapify(queue)
    while queue:
        worth, name, _ = heapq.heappop(queue)
        again = best(name)  # what is left may not do any more
        if again is None:
            continue
        if again[0] > worth:
            heapq.heappush(queue, again)
            continue
        for resource in movable:
            left[resource] -= price(name, bits[name], again[2], resource)
        bits[name] = again[2]
        if (following := best(name)) is not None:
            heapq.heappush(queue, following)
    return bits


def all_removed(harms: Sequence[GroupHarm], counts: Mapping[str, int]) -> dict[str, dict[str, tuple[int, ...]]]:
    """What goes altogether."""
    return merged(harm.removed(counts[harm.group.name]) for harm in harms if counts[harm.group.name])
