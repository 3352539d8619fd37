"""Code by code: affine maps, sums, products, choices, tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sigmaquant.export.c.layout import RANK, Ints, Loop, View, dense, loops
from sigmaquant.export.c.translate import (
    Translation,
    emit,
    factor_fields,
    grid_fields,
    refuse,
    rounding_offset,
)
from sigmaquant.operators import Affine, Extremum, Lookup, Product, Select, Slopes, Sum, UnitLength
from sigmaquant.operators.unit_length import ROOT_BITS

_SPAN = 255
_LARGEST_SQUARE = 2**62


@emit.register
def _(operator: Affine, to: Translation) -> None:
    zero = to.input_zero(operator)
    rows = zip(operator.offset.flat, operator.shift.flat, operator.multiplier.flat, strict=True)
    offsets = [rounding_offset(operator.name, int(o), int(s), [int(m)], [zero]) for o, s, m in rows]
    shape = operator.multiplier.shape
    tables: dict[str, NDArray[Any]] = {
        "multiplier": operator.multiplier.astype(np.int32),
        "offset": np.array(offsets, dtype=np.int32).reshape(shape),
        "shift": operator.shift.astype(np.uint8),
    }
    lead = to.lead(operator)
    if operator.axis is not None:
        x = to.whole_dense(operator)
        y = to.output_whole(operator, x.strides)
        axis = operator.axis + lead
        names = {kind: to.table(operator.name, kind, values.reshape(-1)) for kind, values in tables.items()}
        to.step(operator.name, "sq_affine", {**_channels(x, axis), **names, **grid_fields(operator, to)}, (x,), y)
        return
    x = to.whole(operator)
    y = to.output_whole(operator, x.dense)
    # tables in the order of the output's memory, repeated along dimensions until few enough loops walk along them
    order = sorted(range(len(shape)), key=lambda a: -y.strides[a + lead])
    spread = {kind: values.transpose(order) for kind, values in tables.items()}
    sizes = tuple(x.shape[a + lead] for a in order)
    while True:
        strides = _table_strides(next(iter(spread.values())), order, lead)
        if len(loops(x.shape, strides, x.strides, y.strides)) <= RANK or spread["shift"].shape == sizes:
            break
        axis = min((a for a, n in enumerate(sizes) if spread["shift"].shape[a] != n), key=sizes.__getitem__)
        spread = {kind: values.repeat(sizes[axis], axis) for kind, values in spread.items()}
    if len(loops(x.shape, strides, x.strides, y.strides)) > RANK:  # the input's gaps need the loops
        x = to.whole_dense(operator)
    names = {kind: to.table(operator.name, kind, values) for kind, values in spread.items()}
    fields = {"table_stride": strides, "x_stride": x.strides, "y_stride": y.strides}
    to.strided(operator.name, "sq_affine_strided", x.shape, fields, {**names, **grid_fields(operator, to)}, (x, y))


def _channels(x: View, axis: int) -> dict[str, int]:
    """Fields of a kernel for dense codes with constants along one dimension."""
    inner, channels = x.strides[axis], x.shape[axis]
    return {"outer": x.count // (inner * channels), "channels": channels, "inner": inner}


def _table_strides(table: NDArray[Any], order: list[int], lead: int) -> Ints:
    """Of a table whose dimensions are in an order, for the dimensions of all rows."""
    strides, step = [0] * (len(order) + lead), 1
    for place in reversed(range(len(order))):
        if table.shape[place] > 1:
            strides[order[place] + lead] = step
            step *= table.shape[place]
    return tuple(strides)


@emit.register
def _(operator: Sum, to: Translation) -> None:
    count = len(operator.inputs)
    zeros = [to.input_zero(operator, k) for k in range(count)]
    offset = rounding_offset(operator.name, operator.offset, operator.shift, list(operator.multipliers), zeros)
    shape = to.shape(operator)
    if count == 1:
        x = to.whole(operator)
        rescale(operator, to, x, to.output_whole(operator, x.dense), operator.multipliers[0], offset, operator.shift)
        return
    if count != 2:
        raise refuse(operator.name, f"a sum of {count} terms has no C kernel", "Add two at a time.")
    a, b = to.whole(operator), to.whole(operator, 1)
    fields = {
        "a_multiplier": operator.multipliers[0],
        "b_multiplier": operator.multipliers[1],
        "offset": offset,
        "shift": operator.shift,
        **grid_fields(operator, to),
    }
    if a.shape == b.shape and a.is_dense and b.has(a.strides):
        y = to.output_whole(operator, a.strides)
        to.step(operator.name, "sq_add", {"count": a.count, **fields}, (a, b), y)
        return
    y = to.output_whole(operator, _layout(shape, a, b))
    to.strided(operator.name, "sq_add_strided", shape, _walk(shape, y, a=a, b=b), fields, (a, b, y))


@emit.register
def _(operator: Product, to: Translation) -> None:
    a, b, shape = to.whole(operator), to.whole(operator, 1), to.shape(operator)
    y = to.output_whole(operator, _layout(shape, a, b))
    fields = {
        **factor_fields(operator.factor),
        "a_zero": to.input_zero(operator),
        "b_zero": to.input_zero(operator, 1),
        **grid_fields(operator, to),
    }
    to.strided(operator.name, "sq_multiply", shape, _walk(shape, y, a=a, b=b), fields, (a, b, y))


@emit.register
def _(operator: Extremum, to: Translation) -> None:
    a, b, shape = to.whole(operator), to.whole(operator, 1), to.shape(operator)
    y = to.output_whole(operator, _layout(shape, a, b))
    fields = {"largest": int(operator.largest), **_terms(operator, to, 0), **grid_fields(operator, to)}
    to.strided(operator.name, "sq_extremum", shape, _walk(shape, y, a=a, b=b), fields, (a, b, y))


@emit.register
def _(operator: Select, to: Translation) -> None:
    condition, a, b = (to.whole(operator, k) for k in range(3))
    shape = to.shape(operator)
    y = to.output_whole(operator, _layout(shape, a, b, condition))
    fields = {**_terms(operator, to, 1), **grid_fields(operator, to)}
    strides = _walk(shape, y, condition=condition, a=a, b=b)
    to.strided(operator.name, "sq_select", shape, strides, fields, (condition, a, b, y))


@emit.register
def _(operator: Lookup, to: Translation) -> None:
    x = to.whole_dense(operator)
    y = to.output_whole(operator, x.strides)
    table = to.table(operator.name, "table", operator.table)
    to.step(operator.name, "sq_lookup", {"count": x.count, "table": table}, (x,), y)


@emit.register
def _(operator: Slopes, to: Translation) -> None:
    x = to.whole_dense(operator)
    y = to.output_whole(operator, x.strides)
    multipliers = [operator.multiplier, *map(int, operator.slopes)]
    for multiplier in multipliers:
        rounding_offset(operator.name, 0, operator.shift, [multiplier], [to.input_zero(operator)])
    fields = {
        **_channels(x, to.lead(operator)),
        "multiplier": operator.multiplier,
        "slopes": to.table(operator.name, "slopes", operator.slopes.astype(np.int32)),
        "shift": operator.shift,
        "in_zero": to.input_zero(operator),
        **grid_fields(operator, to),
    }
    to.step(operator.name, "sq_slopes", fields, (x,), y)


@emit.register
def _(operator: UnitLength, to: Translation) -> None:
    x = to.whole(operator)
    if (x.shape[-1] * _SPAN**2 + operator.least) << (2 * ROOT_BITS) >= _LARGEST_SQUARE:
        raise refuse(operator.name, "its sums of squares do not fit into 64 bits", "Use a smaller eps.")
    y = to.output_whole(operator, x.dense)
    fields = {
        "multiplier": operator.multiplier,
        "least": operator.least,
        "in_zero": to.input_zero(operator),
        **grid_fields(operator, to),
    }
    strides = {"x_stride": x.strides[:-1], "y_stride": y.strides[:-1]}
    vector = Loop(x.shape[-1], (x.strides[-1], y.strides[-1]))
    to.strided(operator.name, "sq_unit_length", x.shape[:-1], strides, fields, (x, y), innermost=vector)


def rescale(operator: Any, to: Translation, x: View, y: View, multiplier: int, offset: int, shift: int) -> None:
    """Codes to another place and another grid."""
    fields = {"multiplier": multiplier, "offset": offset, "shift": shift, **grid_fields(operator, to)}
    strides = {"x_stride": x.strides, "y_stride": y.strides}
    to.strided(operator.name, "sq_rescale", x.shape, strides, fields, (x, y))


def _terms(operator: Extremum | Select, to: Translation, first: int) -> dict[str, dict[str, int]]:
    """Two inputs on the output's grid, from input `first` on."""
    found = {}
    for k, (key, multiplier, shift) in enumerate(zip("ab", operator.multipliers, operator.shifts, strict=True)):
        offset = rounding_offset(operator.name, 0, shift, [multiplier], [to.input_zero(operator, first + k)])
        found[key] = {"multiplier": multiplier, "offset": offset, "shift": shift}
    return found


def _layout(shape: Ints, *views: View) -> Ints | None:
    """Strides of the result: as the first input lies that is not repeated, one without gaps if there is any."""
    found = [view for view in views if view.shape == shape]
    best = next((view for view in found if view.is_dense), found[0] if found else None)
    return None if best is None else dense(shape, best.strides)


def _walk(shape: Ints, y: View, **inputs: View) -> dict[str, Ints]:
    """Strides by the kernel's field."""
    found = {f"{key}_stride": view.broadcast(shape) for key, view in inputs.items()}
    return {**found, "y_stride": y.strides}
