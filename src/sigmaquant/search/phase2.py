"""Phase 2, one decision: which layers to move next, from costs, sensitivities and whether the accuracy is high enough.

- A cost is over its limit: demote where the least harm is done per unit saved of the binding cost.
- Costs fit, accuracy below the floor: promote where most harm is undone per unit of cost, and demote elsewhere to pay.
- All met: nothing, or with the objective ``"smallest"`` demote further.

The driver trains, measures, and accepts the move or makes its plan tabu. Nothing here remembers anything.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from sigmaquant.errors import SigmaQuantError
from sigmaquant.search.problem import (
    Assignment,
    Bits,
    Ledger,
    SearchProblem,
    Sensitivity,
    layer_totals,
    worth,
)

Kind = Literal["demote", "promote", "exchange"]
Objective = Literal["feasible", "smallest"]

_PAYMENTS = 3
"""How many ways of paying for one promotion are tried when the first ones are tabu."""
_ROUNDING = 1e-12
"""Part of the total harm below which an exchange is no improvement but a rounding error, and could go in circles."""


@dataclass(frozen=True)
class Move:
    """A proposed change of a plan.

    Attributes:
        kind: ``"demote"`` (only fewer bits), ``"promote"`` (only more bits) or ``"exchange"`` (both).
        changes: layer -> (bitwidth before, bitwidth after), for the layers that change.
        bits: the resulting bitwidth of every layer.
        harm: predicted change of the summed sensitivity; below zero is an improvement.
    """

    kind: Kind
    changes: Mapping[str, tuple[int, int]]
    bits: Mapping[str, int]
    harm: float


def propose(
    problem: SearchProblem,
    bits: Bits,
    sensitivity: Sensitivity,
    *,
    accuracy_met: bool | None,
    objective: Objective = "feasible",
    count: int = 1,
    tabu: AbstractSet[Assignment] = frozenset(),
    per_element: bool = True,
) -> Move | None:
    """The next move of phase 2, or None when all is met or every move is tabu.

    A demotion goes to the next lower bitwidth that saves the binding cost (the limited one with the largest cost/limit
    ratio, looked up anew after every step) and takes no other over its limit; over the limit it goes on until
    all fits or `count` layers have moved, and then gives back what turned out not to be needed. A promotion goes
    to the next higher bitwidth with less harm. What a promotion exceeds is paid for by demoting other layers; the
    exchange must lower the summed sensitivity. When nothing is limited, a layer's cost is its weight bits.

    Where a proposal is tabu, in this order: the same with half as many layers, down to one; then one layer at a time
    down the ranking, and for an exchange a few other ways of paying. None means that all of these are used up.

    Ties go to the layer that comes first in the problem; between promotions to the one with fewer bits before that.

    Args:
        problem: choices, costs and limits.
        bits: the present plan.
        sensitivity: harm by layer and bitwidth, measured on the present weights.
        accuracy_met: whether the accuracy floor holds; None where there is no floor, which counts as met. A driver that
            wants the most accurate plan within the limits passes False although there is no floor.
        objective: ``"feasible"`` stops when all is met; ``"smallest"`` goes on demoting.
        count: largest number of layers to demote or to promote at once, at least 1; paying for promotions moves more.
        tabu: rejected plans as `SearchProblem.key` gives them; none of them is proposed.
        per_element: True where `sensitivity` is per weight and must be multiplied by the number of weights, False
            where it is a layer's total.

    Raises:
        PlanError: `bits` does not fit the problem.
        SigmaQuantError: a count below 1, or a sensitivity that is missing or not finite.

    Example:
        >>> size = {"conv": {2: 10.0, 4: 20.0}, "fc": {2: 30.0, 4: 60.0}}
        >>> choices, elements = {"conv": (2, 4), "fc": (2, 4)}, {"conv": 40, "fc": 120}
        >>> problem = SearchProblem(choices, {"size_bytes": size}, {}, {"size_bytes": 70.0}, elements)
        >>> divergence = {"conv": {2: 0.5, 4: 0.1}, "fc": {2: 0.3, 4: 0.1}}
        >>> move = propose(problem, {"conv": 4, "fc": 4}, divergence, accuracy_met=True)
        >>> move.kind, move.changes
        ('demote', {'fc': (4, 2)})
        >>> propose(problem, move.bits, divergence, accuracy_met=True) is None
        True
    """
    if count < 1:
        raise SigmaQuantError(f"count is {count}; a move needs at least one layer.")
    problem.key(bits)
    decision = _Decision(problem, bits, layer_totals(problem, sensitivity, per_element), tabu)
    if not decision.start.fits():
        moves = decision.demote_to_fit(count)
    elif accuracy_met is False:
        moves = decision.promote(count)
    elif objective == "smallest":
        moves = decision.demote_further(count)
    else:
        return None
    return next(moves, None)


@dataclass(frozen=True)
class _Step:
    """One layer to one other bitwidth."""

    name: str
    bits: int


_Entry = tuple[float, int, str, int, int]
"""A demotion in a queue: harm per unit saved, the layer's index and name, bitwidth before and after."""


