"""Layers with weights as kernel calls."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sigmaquant.export.c.flash import has_narrow_codes
from sigmaquant.export.c.layout import Ints, Loop, View, channels_last, natural
from sigmaquant.export.c.program import Scratch
from sigmaquant.export.c.translate import Translation, emit, grid_fields
from sigmaquant.operators import Convolution, Embedding, Linear, Recode, Weighted

Codes = NDArray[np.int8]
Views = tuple[View, View]
"""Input and output."""

_SHARED_SPAN = 8
"""Output positions of a strip; for more, a strip of overlapping columns needs more memory and saves little."""
_SHORT_SPAN = 16
_SHORT = 16
"""The same for columns of few codes, where the work of a strip itself counts."""
_SINGLE_SPAN = (2, 8)
_SINGLE_CODES = 512
"""Positions that share no column are worth a longer strip where this many codes hold it, for the work of a strip."""
_SLACK = 4
_SCALING = 8
"""Elements of an ``sq_scaling``."""
PIECE = 128
"""Codes of a vector's row that are unpacked at a time."""
_LANES = 4
_DEPTHWISE_SPAN = 16
_DEPTHWISE_LEAST = 16
"""Output positions that are worth the work of strips."""
_DEPTHWISE_ROW = 12
_DEPTHWISE_SLAB = 4
"""Codes of a channel, and codes for each column of its two strips."""
_NARROW_DEPTH, _NARROW_CODE = 680, 3
"""``SQ_NARROW_DEPTH``, and the largest code of ``sq_narrow.c``."""
_SPREAD = 4
"""Elements of scratch for each code of a row that is unpacked alone: the places of the other three stay empty."""


def planar(sizes: Ints, fill: int) -> Ints:
    """Sizes of two dimensions from those of one or two: a sequence is a picture of height 1."""
    return (fill,) * (2 - len(sizes)) + sizes


def window(
    shape: Ints, out: Ints, kernel: Ints, stride: Ints, padding: tuple[Ints, ...], dilation: Ints
) -> dict[str, int]:
    """The fields of ``sq_window``.

    Args:
        shape: input [C, (H,) W].
        out: output [C, (H,) W].
        kernel: taps by dimension.
        stride: by dimension.
        padding: before and after, by dimension; what comes after follows from the output's size.
        dilation: by dimension.
    """
    (height, width), (out_height, out_width) = planar(shape[1:], 1), planar(out[1:], 1)
    before = planar(tuple(side[0] for side in padding), 0)
    kernel, stride, dilation = planar(kernel, 1), planar(stride, 1), planar(dilation, 1)
    return {
        "height": height,
        "width": width,
        "channels": shape[0],
        "out_height": out_height,
        "out_width": out_width,
        "kernel_height": kernel[0],
        "kernel_width": kernel[1],
        "stride_y": stride[0],
        "stride_x": stride[1],
        "dilation_y": dilation[0],
        "dilation_x": dilation[1],
        "pad_top": before[0],
        "pad_left": before[1],
    }


@emit.register
def _(operator: Convolution, to: Translation) -> None:
    x = to.input_windowed(operator)
    if len(operator.stride) > 2:
        volume(operator, to, x)
        return
    channels, outputs, kernel = x.shape[0], len(operator.codes), operator.codes.shape[2:]
    out = to.edge(operator.output).shape
    if operator.groups == 1 and math.prod(kernel) == 1 and x.count == channels and math.prod(out) == outputs:
        y = to.output(operator)
        _one_vector(operator, to, x.count, (x, y))
        return
    y = to.output(operator, channels_last(out))
    fields = window(x.shape, out, kernel, operator.stride, operator.padding, operator.dilation)
    planar_layer(operator, to, operator.codes, fields, (x, y), math.prod(out))


def planar_layer(
    operator: Convolution, to: Translation, codes: Codes, fields: dict[str, int], views: Views, outputs: int,
    around: tuple[Loop, ...] = (),
) -> None:  # fmt: skip
    """A convolution of one or two dimensions with these codes, of so many output codes."""
    macs = outputs * math.prod(codes.shape[1:])
    if operator.groups == fields["channels"] == len(codes) > 1:
        _depthwise(operator, to, codes, fields, views, macs, around)
        return
    rows = codes.transpose(0, *range(codes.ndim - 1, 1, -1), 1)  # [out, kw, kh, in/groups]
    _matrix(operator, to, rows.reshape(len(codes), -1), fields, views, operator.groups, macs, around)


