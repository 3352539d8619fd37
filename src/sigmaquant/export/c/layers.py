"""Layers with weights as kernel calls."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sigmaquant.export.c.layout import Ints, View, channels_last, natural
from sigmaquant.export.c.program import Scratch
from sigmaquant.export.c.rows import pack_rows
from sigmaquant.export.c.translate import Translation, refuse
from sigmaquant.lowering.model import Convolution, Linear, Weighted

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
_PIECE = 128
"""Codes of a vector's row that are unpacked at a time."""
_LANES = 4
_DEPTHWISE_SPAN = 16
_DEPTHWISE_LEAST = 16
"""Output positions that are worth the work of strips."""
_DEPTHWISE_ROW = 12
_DEPTHWISE_SLAB = 4
"""Codes of a channel, and codes for each column of its two strips."""
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


def convolution(operator: Convolution, to: Translation) -> None:
    """One- or two-dimensional, of any grouping."""
    rank = len(operator.stride)
    if operator.transposed:
        raise refuse(
            operator.name, "a transposed convolution has no C kernel", "Use interpolation and a convolution, or ONNX."
        )
    if rank > 2:
        raise refuse(operator.name, f"a convolution over {rank} dimensions has no C kernel", "Export to ONNX instead.")
    x = to.input_windowed(operator)
    channels, outputs, groups = x.shape[0], len(operator.codes), operator.groups
    kernel = operator.codes.shape[2:]
    out = to.edge(operator.output).shape
    if groups == 1 and math.prod(kernel) == 1 and x.count == channels and math.prod(out) == outputs:
        y = to.output(operator)
        _one_vector(operator, to, x.count, (x, y))
        return
    y = to.output(operator, channels_last(out))
    fields = window(x.shape, out, kernel, operator.stride, operator.padding, operator.dilation)
    macs = math.prod(out) * math.prod(operator.codes.shape[1:])
    if groups == channels == outputs > 1:
        _depthwise(operator, to, fields, (x, y), macs)
        return
    rows = operator.codes.transpose(0, *range(operator.codes.ndim - 1, 1, -1), 1)  # [out, kw, kh, in/groups]
    _matrix(operator, to, rows.reshape(outputs, -1), fields, (x, y), groups, macs)


def _depthwise(operator: Convolution, to: Translation, fields: dict[str, int], views: Views, macs: int) -> None:
    """One output channel for each input channel; 3 x 3 taps without dilation have a kernel of their own."""
    rows = _lanes(operator.codes.reshape(len(operator.codes), -1))
    span, slabs, scratch = 0, 0, _SPREAD * rows.shape[1]
    shape = tuple(fields[key] for key in ("kernel_height", "kernel_width", "dilation_y", "dilation_x"))
    if shape == (3, 3, 1, 1) and fields["out_height"] * fields["out_width"] >= _DEPTHWISE_LEAST:
        span = min(_DEPTHWISE_SPAN, fields["out_width"])
        slabs = (span - 1) * fields["stride_x"] + 3
        scratch = _LANES * _DEPTHWISE_ROW + max(_LANES * _DEPTHWISE_SLAB * slabs, scratch)
    parameters = {"layer": _layer(operator, to, rows), "window": fields, "span": span, "slabs": slabs}
    to.step(operator.name, "sq_depthwise", parameters, views[:1], views[1], Scratch(scratch), macs)


def _lanes(codes: Codes) -> Codes:
    """Codes [channels, taps] as rows [ceil(channels / 4), taps * 4]; the last channel fills the last row up."""
    count = len(codes)
    order = np.minimum(np.arange(-(-count // _LANES) * _LANES), count - 1)
    return codes[order].reshape(-1, _LANES, codes.shape[1]).transpose(0, 2, 1).reshape(-1, codes.shape[1] * _LANES)


def linear(operator: Linear, to: Translation) -> None:
    """A matrix over the last dimension; over several vectors it is a convolution with one tap."""
    shape = to.input(operator).shape
    x = to.input_as(operator, natural(shape))
    y = to.output(operator)
    outputs, inputs = operator.codes.shape
    vectors = x.count // inputs
    if vectors == 1:
        _one_vector(operator, to, inputs, (x, y))
        return
    fields = window((inputs, vectors), (outputs, vectors), (1,), (1,), ((0, 0),), (1,))
    _matrix(operator, to, operator.codes, fields, (x, y), 1, vectors * operator.codes.size)


def _matrix(
    operator: Weighted, to: Translation, rows: Codes, fields: dict[str, int], views: Views, groups: int, macs: int
) -> None:
    """A convolution as a matrix product."""
    outputs, depth = len(rows), _depth(rows.shape[1])
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
    }
    strip = _depth(slabs * rows.shape[1] // kernel) + _SLACK
    scratch = Scratch(strip, depth + _SCALING, outputs // groups)
    to.step(operator.name, "sq_conv", parameters, views[:1], views[1], scratch, macs)


def _one_vector(operator: Weighted, to: Translation, inputs: int, views: Views) -> None:
    outputs, piece = len(operator.codes), min(inputs, _PIECE)
    layer = _layer(operator, to, operator.codes.reshape(outputs, -1))
    parameters = {"layer": layer, "in": inputs, "out": outputs, "piece": piece}
    scratch = Scratch(_depth(inputs) + 4 * _depth(piece))
    to.step(operator.name, "sq_linear", parameters, views[:1], views[1], scratch, operator.codes.size)


def _depth(count: int) -> int:
    """A row's length in scratch, as ``sq_depth`` rounds it."""
    return -(-count // 4) * 4


def _layer(operator: Weighted, to: Translation, rows: Codes) -> dict[str, Any]:
    """The fields of ``sq_layer``."""
    packed = pack_rows(np.ascontiguousarray(rows), operator.bits, operator.midrise)
    factor = operator.factor
    return {
        "codes": to.table(operator.layer, "codes", packed),
        "unpack": f"sq_unpack_{'odd_' if operator.midrise else ''}{operator.bits}",
        "bits": operator.bits,
        "row_bytes": packed.shape[1],
        "gain": operator.gain,
        "bias": to.table(operator.name, "bias", operator.bias),
        "mantissa": to.table(operator.name, "mantissa", factor.mantissa.astype(np.int32)),
        "shift": to.table(operator.name, "shift", factor.shift.astype(np.uint8)),
        "in_zero": to.input_zero(operator),
        "out_zero": to.edge(operator.output).zero_point,
        "low": operator.low,
        "high": operator.high,
    }
