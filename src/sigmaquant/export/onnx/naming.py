"""What the tensors of a file are called: its inputs, its outputs, and the values of every edge.

A function of the model alone, so that who has the model finds its activations in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sigmaquant.lowering.model import IntegerModel
from sigmaquant.operators.node import free_name


@dataclass(frozen=True)
class Names:
    """Names of tensors, each one given once.

    Attributes:
        inputs: of the file, in the model's order.
        outputs: of the file, in the model's order; an edge that is an output twice has two.
        values: by edge, the tensor that holds its codes, or its values where it is float.
        taken: all of them.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: Mapping[str, str]
    taken: frozenset[str]


def names(model: IntegerModel) -> Names:
    """The names of a model's file: those of its edges wherever they are free."""
    taken: set[str] = set()

    def named(name: str) -> str:
        found = free_name(name, taken)
        taken.add(found)
        return found

    inputs = tuple(named(edge) for edge in model.inputs)
    outputs = tuple(named(edge) for edge in model.outputs)
    values: dict[str, str] = {}
    for edge, tensor in (*zip(model.inputs, inputs, strict=True), *zip(model.outputs, outputs, strict=True)):
        if edge in model.edges and not model.edges[edge].has_grid and not model.edges[edge].batch_axis:
            values.setdefault(edge, tensor)  # what has no grid in the network is what the file takes or yields
    outer = {*model.inputs, *model.outputs}
    for edge in model.edges:
        if edge not in values:
            values[edge] = named(f"{edge}.codes" if edge in outer else edge)
    return Names(inputs, outputs, values, frozenset(taken))
