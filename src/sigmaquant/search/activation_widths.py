"""Widths of activations, chosen together with stand-ins for the weights' under limits that depend on both.

Bit operations are products of both widths, and peak memory a maximum over moments: neither is a sum over tensors, so
every move is priced by the cost model itself. Lowering the tensor whose loss is smallest for what it saves, then
raising again what still fits, is the whole search; that of the weights follows, with the activations found here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sigmaquant.budget import Cost, Limits
from sigmaquant.plan import BitwidthPlan

Choices = Mapping[str, tuple[int, ...]]
Harm = Mapping[str, Mapping[int, float]]

_ROUNDS = 16
"""So many moves are made on one pricing at most one in this many tensors; costs of others hardly change by them."""


@dataclass(frozen=True)
class _Move:
    role: str
    name: str
    bits: int
    harm: float


class _State:
    """A plan on its way down."""

    def __init__(self, plan: BitwidthPlan, choices: Mapping[str, Choices], harm: Mapping[str, Harm]) -> None:
        self.plan, self._choices, self._harm = plan, choices, harm

    def bits(self, role: str, name: str) -> int:
        """The present width."""
        return (self.plan.weights if role == "weight" else self.plan.activations)[name]

    def with_(self, move: _Move) -> BitwidthPlan:
        """The plan after a move."""
        change = {move.name: move.bits}
        return self.plan.with_weights(change) if move.role == "weight" else self.plan.with_activations(change)

    def moves(self, down: bool) -> list[_Move]:
        """To the next width, of every tensor that has one, with what it adds to the harm."""
        found = []
        for role, table in self._choices.items():
            for name, allowed in table.items():
                present = self.bits(role, name)
                others = [b for b in allowed if (b < present if down else b > present)]
                if others:
                    bits = max(others) if down else min(others)
                    row = self._harm[role].get(name, {})
                    found.append(_Move(role, name, bits, row.get(bits, 0.0) - row.get(present, 0.0)))
        return found


def choose_activation_widths(
    cost: Callable[[BitwidthPlan], Cost],
    limits: Limits,
    plan: BitwidthPlan,
    weights: Choices,
    activations: Choices,
    weight_harm: Harm,
    activation_harm: Harm,
) -> BitwidthPlan:
    """A plan within the limits whose widths do little harm, as far as the two tables tell.

    Args:
        cost: what a plan costs.
        limits: what is allowed.
        plan: any plan of the network; says which grids weights have.
        weights: allowed widths by layer, ascending.
        activations: allowed widths by activation, ascending.
        weight_harm: total harm of each layer at each width.
        activation_harm: likewise of each activation, in the same unit.

    Returns:
        The plan; where nothing fits, the one of the lowest widths.
    """
    plan = plan.with_weights({name: allowed[-1] for name, allowed in weights.items()})
    plan = plan.with_activations({name: allowed[-1] for name, allowed in activations.items()})
    state = _State(plan, {"weight": weights, "activation": activations}, {
        "weight": weight_harm, "activation": activation_harm,
    })  # fmt: skip

    def excess(of: BitwidthPlan) -> float:
        return sum(max(0.0, ratio - 1) for ratio in limits.ratios(cost(of)).values())

    present = excess(state.plan)
    while present > 0:
        moves = state.moves(down=True)
        if not moves:
            return state.plan
        saved = {move: present - excess(state.with_(move)) for move in moves}
        useful = [move for move in moves if saved[move] > 0]
        if useful:
            ranked = sorted(useful, key=lambda move: (max(move.harm, 0.0) / saved[move], -saved[move]))
        else:  # a maximum that several tensors share: one of them alone changes nothing
            free = [move for move in moves if saved[move] == 0]
            ranked = sorted(free or moves, key=lambda move: (move.role == "weight", move.harm))
        for move in ranked[: 1 + len(moves) // _ROUNDS]:
            state.plan = state.with_(move)
            present = excess(state.plan)
            if present <= 0:
                break
    _raise(state, excess)
    return state.plan


def _raise(state: _State, excess: Callable[[BitwidthPlan], float]) -> None:
    """Give back what still fits, where it helps most."""
    refused: set[tuple[str, str, int]] = set()
    while True:
        moves = [move for move in state.moves(down=False) if (move.role, move.name, move.bits) not in refused]
        if not moves:
            return
        best = min(moves, key=lambda move: move.harm)
        if excess(state.with_(best)) > 0:
            refused.add((best.role, best.name, best.bits))
        else:
            state.plan = state.with_(best)
