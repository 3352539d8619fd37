"""Averages and maxima over windows and whole dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from sigmaquant.export.onnx.translation import Translation, translate
from sigmaquant.operators import Average, Edge, MaxPool

_KERNEL_FACTORS = (2.0**-31, 2.0**7)
"""The runtime makes an integer kernel of GlobalAveragePool, not of ReduceMean; outside of 2**-32 to 2**8 it fails."""


@translate.register
def _(operator: Average, to: Translation) -> None:
    if operator.kernel:
        _sliding(operator, to)
    elif operator.windows:
        _uneven(operator, to)
    else:
        _whole(operator, to)


def _whole(operator: Average, to: Translation) -> None:
    edge, output = to.edge(operator), to.model.edges[operator.output]
    unit = float(operator.factor.value[0]) * output.scale
    codes, shape = _averaged_last(edge, operator.dims, to)
    real = to.real(edge, unit * prod(edge.shape[d] for d in operator.dims), codes)
    names = {"name": operator.name, "hint": f"{operator.name}.real"}
    if _KERNEL_FACTORS[0] <= operator.factor.value[0] < _KERNEL_FACTORS[1]:
        value = to.builder.node("GlobalAveragePool", [real], **names)
    else:
        axes = to.builder.integers(*range(2, len(shape) + 1))
        value = to.builder.node("ReduceMean", [real, axes], keepdims=1, **names)
    kept = (shape[0], *[1] * (len(shape) - 1))
    to.write(value, operator, None if output.shape == kept else output.shape)


def _averaged_last(edge: Edge, dims: Sequence[int], to: Translation) -> tuple[str, tuple[int, ...]]:
    """Codes with one dimension to keep before those that are averaged, and their shape."""
    codes, rank = to.codes[edge.name], len(edge.shape)
    if tuple(dims) == tuple(range(1, rank)):
        return codes, edge.shape
    kept = [d for d in range(rank) if d not in dims]
    order = [0, *(d + 1 for d in (*kept, *dims))]
    if order != sorted(order):
        codes = to.builder.node("Transpose", [codes], hint=f"{codes}.moved", perm=order)
    shape = (prod(edge.shape[d] for d in kept), prod(edge.shape[d] for d in dims))
    return to.reshaped(codes, shape), shape


def _sliding(operator: Average, to: Translation) -> None:
    """A kernel: the runtime divides by its size, or by the values that it finds inside the input."""
    edge, output = to.edge(operator), to.model.edges[operator.output]
    sums = operator.factor.value * output.scale  # what a sum of codes is worth, at each place
    means = sums * _counts(operator)
    counted = not operator.is_uniform and np.allclose(means, means[0], rtol=1e-6, atol=0)
    unit = float(means[0] if counted else sums.max() * prod(operator.kernel))
    geometry: dict[str, Any] = {
        "kernel_shape": operator.kernel,
        "strides": operator.stride,
        "pads": (*operator.padding, *_after(edge, output, operator, (1,) * len(operator.kernel))),
        "count_include_pad": int(not counted),
    }
    real, name = to.real(edge, unit), operator.name
    value = to.builder.node("AveragePool", [real], name=name, hint=f"{name}.real", **geometry)
    if counted or operator.is_uniform:
        to.write(value, operator)
        return
    ratios = (sums / sums.max()).astype(np.float32).reshape(output.shape[1:])
    ratio = to.builder.constant(ratios, f"{name}.ratios")
    to.write_rounded_up(to.builder.node("Mul", [value, ratio], hint=f"{name}.scaled"), operator)


def _counts(operator: Average) -> NDArray[np.float64]:
    """How many values of the input each window holds, in the order of the places."""
    found = np.ones(1)
    for axis in operator.windows:
        found = np.multiply.outer(found, [end - first for first, end in axis])
    return found.reshape(-1)


def _after(edge: Edge, output: Edge, operator: Average | MaxPool, dilation: tuple[int, ...]) -> tuple[int, ...]:
    """Padding after the input, such that there are as many places as the output has.

    Rounded up, the last window may reach beyond the padding: runtimes disagree on when, so it is padded instead.
    """
    found = []
    geometry = zip(operator.kernel, operator.stride, operator.padding, dilation, strict=True)
    for axis, (kernel, stride, padding, step) in enumerate(geometry, 1):
        reach = (output.shape[axis] - 1) * stride + step * (kernel - 1) + 1
        found.append(max(padding, reach - edge.shape[axis] - padding))
    return tuple(found)


def _uneven(operator: Average, to: Translation) -> None:
    """Windows of any kind: sums along one axis after the other, as products with matrices of zeros and ones."""
    edge, output, name = to.edge(operator), to.model.edges[operator.output], operator.name
    builder, value, shape = to.builder, to.real(edge, 1.0), list(edge.shape)
    for axis, windows in enumerate(operator.windows, 1):
        places = np.arange(shape[axis])
        matrix = np.array([(places >= first) & (places < end) for first, end in windows])
        value = along(value, shape, axis, cast(matrix, f"{name}.windows", to), len(windows), to)
    sums = operator.factor.value * output.scale
    factor = sums[0] if operator.is_uniform else sums.reshape(output.shape[1:])
    constant = builder.constant(np.asarray(factor, np.float32), f"{name}.factor")
    to.write_rounded_up(builder.node("Mul", [value, constant], name=name, hint=f"{name}.real"), operator)


def cast(matrix: NDArray[Any], hint: str, to: Translation) -> str:
    """A constant of zeros and ones as floats, of one byte each in the file."""
    stored = to.builder.constant(matrix.astype(np.uint8), hint)
    return to.builder.node("Cast", [stored], hint=f"{hint}.real", to=TensorProto.FLOAT)


def along(value: str, shape: list[int], axis: int, matrix: str, size: int, to: Translation) -> str:
    """The product of a constant matrix [size, n] with one axis of n entries; changes `shape` to the result's."""
    builder, entries, after = to.builder, shape[axis], prod(shape[axis + 1 :])
    shape[axis] = size
    if after == 1:  # one product for all rows
        turned = builder.node("Transpose", [matrix], hint=f"{matrix}.turned", perm=(1, 0))
        product = builder.node("MatMul", [to.reshaped(value, (entries,)), turned], hint=f"{value}.along")
    else:
        product = builder.node("MatMul", [matrix, to.reshaped(value, (entries, after))], hint=f"{value}.along")
    return to.reshaped(product, shape)


@translate.register
def _(operator: MaxPool, to: Translation) -> None:
    edge, output = to.edge(operator), to.model.edges[operator.output]
    codes, before, after = to.codes[edge.name], operator.padding, _after(edge, output, operator, operator.dilation)
    if any(side >= kernel for side, kernel in zip(after, operator.kernel, strict=True)):
        # more than the runtime pads itself; the smallest code never wins
        sides = to.builder.integers(0, 0, *before, 0, 0, *after)
        codes = to.builder.node("Pad", [codes, sides, to.zero_point(0)], hint=f"{operator.name}.padded")
        before, after = (0,) * len(before), (0,) * len(after)
    to.builder.node(
        "MaxPool",
        [codes],
        to.codes[operator.output],
        name=operator.name,
        kernel_shape=operator.kernel,
        strides=operator.stride,
        pads=(*before, *after),
        dilations=operator.dilation,
    )