def volume(operator: Convolution, to: Translation, x: View) -> None:
    """A convolution of three dimensions: for each plane of the output one of two, of the planes that its taps meet.

    They are gathered as channels of one plane, [height, width, groups, taps, channels of a group].
    """
    out, groups = to.edge(operator.output).shape, operator.groups
    codes = operator.codes
    taps, channels = codes.shape[2], x.shape[0] // groups
    y = to.output(operator, channels_last(out))
    plane = (x.shape[0] * taps, *x.shape[2:])
    sides = (operator.stride[1:], operator.padding[1:], operator.dilation[1:])
    fields = window(plane, (len(codes), *out[2:]), codes.shape[3:], *sides)
    flat = codes.transpose(0, 2, 1, 3, 4).reshape(len(codes), taps * channels, *codes.shape[3:])
    count = len(codes) * math.prod(out[2:])
    if taps == 1 and operator.padding[0] == (0, 0):  # planes stay as they are
        steps = (operator.stride[0] * x.strides[1], y.strides[1])
        planar_layer(operator, to, flat, fields, (x, y), count, (Loop(out[1], steps),))
        return
    gathered_shape = (*x.shape[2:], groups, taps, channels)
    gathered = to.program.buffer(gathered_shape, rows=y.rows)
    planes = x.split(0, (groups, channels), (channels, 1), 0).permuted((3, 4, 0, 2, 1))  # [H, W, groups, D, channels]
    for place in range(out[1]):
        first = place * operator.stride[0] - operator.padding[0][0]
        inside = [t for t in range(taps) if 0 <= first + t * operator.dilation[0] < x.shape[1]]
        if len(inside) < taps:
            fill = {"count": gathered.count * gathered.rows, "value": to.input_zero(operator)}
            to.step(operator.name, "sq_fill", fill, (), gathered.whole)
        if inside:
            size, start = len(inside), first + inside[0] * operator.dilation[0]
            part = planes.sliced(3, start, operator.dilation[0], size)
            to.copy(operator.name, part, gathered.sliced(3, inside[0], 1, size))
        target = y.sliced(1, place, 1, 1)
        planar_layer(operator, to, flat, fields, (gathered, target), count)


def _depthwise(
    operator: Convolution, to: Translation, codes: Codes, fields: dict[str, int], views: Views, macs: int,
    around: tuple[Loop, ...],
) -> None:  # fmt: skip
    """One output channel for each input channel; 3 x 3 taps without dilation have a kernel of their own."""
    rows = _lanes(codes.reshape(len(codes), -1))
    span, slabs, scratch = 0, 0, _SPREAD * rows.shape[1]
    shape = tuple(fields[key] for key in ("kernel_height", "kernel_width", "dilation_y", "dilation_x"))
    if shape == (3, 3, 1, 1) and fields["out_height"] * fields["out_width"] >= _DEPTHWISE_LEAST:
        span = min(_DEPTHWISE_SPAN, fields["out_width"])
        slabs = (span - 1) * fields["stride_x"] + 3
        scratch = _LANES * _DEPTHWISE_ROW + max(_LANES * _DEPTHWISE_SLAB * slabs, scratch)
    parameters = {"layer": _layer(operator, to, rows), "window": fields, "span": span, "slabs": slabs}
    to.step(operator.name, "sq_depthwise", parameters, views[:1], views[1], Scratch(scratch), macs, around)


