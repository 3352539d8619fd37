"""Parameters that no stock module owns, as places that take factors: whole ones, or parts of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from sigmaquant.exported.nodes import arguments, operator
from sigmaquant.exported.shapes import size_at_one
from sigmaquant.graph.numbers import FIXED, Numbers, Scaled
from sigmaquant.graph.parameters import ParameterLayer
from sigmaquant.operators.roles import moves_weight


@dataclass(frozen=True)
class Part:
    """An operand that is a parameter, cut or with its axes in another order.

    Attributes:
        module: name of the parameter's module.
        attribute: its name there.
        places: which of its elements each value is, int64, of the operand's shape.
    """

    module: str
    attribute: str
    places: Tensor


class FunctionalParameters:
    """Collects what linear operators do to such parameters.

    Args:
        module: a raised graph.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self._module = module
        self._numbers: dict[tuple[str, str], tuple[Tensor, Tensor, Tensor]] = {}  # read, made, whether it has any

    def places(self, node: object) -> Part | None:
        """An operand's place; None where it is no such parameter, or the parameter has other uses too."""
        chain: list[fx.Node] = []
        while isinstance(node, fx.Node) and moves_weight(node):
            chain.append(node)
            node = node.args[0]
        if not isinstance(node, fx.Node) or not _serves_linear_alone(node):
            return None
        if node.op == "call_module" and isinstance(self._module.get_submodule(str(node.target)), ParameterLayer):
            owner, attribute = str(node.target), "weight"
        elif node.op == "get_attr":
            owner, _, attribute = str(node.target).rpartition(".")
        else:
            return None
        value = getattr(self._module.get_submodule(owner), attribute, None)
        if not isinstance(value, nn.Parameter):
            return None
        moved = _moved(torch.arange(value.numel()).view(value.shape), chain)
        return None if moved is None else Part(owner, attribute, moved)

    def scale(self, numbers: Numbers, part: Part, read: Tensor, made: Tensor) -> None:
        """Note the numbers that a part reads and makes; what is used twice keeps the factor 1."""
        key = part.module, part.attribute
        if key not in self._numbers:
            count = self._module.get_submodule(part.module).get_parameter(part.attribute).numel()
            fixed = torch.full((count,), FIXED)
            self._numbers[key] = fixed, fixed.clone(), torch.zeros(count, dtype=torch.bool)
        known_read, known_made, used = self._numbers[key]
        flat = part.places.reshape(-1)
        pair = [numbers_.expand(part.places.shape).reshape(-1) for numbers_ in (read, made)]
        twice = used[flat]
        for known, new in zip((known_read, known_made), pair, strict=True):
            numbers.unite(known[flat[twice]], torch.tensor(FIXED))
            numbers.unite(new[twice], torch.tensor(FIXED))
            known[flat] = new
        used[flat] = True

    @property
    def scaled(self) -> list[Scaled]:
        """The parameters with their numbers."""
        found = []
        for (owner, attribute), (read, made, _) in self._numbers.items():
            shape = self._module.get_submodule(owner).get_parameter(attribute).shape
            found.append(Scaled(owner, attribute, read.view(shape), made.view(shape)))
        return found


def _serves_linear_alone(source: fx.Node) -> bool:
    """Whether a parameter is nothing but weights and biases of linear operators."""
    stack = [source]
    while stack:
        node = stack.pop()
        for user in node.users:
            if operator(user) == "linear":
                given = arguments(user)
                if given["input"] is node:
                    return False
            elif moves_weight(user) and user.args[0] is node:
                stack.append(user)
            else:
                return False
    return True


def _moved(places: Tensor, chain: Sequence[fx.Node]) -> Tensor | None:
    """Places sent through the moves, the last one first."""

    def plain(node: fx.Node) -> Any:
        size = node.meta["val"]
        return size_at_one(size) if isinstance(size, torch.SymInt) else size

    current: Any = places
    for node in reversed(chain):
        assert callable(node.target)
        rest = fx.node.map_arg(tuple(node.args[1:]), plain)
        try:
            current = node.target(current, *rest, **fx.node.map_arg(dict(node.kwargs), plain))
        except (RuntimeError, TypeError, IndexError):
            return None
    return current if isinstance(current, Tensor) else None
