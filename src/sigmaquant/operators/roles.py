"""Roles that operators play whatever their arguments are; each family says which its own have.

They are asked about values that never lie on a grid: weights on their way to a product, denominators, variances.
"""

from __future__ import annotations

from enum import Enum

from torch import fx

from sigmaquant.exported.nodes import operator


class Role(Enum):
    """What is asked of an operator by its name alone."""

    MOVES_WEIGHTS = "moves, cuts or repeats values of its first operand and changes none: a weight stays a weight"
    MEASURES = "denominators, variances and lengths are made of it"
    STEEP = "a step of its input near zero is many of its result: eight bits would leave nothing of the input"


_NAMES: dict[Role, set[str]] = {role: set() for role in Role}


def plays(role: Role, *names: str) -> None:
    """Say that operators have a role, by their names in ``torch.ops.aten`` without overload and in-place underscore."""
    again = _NAMES[role] & set(names)
    assert not again, f"{again} have been said to play {role.name} before"
    _NAMES[role].update(names)


def has_role(node: fx.Node, role: Role) -> bool:
    """Whether the operator that a node calls plays a role."""
    return node.op == "call_function" and operator(node).removesuffix("_") in _NAMES[role]


def moves_weight(node: fx.Node) -> bool:
    """Whether a node only moves, cuts or repeats its first operand, which is another node."""
    return has_role(node, Role.MOVES_WEIGHTS) and bool(node.args) and isinstance(node.args[0], fx.Node)
