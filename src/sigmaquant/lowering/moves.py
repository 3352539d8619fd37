"""Moves that follow each other become one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

from sigmaquant.operators.edge import Edge
from sigmaquant.operators.movement import Permute, Reshape
from sigmaquant.operators.node import Operator


def merged_moves(
    operators: tuple[Operator, ...], edges: Mapping[str, Edge], kept: Collection[str]
) -> tuple[tuple[Operator, ...], dict[str, Edge]]:
    """The operators with reshapes of reshapes and permutations of permutations as one, and the edges that are left.

    Args:
        operators: in order.
        edges: by name.
        kept: names of edges that must stay: outputs, and activations that are compared with the network's.
    """
    readers = Counter(name for operator in operators for name in operator.inputs)
    found: list[Operator] = []
    place: dict[str, int] = {}
    for operator in operators:
        step, current = place.get(operator.inputs[0], -1) if operator.inputs else -1, operator
        before = found[step] if step >= 0 else None
        if before is not None and before.output not in kept and readers[before.output] == 1:
            if isinstance(operator, Reshape) and isinstance(before, Reshape):
                current = replace(operator, inputs=before.inputs)
            elif isinstance(operator, Permute) and isinstance(before, Permute):
                order = tuple(before.axes[axis] for axis in operator.axes)
                current = replace(operator, inputs=before.inputs, axes=order)
            if current is not operator:
                found[step] = current  # in the place of the first: what it reads is there already
                place[current.output] = step
                continue
        place[current.output] = len(found)
        found.append(current)
    written = {operator.output for operator in found} | {name for operator in found for name in operator.inputs}
    return tuple(found), {name: edge for name, edge in edges.items() if name in written or name in kept}