class _Decision:
    """One call of `propose`: its inputs and what is computed once for all candidates."""

    def __init__(
        self, problem: SearchProblem, bits: Bits, harm: Mapping[str, Mapping[int, float]], tabu: AbstractSet[Assignment]
    ) -> None:
        self.problem = problem
        self.origin = dict(bits)
        self.start = Ledger(problem, bits)
        self.harm = harm
        self.tabu = tabu
        self._index = {name: index for index, name in enumerate(problem.choices)}
        self._downs: dict[tuple[str, int, str | None], list[tuple[float, int]]] = {}

    def demote_to_fit(self, count: int) -> Iterator[Move]:
        """Moves from a plan that exceeds a limit."""
        for size in _halving(count):
            ledger = self.start.copy()
            self._demote(ledger, most_layers=size)
            yield from self._moves(ledger)
        yield from self._single_demotions()

    def demote_further(self, count: int) -> Iterator[Move]:
        """Moves from a plan that meets everything: one step for each layer."""
        ranked = self._ranked_demotions()
        for size in _halving(min(count, len(ranked))):
            ledger = self._after(ranked[:size])
            if ledger.fits():  # each step alone does
                yield from self._moves(ledger)
        yield from self._single_demotions()

    def promote(self, count: int) -> Iterator[Move]:
        """Moves from a plan that fits but is not accurate enough."""
        ranked = self._ranked_promotions()
        expected = [
            step for step in ranked if self.harm[step.name][step.bits] < self.harm[step.name][self.origin[step.name]]
        ]
        for size in _halving(min(count, len(expected))):
            yield from self._paid(expected[:size])
        for step in ranked:
            yield from self._paid([step])

    def _single_demotions(self) -> Iterator[Move]:
        for step in self._ranked_demotions():
            yield from self._moves(self._after([step]))

    def _ranked_demotions(self) -> list[_Step]:
        """The next demotion of every layer that has one, least harm per unit of the binding cost first."""
        resource = self.start.binding()
        downs = ((name, self._down(self.start, name, resource)) for name in self.origin)
        ranked = sorted((down[0], self._index[name], name, down[1]) for name, down in downs if down is not None)
        return [_Step(name, lower) for _, _, name, lower in ranked]

    def _ranked_promotions(self) -> list[_Step]:
        """The next promotion of every layer that has one, most harm undone per unit of the binding cost first.

        Layers that the table expects nothing of come last, and are moved one at a time only: the table is a prediction,
        and they may still be worth a try where they need no payment.
        """
        resource, ranked = self.start.binding(), []
        for name, bits in self.origin.items():
            higher = [b for b in self.problem.choices[name] if b > bits]
            if not higher:
                continue
            target = next((b for b in higher if self.harm[name][b] < self.harm[name][bits]), higher[0])
            gain = self.harm[name][bits] - self.harm[name][target]
            cost = self.problem.price(resource, name, target) - self.problem.price(resource, name, bits)
            ranked.append((-worth(gain, cost), -gain, target, self._index[name], name))
        return [_Step(name, target) for *_, target, _, name in sorted(ranked)]

    def _down(self, ledger: Ledger, name: str, resource: str | None) -> tuple[float, int] | None:
        """The layer's next demotion from where `ledger` has it: (harm per unit saved, bitwidth)."""
        bits = ledger.bits[name]
        key = (name, bits, resource)
        if key not in self._downs:  # remembered, since every candidate asks
            # A demotion that the table calls an improvement is ranked by the same rule: most gain per unit saved.
            self._downs[key] = [
                ((self.harm[name][lower] - self.harm[name][bits]) / self._saved(name, bits, lower, resource), lower)
                for lower in self.problem.cheaper(name, bits, resource)
            ]
        return next((down for down in self._downs[key] if ledger.spares(name, down[1])), None)

    def _saved(self, name: str, bits: int, lower: int, resource: str | None) -> float:
        return self.problem.price(resource, name, bits) - self.problem.price(resource, name, lower)

    def _demote(self, ledger: Ledger, most_layers: float, keep: AbstractSet[str] = frozenset()) -> None:
        """Demote in place until everything fits, `most_layers` have moved, or nothing is left to demote."""
        queues: dict[str | None, list[_Entry]] = {}
        moved: set[str] = set()
        while not ledger.fits():
            resource = ledger.binding()
            queue = queues.setdefault(resource, [])
            while queue and not self._stands(ledger, queue[0]):
                name, bits = heapq.heappop(queue)[2:4]
                if ledger.bits[name] == bits:  # the step would take another cost over its limit by now
                    self._push(queue, ledger, name, resource)
            if not queue:  # not begun, or the steps that are left were ruled out when there was less slack
                for name in self.origin:
                    if name not in keep:
                        self._push(queue, ledger, name, resource)
            if not queue:
                break
            _, _, name, _, lower = queue[0]
            if name not in moved and len(moved) >= most_layers:
                break
            ledger.set(name, lower)
            moved.add(name)
            for other, entries in queues.items():
                self._push(entries, ledger, name, other)
        if ledger.fits():
            self._give_back(ledger, moved)

    def _stands(self, ledger: Ledger, entry: _Entry) -> bool:
        _, _, name, bits, lower = entry
        return ledger.bits[name] == bits and ledger.spares(name, lower)

    def _push(self, queue: list[_Entry], ledger: Ledger, name: str, resource: str | None) -> None:
        down = self._down(ledger, name, resource)
        if down is not None:
            heapq.heappush(queue, (down[0], self._index[name], name, ledger.bits[name], down[1]))

    def _give_back(self, ledger: Ledger, moved: AbstractSet[str]) -> None:
        """Undo the demotions that a later, larger one has made unnecessary; the most harmful first."""
        harm = self.harm
        undone = sorted(
            moved,
            key=lambda name: (harm[name][self.origin[name]] - harm[name][ledger.bits[name]], self._index[name]),
        )
        for name in undone:
            # Slack only shrinks here, so that one look at each layer is enough.
            origin = self.origin[name]
            for bits in reversed(self.problem.choices[name]):
                if ledger.bits[name] < bits <= origin and ledger.fits_with(name, bits):
                    if harm[name][bits] < harm[name][ledger.bits[name]]:
                        ledger.set(name, bits)
                    break

    def _paid(self, promotions: Sequence[_Step]) -> Iterator[Move]:
        """The promotions with demotions of other layers where a limit requires them."""
        keep = {step.name for step in promotions}
        for _ in range(_PAYMENTS):
            ledger = self._after(promotions)
            if not ledger.fits():
                self._demote(ledger, math.inf, keep)
            paying = [name for name in self.origin if ledger.bits[name] < self.origin[name]]
            if not ledger.fits() or (paying and not self._improves(ledger)):
                return
            yield from self._moves(ledger)
            if not paying:
                return
            # Tabu: let the layer that paid most keep its bits, and ask the others.
            keep.add(min(paying, key=lambda name: (ledger.bits[name] - self.origin[name], self._index[name])))

    def _after(self, steps: Sequence[_Step]) -> Ledger:
        ledger = self.start.copy()
        for step in steps:
            ledger.set(step.name, step.bits)
        return ledger

    def _change(self, ledger: Ledger) -> float:
        """Predicted change of the summed sensitivity."""
        return math.fsum(
            self.harm[name][bits] - self.harm[name][self.origin[name]]
            for name, bits in ledger.bits.items()
            if bits != self.origin[name]
        )

    def _improves(self, ledger: Ledger) -> bool:
        scale = math.fsum(abs(self.harm[name][bits]) for name, bits in self.origin.items())
        return self._change(ledger) < -_ROUNDING * scale

    def _moves(self, ledger: Ledger) -> Iterator[Move]:
        """The plan as a move, unless it is tabu or changes nothing."""
        changes = {name: (self.origin[name], bits) for name, bits in ledger.bits.items() if bits != self.origin[name]}
        if not changes or self.problem.key(ledger.bits) in self.tabu:
            return
        up, down = any(b > a for a, b in changes.values()), any(b < a for a, b in changes.values())
        kind: Kind = "exchange" if up and down else "promote" if up else "demote"
        yield Move(kind, changes, dict(ledger.bits), self._change(ledger))


def _halving(count: int) -> Iterator[int]:
    """`count`, half of it, and so on down to 1; nothing for 0.

    Example:
        >>> list(_halving(6)), list(_halving(0))
        ([6, 3, 1], [])
    """
    while count >= 1:
        yield count
        count //= 2
