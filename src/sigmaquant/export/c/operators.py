"""Every operator of an `IntegerModel` as kernel calls."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any

import numpy as np

from sigmaquant.export.c.layers import convolution, linear, window
from sigmaquant.export.c.layout import View, channels_last, dense
from sigmaquant.export.c.program import Program
from sigmaquant.export.c.translate import Translation, refuse, rounding_offset
from sigmaquant.lowering import IntegerModel
from sigmaquant.lowering.fixed_point import Factor
from sigmaquant.lowering.model import (
    Affine,
    Average,
    Concatenation,
    Convolution,
    Dequantize,
    FloatOperator,
    Linear,
    Lookup,
    MaxPool,
    Move,
    Operator,
    Product,
    Quantize,
    Sum,
)

_INT32 = 2**31
_SPAN = 255


def translate(model: IntegerModel, prefix: str) -> Program:
    """A model's kernel calls.

    Raises:
        ExportError: an operator that C has no kernel for; the message names it.
    """
    floating = [operator for operator in model.operators if isinstance(operator, FloatOperator)]
    if floating:
        shown = ", ".join(repr(operator.operator) for operator in floating[:3])
        more = f" and {len(floating) - 3} more" if len(floating) > 3 else ""
        raise refuse(
            floating[0].operator,
            f"it has no integer form, and the C code computes with integers alone (float operators: {shown}{more})",
            "Replace it in the network, or export to ONNX.",
        )
    to = Translation(model, prefix)
    for operator in model.operators:
        emit(operator, to)
    return to.finish()


@singledispatch
def emit(operator: Operator, to: Translation) -> None:
    """Appends one operator's calls."""
    raise refuse(operator.name, f"{type(operator).__name__} has no C kernel", "Export to ONNX instead.")


emit.register(Convolution, convolution)
emit.register(Linear, linear)


@emit.register(Quantize)
@emit.register(Dequantize)
def _(operator: Quantize | Dequantize, to: Translation) -> None:
    raise refuse(operator.name, "it stands beside float values, which the C code has none of", "Quantize its input.")


@emit.register
def _(operator: Affine, to: Translation) -> None:
    x = to.input_dense(operator)
    y = to.output(operator, x.strides)
    multipliers, shifts = operator.multiplier.tolist(), operator.shift.tolist()
    zero = to.input_zero(operator)
    offsets = [
        rounding_offset(operator.name, offset, shift, [multiplier], [zero])
        for offset, shift, multiplier in zip(operator.offset.tolist(), shifts, multipliers, strict=True)
    ]
    inner, channels = x.strides[operator.axis], x.shape[operator.axis]
    parameters = {
        "outer": x.count // (inner * channels),
        "channels": channels,
        "inner": inner,
        "multiplier": to.table(operator.name, "multiplier", operator.multiplier.astype(np.int32)),
        "offset": to.table(operator.name, "offset", np.array(offsets, dtype=np.int32)),
        "shift": to.table(operator.name, "shift", operator.shift.astype(np.uint8)),
        **_range(operator, to),
    }
    to.step(operator.name, "sq_affine", parameters, (x,), y)


@emit.register
def _(operator: Sum, to: Translation) -> None:
    zeros = [to.input_zero(operator, k) for k in range(len(operator.inputs))]
    offset = rounding_offset(operator.name, operator.offset, operator.shift, list(operator.multipliers), zeros)
    if len(operator.inputs) == 1:
        x = to.input(operator)
        y = to.output(operator, dense(x.shape, x.strides))
        _rescale(operator, to, x, y, operator.multipliers[0], offset, operator.shift)
        return
    if len(operator.inputs) != 2:
        raise refuse(operator.name, f"a sum of {len(operator.inputs)} terms has no C kernel", "Add two at a time.")
    a = to.input_dense(operator)
    b = to.input_as(operator, a.strides, 1)
    y = to.output(operator, a.strides)
    parameters = {
        "count": a.count,
        "a_multiplier": operator.multipliers[0],
        "b_multiplier": operator.multipliers[1],
        "offset": offset,
        "shift": operator.shift,
        **_range(operator, to),
    }
    to.step(operator.name, "sq_add", parameters, (a, b), y)


@emit.register
def _(operator: Product, to: Translation) -> None:
    a, b = to.input(operator), to.input(operator, 1)
    shape = to.edge(operator.output).shape
    whole = a if a.shape == shape else b
    y = to.output(operator, dense(shape, whole.strides) if whole.shape == shape else None)
    size, a_stride, b_stride, y_stride = to.loops(
        operator.name, shape, _broadcast(a, shape), _broadcast(b, shape), y.strides
    )
    parameters = {
        "size": size,
        "a_stride": a_stride,
        "b_stride": b_stride,
        "y_stride": y_stride,
        **_factor(operator.factor),
        "a_zero": to.input_zero(operator),
        "b_zero": to.input_zero(operator, 1),
        **_range(operator, to),
    }
    to.step(operator.name, "sq_multiply", parameters, (a, b), y)


@emit.register
def _(operator: Concatenation, to: Translation) -> None:
    first = to.input(operator)
    y = to.output(operator, dense(to.edge(operator.output).shape, first.strides))
    start, out = 0, to.edge(operator.output)
    for number, (multiplier, shift) in enumerate(zip(operator.multipliers, operator.shifts, strict=True)):
        x = to.input(operator, number)
        size = x.shape[operator.axis]
        part = y.sliced(operator.axis, start, 1, size)
        zero = to.input_zero(operator, number)
        same_grid = multiplier == 1 << shift and zero == out.zero_point
        if same_grid and (operator.low, operator.high) == (-128, 127):
            to.copy(operator.name, x, part)
        else:
            offset = rounding_offset(operator.name, 0, shift, [multiplier], [zero])
            _rescale(operator, to, x, part, multiplier, offset, shift)
        start += size


