"""Codes that only change their place: views wherever strides allow it, else copies."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from sigmaquant.export.c.elementwise import rescale
from sigmaquant.export.c.layout import Loop, View
from sigmaquant.export.c.translate import Translation, emit, rounding_offset
from sigmaquant.operators import Concatenation, Pad, Permute, Reshape, Slice, Take

_MOST_RUNS = 4
"""Copies that are worth more than a table of indices."""


@emit.register
def _(operator: Reshape, to: Translation) -> None:
    x, shape = to.whole(operator), to.shape(operator)
    view = x.reshaped(shape)
    if view is None:  # the codes must first lie in the model's own order
        copy = to.program.buffer(x.shape)
        to.copy(operator.name, x, copy)
        view = copy.reshaped(shape)
    assert view is not None, "a copy has no gaps"
    to.alias(operator, view)


@emit.register
def _(operator: Permute, to: Translation) -> None:
    lead = to.lead(operator)
    to.alias(operator, to.whole(operator).permuted((*range(lead), *(axis + lead for axis in operator.axes))))


@emit.register
def _(operator: Slice, to: Translation) -> None:
    axis = operator.axis + to.lead(operator)
    size = to.shape(operator)[axis]
    to.alias(operator, to.whole(operator).sliced(axis, operator.start, operator.step, size))


@emit.register
def _(operator: Pad, to: Translation) -> None:
    x, lead = to.whole(operator), to.lead(operator)
    y = to.output_whole(operator, x.dense_for(to.shape(operator)))
    to.step(operator.name, "sq_fill", {"count": y.count, "value": to.input_zero(operator)}, (), y)
    inside = y
    for axis, before in enumerate(operator.before, lead):
        inside = inside.sliced(axis, before, 1, x.shape[axis])
    to.copy(operator.name, x, inside)


@emit.register
def _(operator: Take, to: Translation) -> None:
    x, axis = to.whole(operator), operator.axis + to.lead(operator)
    runs = _runs(operator.indices)
    if len(runs) == 1:  # a flip, a repetition of one index
        start, step, size = runs[0]
        to.alias(operator, x.sliced(axis, start, step, size))
        return
    y = to.output_whole(operator, x.dense_for(to.shape(operator)))
    if (grid := _grid(operator.indices)) is not None:  # each index several times, or all of them
        sizes, steps = grid
        source = x.split(axis, sizes, steps, operator.indices[0])
        to.copy(operator.name, source, y.split(axis, sizes, (sizes[1], 1), 0))
    elif len(runs) <= _MOST_RUNS:  # a roll, a reflection
        place = 0
        for start, step, size in runs:
            to.copy(operator.name, x.sliced(axis, start, step, size), y.sliced(axis, place, 1, size))
            place += size
    else:
        _by_table(operator, to, x, y, axis)


def _runs(indices: Sequence[int]) -> list[tuple[int, int, int]]:
    """Pieces of even steps: first index, step, and how many.

    Example:
        >>> _runs([2, 1, 0, 0, 1, 2, 3]), _runs([5]), _runs([3, 3, 3])
        ([(2, -1, 3), (0, 1, 4)], [(5, 1, 1)], [(3, 0, 3)])
    """
    found: list[tuple[int, int, int]] = []
    for index in indices:
        start, step, size = found[-1] if found else (0, 0, 0)
        if size == 1:
            found[-1] = (start, index - start, 2)
        elif size and index == start + size * step:
            found[-1] = (start, step, size + 1)
        else:
            found.append((index, 1, 1))
    return found


def _grid(indices: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Sizes and steps of two loops that walk along the indices from the first one; None where none do.

    Example:
        >>> _grid([0, 0, 1, 1, 2, 2]), _grid([4, 5, 4, 5]), _grid([0, 2, 3])
        (((3, 2), (1, 0)), ((2, 2), (0, 1)), None)
    """
    count = len(indices)
    step = indices[1] - indices[0]
    inner = 1 + sum(1 for _ in itertools.takewhile(lambda pair: pair[1] - pair[0] == step, itertools.pairwise(indices)))
    if count % inner or inner == count:
        return None
    outer = indices[inner] - indices[0]
    expected = [indices[0] + i * outer + j * step for i in range(count // inner) for j in range(inner)]
    return ((count // inner, inner), (outer, step)) if expected == list(indices) else None


def _by_table(operator: Take, to: Translation, x: View, y: View, axis: int) -> None:
    """A copy whose outermost loop goes by a table of places."""
    table = np.array(operator.indices, dtype=np.int64) * x.strides[axis]
    offsets = to.table(operator.name, "offsets", table.astype(np.int32))
    rest = [a for a in range(len(x.shape)) if a != axis]
    shape = tuple(x.shape[a] for a in rest)
    strides = {f"{key}_stride": tuple(view.strides[a] for a in rest) for key, view in (("x", x), ("y", y))}
    taken = Loop(len(operator.indices), (0, y.strides[axis]))
    to.strided(operator.name, "sq_take", shape, strides, {"offsets": offsets}, (x, y), outermost=taken)


@emit.register
def _(operator: Concatenation, to: Translation) -> None:
    inputs = [to.whole(operator, k) for k in range(len(operator.inputs))]
    axis, out = operator.axis + to.lead(operator), to.edge(operator.output)
    like = next((view for view in inputs if view.is_dense), inputs[0])
    y = to.output_whole(operator, like.dense_for(to.shape(operator)))
    start = 0
    for number, (x, multiplier, shift) in enumerate(zip(inputs, operator.multipliers, operator.shifts, strict=True)):
        part = y.sliced(axis, start, 1, x.shape[axis])
        source = to.edge(operator.inputs[number])
        same_grid = multiplier == 1 << shift and source.zero_point == out.zero_point
        if same_grid and operator.low <= source.range[0] and source.range[1] <= operator.high:
            to.copy(operator.name, x, part)
        else:
            offset = rounding_offset(operator.name, 0, shift, [multiplier], [source.zero_point])
            rescale(operator, to, x, part, multiplier, offset, shift)
        start += x.shape[axis]