def _lanes(codes: Codes) -> Codes:
    """Codes [channels, taps] as rows [ceil(channels / 4), taps * 4]; the last channel fills the last row up."""
    count = len(codes)
    order = np.minimum(np.arange(-(-count // _LANES) * _LANES), count - 1)
    return codes[order].reshape(-1, _LANES, codes.shape[1]).transpose(0, 2, 1).reshape(-1, codes.shape[1] * _LANES)


@emit.register
def _(operator: Linear, to: Translation) -> None:
    """A matrix over the last dimension; over several vectors it is a convolution with one tap."""
    x = to.whole_as(operator, natural(to.whole(operator).shape))
    y = to.output_whole(operator)
    outputs, inputs = operator.codes.shape
    vectors = x.count // inputs
    if vectors == 1:
        _one_vector(operator, to, inputs, (x, y))
        return
    fields = window((inputs, vectors), (outputs, vectors), (1,), (1,), ((0, 0),), (1,))
    _matrix(operator, to, operator.codes, fields, (x, y), 1, vectors * operator.codes.size)


def _matrix(
    operator: Weighted, to: Translation, rows: Codes, fields: dict[str, int], views: Views, groups: int, macs: int,
    around: tuple[Loop, ...] = (),
) -> None:  # fmt: skip
    """A convolution as a matrix product."""
    outputs, depth = len(rows), depth_of(rows.shape[1])
    kernel, stride = fields["kernel_width"], fields["stride_x"]
    shared = fields["dilation_x"] == 1 and stride < kernel  # neighbouring positions read the same columns
    pitch = stride if shared else kernel
    if shared:
        span = _SHORT_SPAN if rows.shape[1] // kernel <= _SHORT else _SHARED_SPAN
    else:
        least, most = _SINGLE_SPAN
        span = min(max(least, _SINGLE_CODES // rows.shape[1] // 2 * 2), most)
    span = min(span, fields["out_width"])
    slabs = (span - 1) * pitch + kernel
    parameters = {
        "layer": _layer(operator, to, rows),
        "window": fields,
        "groups": groups,
        "out_channels": outputs,
        "span": span,
        "pitch": pitch,
        "slabs": slabs,
        **({"narrow": "&sq_narrow"} if is_narrow(operator, depth) else {}),
    }
    strip = depth_of(slabs * rows.shape[1] // kernel) + _SLACK
    scratch = Scratch(strip, depth + _SCALING, outputs // groups)
    to.step(operator.name, "sq_conv", parameters, views[:1], views[1], scratch, macs, around)


def _one_vector(operator: Weighted, to: Translation, inputs: int, views: Views) -> None:
    outputs, piece = len(operator.codes), min(inputs, PIECE)
    layer = _layer(operator, to, operator.codes.reshape(outputs, -1))
    parameters = {"layer": layer, "in": inputs, "out": outputs, "piece": piece}
    scratch = Scratch(depth_of(inputs) + 4 * depth_of(piece))
    to.step(operator.name, "sq_linear", parameters, views[:1], views[1], scratch, operator.codes.size)


def is_narrow(operator: Weighted, depth: int) -> bool:
    """Whether a matrix of rows of so many codes has inner loops of its own (``sq_narrow.c``)."""
    fits = has_narrow_codes(operator.bits, operator.midrise) and depth <= _NARROW_DEPTH
    return fits and int(np.abs(operator.codes.astype(np.int16)).max(initial=0)) <= _NARROW_CODE


def depth_of(count: int) -> int:
    """A row's length in scratch, as ``sq_depth`` rounds it."""
    return -(-count // 4) * 4


@emit.register
def _(operator: Embedding, to: Translation) -> None:
    x, y = to.whole(operator), to.output_whole(operator)
    width, piece = operator.codes.shape[1], min(PIECE, operator.codes.shape[1])
    layer = {key: value for key, value in _layer(operator, to, operator.codes, bias=False).items() if key != "in_zero"}
    fields = {
        "layer": layer,
        "count": x.count,
        "rows": len(operator.codes),
        "width": width,
        "piece": piece,
        "y_stride": (width, 1),
    }
    to.step(operator.name, "sq_embedding", fields, (x,), y, Scratch(_SPREAD * (piece + 1)))


@emit.register
def _(operator: Recode, to: Translation) -> None:
    x, y = to.whole(operator), to.output_whole(operator)
    fields = {"count": x.count, "rows": len(operator.table), "table": to.table(operator.name, "table", operator.table)}
    to.step(operator.name, "sq_recode", fields, (x,), y)


def _layer(operator: Weighted, to: Translation, rows: Codes, bias: bool = True) -> dict[str, Any]:
    """The fields of ``sq_layer``."""
    factor = operator.factor
    return {
        **to.codes(operator.layer, rows, operator.bits, operator.midrise),
        "gain": operator.gain,
        **({"bias": to.table(operator.name, "bias", operator.bias)} if bias else {}),
        "mantissa": to.table(operator.name, "mantissa", factor.mantissa.astype(np.int32)),
        "shift": to.table(operator.name, "shift", factor.shift.astype(np.uint8)),
        "in_zero": to.input_zero(operator),
        **grid_fields(operator, to),
    }