@emit.register
def _(operator: Average, to: Translation) -> None:
    out = to.edge(operator.output)
    count = math.prod(operator.kernel or (to.input(operator).shape[d] for d in operator.dims))
    if count * _SPAN >= _INT32:
        raise refuse(operator.name, f"a sum of {count} codes does not fit into 32 bits", "Average in two steps.")
    common = {**_factor(operator.factor), "in_zero": to.input_zero(operator), **_range(operator, to)}
    if operator.kernel:
        _refuse_3d(operator.name, len(operator.kernel), "an average")
        x = to.input_windowed(operator)
        y = to.output(operator, channels_last(out.shape))
        padding, ones = tuple((p, p) for p in operator.padding), (1,) * len(operator.kernel)
        fields = window(x.shape, out.shape, operator.kernel, operator.stride, padding, ones)
        to.step(operator.name, "sq_average_pool", {"window": fields, **common}, (x,), y)
        return
    x = to.input(operator)
    kept = [d for d in range(len(x.shape)) if d not in operator.dims]
    shape, strides = tuple(x.shape[d] for d in kept), tuple(x.strides[d] for d in kept)
    inner = dense(shape, strides)
    places = dict(zip(kept, inner, strict=True))
    steps = tuple(places.get(d, 1) for d in range(len(x.shape)))
    y = to.output(operator, steps if operator.keepdim else inner)
    size, x_stride, y_stride = to.loops(operator.name, shape, strides, inner)
    over = tuple(x.strides[d] for d in operator.dims)
    sum_size, sum_stride = to.loops(operator.name, tuple(x.shape[d] for d in operator.dims), over)
    parameters = {
        "size": size,
        "x_stride": x_stride,
        "y_stride": y_stride,
        "sum_size": sum_size,
        "sum_stride": sum_stride,
        **common,
    }
    to.step(operator.name, "sq_mean", parameters, (x,), y)


@emit.register
def _(operator: MaxPool, to: Translation) -> None:
    _refuse_3d(operator.name, len(operator.kernel), "a maximum")
    x, out = to.input_windowed(operator), to.edge(operator.output).shape
    y = to.output(operator, channels_last(out))
    padding = tuple((p, p) for p in operator.padding)
    fields = window(x.shape, out, operator.kernel, operator.stride, padding, operator.dilation)
    to.step(operator.name, "sq_max_pool", {"window": fields}, (x,), y)


@emit.register
def _(operator: Lookup, to: Translation) -> None:
    x = to.input_dense(operator)
    y = to.output(operator, x.strides)
    table = to.table(operator.name, "table", operator.table)
    to.step(operator.name, "sq_lookup", {"count": x.count, "table": table}, (x,), y)


@emit.register
def _(operator: Move, to: Translation) -> None:
    x, shape, given = to.input(operator), to.edge(operator.output).shape, operator.parameters
    if operator.kind == "reshape":
        view = x.reshaped(shape)
        if view is None:  # the codes must first lie in the model's own order
            copy = to.program.buffer(x.shape)
            to.copy(operator.name, x, copy)
            view = copy.reshaped(shape)
        assert view is not None, "a copy has no gaps"
        to.alias(operator, view)
    elif operator.kind == "permute":
        to.alias(operator, x.permuted(tuple(given["axes"])))
    elif operator.kind == "slice":
        axis = int(given["axis"])
        to.alias(operator, x.sliced(axis, int(given["start"]), int(given["step"]), shape[axis]))
    elif operator.kind == "pad":
        y = to.output(operator, dense(shape, x.strides))
        to.step(operator.name, "sq_fill", {"count": y.count, "value": to.input_zero(operator)}, (), y)
        inside = y
        for axis, before in enumerate(given["before"]):
            inside = inside.sliced(axis, int(before), 1, x.shape[axis])
        to.copy(operator.name, x, inside)
    else:
        raise refuse(
            operator.name,
            f"moving codes by {operator.kind!r} has no C form",
            "Write it with slices, permutations, padding and concatenation.",
        )


def _range(operator: Any, to: Translation) -> dict[str, int]:
    return {"out_zero": to.edge(operator.output).zero_point, "low": operator.low, "high": operator.high}


def _factor(factor: Factor) -> dict[str, int]:
    return {"mantissa": int(factor.mantissa[0]), "shift": int(factor.shift[0])}


def _rescale(operator: Any, to: Translation, x: View, y: View, multiplier: int, offset: int, shift: int) -> None:
    size, x_stride, y_stride = to.loops(operator.name, x.shape, x.strides, y.strides)
    parameters = {
        "size": size,
        "x_stride": x_stride,
        "y_stride": y_stride,
        "multiplier": multiplier,
        "offset": offset,
        "shift": shift,
        **_range(operator, to),
    }
    to.step(operator.name, "sq_rescale", parameters, (x,), y)


def _broadcast(view: View, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides over a larger shape of the same rank: 0 along what is repeated."""
    return tuple(0 if n < m else s for n, m, s in zip(view.shape, shape, view.strides, strict=True))


def _refuse_3d(name: str, rank: int, what: str) -> None:
    if rank > 2:
        raise refuse(name, f"{what} over windows of {rank} dimensions has no C kernel", "Export to ONNX instead.")
