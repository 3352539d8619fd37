"""Fewer moves: what keeps the order of the codes is a reshape, and reshapes in a row are one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from sigmaquant.lowering.model import IntegerModel
from sigmaquant.operators import Operator, Permute, Reshape


def with_fewer_moves(model: IntegerModel) -> IntegerModel:
    """The same network; edges between moves that are now one are written by no operator."""
    readers = Counter(name for operator in model.operators for name in operator.inputs)
    readers.update(model.outputs)
    writers: dict[str, int] = {}
    found: list[Operator | None] = []
    for operator in model.operators:
        if isinstance(operator, Permute) and _keeps_order(operator, model):
            shape = model.edges[operator.output].shape
            operator = Reshape(operator.name, operator.inputs, operator.output, shape)
        if isinstance(operator, Reshape):
            (source,) = operator.inputs
            place = writers.get(source)
            before = None if place is None else found[place]
            if place is not None and isinstance(before, Reshape) and readers[source] == 1:
                found[place] = None
                operator = replace(operator, inputs=before.inputs)
            writers[operator.output] = len(found)
        found.append(operator)
    return replace(model, operators=tuple(operator for operator in found if operator is not None))


def _keeps_order(operator: Permute, model: IntegerModel) -> bool:
    """Whether only axes of size one change their place; False where the shapes are no such ones."""
    shape, axes = model.edges[operator.inputs[0]].shape, operator.axes
    if sorted(axes) != list(range(len(shape))):
        return False
    moved = [axis for axis in axes if shape[axis] != 1]
    return moved == sorted(moved) and model.edges[operator.output].shape == tuple(shape[axis] for axis in axes)
