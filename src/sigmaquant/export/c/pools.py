"""Averages and maxima over windows or whole dimensions, and resizing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sigmaquant.export.c.layer_calls import window
from sigmaquant.export.c.layout import RANK, Ints, Loop, View, channels_last, dense, loops
from sigmaquant.export.c.translate import Translation, emit, factor_fields, grid_fields, refuse
from sigmaquant.operators import Average, MaxPool, Resize
from sigmaquant.operators.resize import WEIGHT_BITS

_INT32 = 2**31
_SPAN = 255
_LONGEST = 2 ** (31 - WEIGHT_BITS)


@emit.register
def _(operator: Average, to: Translation) -> None:
    if operator.windows:
        count = math.prod(max(end - first for first, end in places) for places in operator.windows)
    else:
        count = math.prod(to.input(operator).shape[d] for d in operator.dims)
    if count * _SPAN >= _INT32:
        raise refuse(operator.name, f"a sum of {count} codes does not fit into 32 bits", "Average in two steps.")
    common = {"in_zero": to.input_zero(operator), **grid_fields(operator, to)}
    if not operator.windows:
        _mean(operator, to, {**factor_fields(operator.factor), **common})
        return
    x, out = to.input_windowed(operator), to.edge(operator.output).shape
    y = to.output(operator, channels_last(out))
    if operator.kernel and operator.is_uniform and len(operator.kernel) < 3:
        padding, ones = tuple((p, p) for p in operator.padding), (1,) * len(operator.kernel)
        fields = window(x.shape, out, operator.kernel, operator.stride, padding, ones)
        parameters = {"window": fields, **factor_fields(operator.factor), **common}
        to.step(operator.name, "sq_average_pool", parameters, (x,), y)
    else:
        to.step(operator.name, "sq_average_windows", {**_windows(operator, to, x.shape, out), **common}, (x,), y)


def _mean(operator: Average, to: Translation, common: dict[str, int]) -> None:
    """Over whole dimensions."""
    x, lead = to.whole(operator), to.lead(operator)
    dims = [d + lead for d in operator.dims]
    if len(loops(tuple(x.shape[d] for d in dims), tuple(x.strides[d] for d in dims))) > RANK:
        order = [*dims, *(d for d in reversed(range(len(x.shape))) if d not in dims)]  # the fastest first
        x = to.whole_as(operator, dense(x.shape, tuple(order.index(d) for d in range(len(x.shape)))))
    kept = [d for d in range(len(x.shape)) if d not in dims]
    shape, strides = tuple(x.shape[d] for d in kept), tuple(x.strides[d] for d in kept)
    inner = dense(shape, strides)
    places = dict(zip(kept, inner, strict=True))
    steps = tuple(places.get(d, 1) for d in range(len(x.shape)))
    y = to.output_whole(operator, steps if operator.keepdim else inner)
    summed = loops(tuple(x.shape[d] for d in dims), tuple(x.strides[d] for d in dims))
    summed = [Loop(1, (0,))] * (RANK - len(summed)) + summed
    parameters = {
        "sum_size": tuple(loop.count for loop in summed),
        "sum_stride": tuple(loop.steps[0] for loop in summed),
        **common,
    }
    to.strided(operator.name, "sq_mean", shape, {"x_stride": strides, "y_stride": inner}, parameters, (x, y))


def _windows(operator: Average, to: Translation, shape: Ints, out: Ints) -> dict[str, Any]:
    """Fields of ``sq_average_windows``: windows and factors from tables."""
    missing = 3 - len(operator.windows)
    space, out_space = (1,) * missing + shape[1:], (1,) * missing + out[1:]
    tables = {}
    for axis, kind in enumerate(("planes", "rows", "columns")):
        places = operator.windows[axis - missing] if axis >= missing else ((0, 1),)
        tables[kind] = to.table(operator.name, kind, np.array(places, dtype=np.int32))
    return {
        "height": space[1],
        "width": space[2],
        "channels": shape[0],
        "out_depth": out_space[0],
        "out_height": out_space[1],
        "out_width": out_space[2],
        **tables,
        "mantissa": to.table(operator.name, "mantissa", operator.factor.mantissa.astype(np.int32)),
        "shift": to.table(operator.name, "shift", operator.factor.shift.astype(np.uint8)),
        "factor_step": int(not operator.is_uniform),
    }


@emit.register
def _(operator: MaxPool, to: Translation) -> None:
    x, out = to.input_windowed(operator), to.edge(operator.output).shape
    y = to.output(operator, channels_last(out))
    padding = tuple((p, p) for p in operator.padding)
    forms = list(zip(operator.kernel, operator.stride, padding, operator.dilation, strict=True))
    if len(forms) < 3:
        _maximum(operator.name, to, (x, y), x.shape, out, forms)
        return
    # the maximum over a box is that over its planes, then over their depth
    depth, plane = forms[:1], forms[1:]
    middle_shape = (x.shape[0], x.shape[1], *out[2:])
    middle = to.program.buffer(middle_shape, channels_last(middle_shape), y.rows)
    planes = Loop(x.shape[1], (x.strides[1], middle.strides[1]))
    flat, flat_out = (x.shape[0], *x.shape[2:]), (x.shape[0], *out[2:])
    _maximum(operator.name, to, (x, middle), flat, flat_out, plane, (planes,))
    channels = math.prod(flat_out)
    _maximum(operator.name, to, (middle, y), (channels, x.shape[1]), (channels, out[1]), depth)


def _maximum(
    name: str, to: Translation, views: tuple[View, View], shape: Ints, out: Ints, forms: list[Any],
    around: tuple[Loop, ...] = (),
) -> None:  # fmt: skip
    """Over windows of one or two dimensions; `forms` are kernel, stride, padding and dilation of each."""
    kernel, stride, padding, dilation = (tuple(form[k] for form in forms) for k in range(4))
    fields = window(shape, out, kernel, stride, padding, dilation)
    to.step(name, "sq_max_pool", {"window": fields}, views[:1], views[1], around=around)


@emit.register
def _(operator: Resize, to: Translation) -> None:
    x, out = to.input_windowed(operator), to.edge(operator.output).shape
    if max(x.shape[1:]) >= _LONGEST:
        raise refuse(
            operator.name, f"resizing more than {_LONGEST - 1} places has no C kernel", "Resize less at a time."
        )
    y = to.output(operator, channels_last(out))
    space = (1,) * (3 - len(x.shape)) + x.shape[1:]
    out_space = (1,) * (3 - len(out)) + out[1:]
    fields: dict[str, Any] = {
        "height": space[0],
        "width": space[1],
        "channels": x.shape[0],
        "out_height": out_space[0],
        "out_width": out_space[1],
    }
    missing = 2 - len(operator.lower)
    for axis, kind in enumerate(("row", "column")):
        places = np.zeros(1, dtype=np.int32)
        if axis >= missing:
            lower, weights = operator.lower[axis - missing], operator.weights[axis - missing]
            places = (np.array(lower, dtype=np.int32) << WEIGHT_BITS) + np.array(weights, dtype=np.int32)
        fields[f"{kind}s"] = to.table(operator.name, f"{kind}s", places)
        fields[f"{kind}_one"] = 1 << WEIGHT_BITS if axis >= missing else 1
    fields |= {**factor_fields(operator.factor), "in_zero": to.input_zero(operator), **grid_fields(operator, to)}
    to.step(operator.name, "sq_resize", fields, (x,), y)
