"""Codes that only change their place; so do floats behind the last integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from sigmaquant.export.onnx.translation import UNSIGNED, Translation, translate
from sigmaquant.lowering.model import IntegerModel
from sigmaquant.operators import Edge, Move, Operator, Pad, Permute, Reshape, Slice, Take

_SMALL_BLOCK = 16
"""Gather copies blocks, one entry of the axis with all that follows it; below so many bytes, slices that are joined are
faster (3 to 60 times on blocks of one byte), unless there are many."""
_MOST_PARTS = 8


@translate.register
def _(operator: Reshape, to: Translation) -> None:
    to.reshaped(to.codes[operator.inputs[0]], operator.shape, to.codes[operator.output])


@translate.register
def _(operator: Permute, to: Translation) -> None:
    axes = [0, *(axis + 1 for axis in operator.axes)]
    to.builder.node(
        "Transpose", [to.codes[operator.inputs[0]]], to.codes[operator.output], name=operator.name, perm=axes
    )


@translate.register
def _(operator: Slice, to: Translation) -> None:
    codes, output = to.codes[operator.inputs[0]], to.codes[operator.output]
    _sliced(codes, operator.axis, range(operator.start, operator.stop, operator.step), to, output, operator.name)


@translate.register
def _(operator: Pad, to: Translation) -> None:
    edge, builder = to.edge(operator), to.builder
    sides = builder.integers(0, *operator.before, 0, *operator.after)
    if edge.is_float:
        zero = builder.constant(np.array(0, np.float32), "zero")
    else:
        zero = to.zero_point(edge.zero_point + UNSIGNED)
    builder.node("Pad", [to.codes[edge.name], sides, zero], to.codes[operator.output], name=operator.name)


@translate.register
def _(operator: Take, to: Translation) -> None:
    edge, builder = to.edge(operator), to.builder
    codes, output, axis = to.codes[edge.name], to.codes[operator.output], operator.axis
    if edge.shape[axis] == 1:
        shape = [1] * (len(edge.shape) + 1)
        shape[axis + 1] = len(operator.indices)
        builder.node("Expand", [codes, builder.integers(*shape)], output, name=operator.name)
        return
    if prod(edge.shape[axis + 1 :]) < _SMALL_BLOCK:
        repeats = _repeats(operator, edge)
        if 1 < repeats <= _MOST_PARTS:
            _repeated(operator, repeats, to)
            return
        runs = _runs(operator.indices)
        if len(runs) <= _MOST_PARTS:
            _joined(operator, runs, to)
            return
    indices = builder.constant(np.array(operator.indices, np.int32), f"{operator.name}.indices")
    builder.node("Gather", [codes, indices], output, name=operator.name, axis=axis + 1)


def _sliced(codes: str, axis: int, part: range, to: Translation, output: str = "", name: str = "") -> str:
    """The indices of a range along an axis, which may run backwards."""
    stop = part[-1] + (1 if part.step > 0 else -1)
    # below the first index there is no index, and -1 is the last one
    window = (part.start, stop if stop >= 0 else -(2**31), axis + 1, part.step)
    inputs = [codes, *(to.builder.integers(value) for value in window)]
    return to.builder.node("Slice", inputs, output, name=name, hint=f"{codes}.part")


def _runs(indices: Sequence[int]) -> list[range]:
    """The indices as ranges one after the other."""
    found: list[range] = []
    place = 0
    while place < len(indices):
        first, step, end = indices[place], 1, place + 1
        if end < len(indices) and indices[end] != first:
            step = indices[end] - first
            while end < len(indices) and indices[end] == first + step * (end - place):
                end += 1
        found.append(range(first, first + step * (end - place), step))
        place = end
    return found


def _joined(operator: Take, runs: Sequence[range], to: Translation) -> None:
    codes, output = to.codes[operator.inputs[0]], to.codes[operator.output]
    if len(runs) == 1:
        _sliced(codes, operator.axis, runs[0], to, output, operator.name)
        return
    whole = range(to.edge(operator).shape[operator.axis])
    parts = [codes if run == whole else _sliced(codes, operator.axis, run, to) for run in runs]
    to.builder.node("Concat", parts, output, name=operator.name, axis=operator.axis + 1)


def _repeats(operator: Take, edge: Edge) -> int:
    """How many times in a row each index is taken, if it is as many times for all of them; else 0."""
    size = edge.shape[operator.axis]
    times, rest = divmod(len(operator.indices), size)
    expected = tuple(index for index in range(size) for _ in range(times))
    return times if not rest and operator.indices == expected else 0


def _repeated(operator: Take, times: int, to: Translation) -> None:
    """Copies along a new axis after the one that is repeated."""
    edge = to.edge(operator)
    rest = prod(edge.shape[operator.axis + 1 :])
    columns = to.reshaped(to.codes[edge.name], (prod(edge.shape[: operator.axis + 1]), 1, rest))
    copies = to.builder.node("Concat", [columns] * times, name=operator.name, hint=f"{operator.name}.copies", axis=2)
    to.reshaped(copies, to.model.edges[operator.output].shape, to.codes[operator.output])


@dataclass(frozen=True)
class Enlargement(Move):
    """Images twice as high and wide, every code four times: the runtime has a kernel for that, 2 to 5 times as fast."""


@translate.register
def _(operator: Enlargement, to: Translation) -> None:
    factors = to.builder.constant(np.array([1, 1, 2, 2], np.float32), "factors")
    inputs = [to.codes[operator.inputs[0]], "", factors]
    places = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    to.builder.node("Resize", inputs, to.codes[operator.output], name=operator.name, mode="nearest", **places)


def with_enlargements(model: IntegerModel) -> IntegerModel:
    """Every pair of steps that doubles both axes of images as one, where nothing else reads what is between them."""
    readers = Counter(name for operator in model.operators for name in operator.inputs)
    readers.update(model.outputs)
    found: list[Operator] = []
    for operator in model.operators:
        last = found[-1] if found else None
        if (
            isinstance(last, Take)
            and isinstance(operator, Take)
            and operator.inputs == (last.output,)
            and readers[last.output] == 1
            and {_doubled(last, model), _doubled(operator, model)} == {1, 2}
        ):
            found[-1] = Enlargement(last.name, last.inputs, operator.output)
        else:
            found.append(operator)
    return replace(model, operators=tuple(found))


def _doubled(operator: Take, model: IntegerModel) -> int:
    """The axis of an image that a step doubles; 0 where it does something else."""
    edge = model.edges[operator.inputs[0]]
    image = len(edge.shape) == 3 and edge.has_grid
    return operator.axis if image and _repeats(operator, edge) == 2 else 0
