"""Operators on single values, on pairs of them, and along dimensions: activations, arithmetic, reductions."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from sigmaquant.errors import ModelFileError
from sigmaquant.frontends.onnx.file import Operation, onnx_library, torch_dtype
from sigmaquant.frontends.onnx.reader import Reader, handles
from sigmaquant.frontends.onnx.values import Known

_UNARY: dict[str, Callable[..., Any]] = {
    "Relu": F.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "HardSwish": F.hardswish, "Softsign": F.softsign,
    "Softplus": F.softplus, "Mish": F.mish, "Erf": torch.erf, "Exp": torch.exp, "Log": torch.log, "Sqrt": torch.sqrt,
    "Neg": torch.neg, "Abs": torch.abs, "Reciprocal": torch.reciprocal, "Floor": torch.floor, "Ceil": torch.ceil,
    "Round": torch.round, "Sign": torch.sign, "Sin": torch.sin, "Cos": torch.cos, "Tan": torch.tan,
    "Not": torch.logical_not, "IsNaN": torch.isnan, "sigmaquant.Silu": F.silu, "Selu": F.selu,
}  # fmt: skip
_BINARY: dict[str, Callable[..., Any]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div, "Pow": torch.pow, "Equal": torch.eq,
    "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le,
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
}  # fmt: skip


@handles(*_UNARY)
def _unary(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    return reader.builder.function(_UNARY[operation.kind], reader.node(inputs[0]))


@handles(*_BINARY)
def _binary(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    first, second = inputs
    builder = reader.builder
    if isinstance(first, Known) and operation.kind in ("Add", "Mul"):
        first, second = second, first
    function, options = _BINARY[operation.kind], {}
    if isinstance(first, Known):  # a number before a tensor: 1 - x
        number = reader.operand(first)
        if operation.kind == "Sub" and not hasattr(number, "graph"):
            return builder.function(torch.rsub, reader.node(second), number)
        if operation.kind == "Div" and number == 1.0:
            return builder.function(torch.reciprocal, reader.node(second))
        left, right = (reader.node(first) if operation.kind != "Pow" else number), reader.node(second)
    else:
        left = reader.node(first)
        right = reader.operand(second) if reader.rank(second) <= reader.rank(first) else reader.node(second)
    if operation.kind == "Div" and not (builder.dtype(left).is_floating_point):
        options = {"rounding_mode": "trunc"}
    if operation.kind in ("And", "Or", "Xor"):
        right = reader.node(second)
    return builder.function(function, left, right, **options)


@handles("Mod")
def _mod(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    function = torch.fmod if operation.attributes.get("fmod", 0) else torch.remainder
    return reader.builder.function(function, reader.node(inputs[0]), reader.operand(inputs[1]))


@handles("Sum", "Mean", "Max", "Min")
def _variadic(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    function = {"Max": torch.maximum, "Min": torch.minimum}.get(operation.kind, torch.add)
    result = reader.node(inputs[0])
    for value in inputs[1:]:
        result = reader.builder.function(function, result, reader.node(value))
    return reader.builder.function(torch.div, result, len(inputs)) if operation.kind == "Mean" else result


@handles("LeakyRelu", "Elu", "Celu", "ThresholdedRelu", "HardSigmoid", "Gelu", "sigmaquant.Gelu", "Shrink")
def _with_attributes(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    builder, given, x = reader.builder, operation.attributes, reader.node(inputs[0])
    match operation.kind:
        case "LeakyRelu":
            return builder.function(F.leaky_relu, x, _short(given.get("alpha", 0.01)))
        case "Elu":
            return builder.function(F.elu, x, _short(given.get("alpha", 1.0)))
        case "Celu":
            return builder.function(F.celu, x, _short(given.get("alpha", 1.0)))
        case "ThresholdedRelu":
            return builder.function(F.threshold, x, _short(given.get("alpha", 1.0)), 0.0)
        case "Shrink":
            if given.get("bias", 0.0) != 0.0:
                raise ModelFileError("a shrinkage with a bias has no form in PyTorch.")
            return builder.function(F.hardshrink, x, _short(given.get("lambd", 0.5)))
        case "HardSigmoid":
            alpha, beta = given.get("alpha", 0.2), given.get("beta", 0.5)
            if math.isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
                return builder.function(F.hardsigmoid, x)
            scaled = builder.function(torch.add, builder.function(torch.mul, x, _short(alpha)), _short(beta))
            return builder.function(torch.clamp, scaled, 0.0, 1.0)
    return builder.function(F.gelu, x, approximate=given.get("approximate", "none"))


def _short(number: float) -> float:
    """The decimal that was meant by a float32: 0.1, not 0.10000000149011612."""
    return float(f"{number:.7g}") if np.float32(f"{number:.7g}") == np.float32(number) else float(number)


@handles("Clip")
def _clip(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    x, low, high = [*inputs, None, None][:3]
    bounds = [None if value is None else reader.operand(value) for value in (low, high)]
    if any(hasattr(bound, "graph") for bound in bounds):
        raise ModelFileError("its bounds are computed in the network, not stored. Only stored ones are read.")
    low, high = (None if bound is None or abs(bound) > 3e38 else bound for bound in bounds)
    if (low, high) == (0.0, 6.0):
        return reader.builder.function(F.relu6, reader.node(x))
    if (low, high) == (0.0, None):
        return reader.builder.function(F.relu, reader.node(x))
    if low is None and high is None:
        return x
    return reader.builder.function(torch.clamp, reader.node(x), low, high)


@handles("Softmax", "LogSoftmax")
def _softmax(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    builder, x = reader.builder, reader.node(inputs[0])
    function = F.softmax if operation.kind == "Softmax" else F.log_softmax
    rank = builder.rank(x)
    if reader.file.opset >= 13:
        return builder.function(function, x, dim=operation.attributes.get("axis", -1) % rank)
    axis = operation.attributes.get("axis", 1) % rank  # and all dimensions after it, together
    if axis == rank - 1:
        return builder.function(function, x, dim=axis)
    if all(size == 1 for size in builder.shapes(x)[0][axis + 1 :]):
        return builder.function(function, x, dim=axis)
    shape = builder.shapes(x)[0][axis:]
    flat = builder.function(function, builder.function(torch.flatten, x, axis), dim=axis)
    return builder.function(torch.unflatten, flat, axis, shape)


@handles("Hardmax")
def _hardmax(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    builder, x = reader.builder, reader.node(inputs[0])
    axis = operation.attributes.get("axis", -1) % builder.rank(x)
    if axis != builder.rank(x) - 1:
        raise ModelFileError("it is read along the last dimension only.")
    index = builder.function(torch.argmax, x, axis)
    return builder.method("to", builder.function(F.one_hot, index, builder.shapes(x)[0][axis]), builder.dtype(x))


def axes_of(reader: Reader, operation: Operation, inputs: list[Any], position: int = 1) -> list[int] | None:
    """An operation's axes, which older files have as an attribute; None: not given."""
    given = operation.attributes.get("axes")
    if given is None and len(inputs) > position and inputs[position] is not None:
        value = inputs[position]
        if not isinstance(value, Known):
            raise ModelFileError("its axes are computed in the network.")
        given = value.numbers
    return None if given is None else [int(axis) for axis in given]


_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax, "ReduceMin": torch.amin,
    "ReduceLogSumExp": torch.logsumexp, "ReduceL1": torch.sum, "ReduceL2": torch.linalg.vector_norm,
    "ReduceSumSquare": torch.sum, "ReduceLogSum": torch.sum,
}  # fmt: skip


@handles(*_REDUCTIONS)
def _reduce(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    builder, x = reader.builder, reader.node(inputs[0])
    axes = axes_of(reader, operation, inputs)
    if not axes:
        if operation.attributes.get("noop_with_empty_axes", 0):
            return x
        axes = list(range(builder.rank(x)))
    axes = sorted(axis % builder.rank(x) for axis in axes)
    keep = bool(operation.attributes.get("keepdims", 1))
    if operation.kind == "ReduceL1":
        x = builder.function(torch.abs, x)
    if operation.kind == "ReduceSumSquare":
        x = builder.function(torch.square, x)
    options: dict[str, Any] = {"dim": tuple(axes), "keepdim": keep}
    if operation.kind == "ReduceL2":
        options = {"ord": 2, **options}
    result = builder.function(_REDUCTIONS[operation.kind], x, **options)
    return builder.function(torch.log, result) if operation.kind == "ReduceLogSum" else result


@handles("ArgMax", "ArgMin")
def _arg(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    function = torch.argmax if operation.kind == "ArgMax" else torch.argmin
    axis, keep = operation.attributes.get("axis", 0), bool(operation.attributes.get("keepdims", 1))
    return reader.builder.function(function, reader.node(inputs[0]), axis, keep)


@handles("TopK")
def _top(reader: Reader, operation: Operation, inputs: list[Any]) -> tuple[Any, ...]:
    (count,) = inputs[1].numbers
    axis, largest = operation.attributes.get("axis", -1), bool(operation.attributes.get("largest", 1))
    found = reader.builder.function(torch.topk, reader.node(inputs[0]), count, axis, largest)
    return tuple(reader.builder.function(operator.getitem, found, index) for index in range(2))


@handles("CumSum")
def _cumsum(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    if operation.attributes.get("exclusive", 0) or operation.attributes.get("reverse", 0):
        raise ModelFileError("exclusive and reversed sums are not read.")
    return reader.builder.function(torch.cumsum, reader.node(inputs[0]), inputs[1].numbers[0])


@handles("Where")
def _where(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    condition, first, second = inputs
    choices = [reader.operand(value) for value in (first, second)]
    if not any(hasattr(choice, "graph") for choice in choices):
        choices = [reader.node(first), choices[1]]
    return reader.builder.function(torch.where, reader.node(condition), *choices)


@handles("Cast")
def _cast(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    dtype = torch_dtype(onnx_library().helper.tensor_dtype_to_np_dtype(operation.attributes["to"]))
    x = reader.node(inputs[0])
    return x if reader.builder.dtype(x) == dtype else reader.builder.method("to", x, dtype)


@handles("CastLike")
def _cast_like(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    x, like = reader.node(inputs[0]), inputs[1]
    dtype = torch_dtype(like.array.dtype) if isinstance(like, Known) else reader.builder.dtype(like)
    return x if reader.builder.dtype(x) == dtype else reader.builder.method("to", x, dtype)


@handles("Einsum")
def _einsum(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    return reader.builder.function(torch.einsum, operation.attributes["equation"], *map(reader.node, inputs))


@handles("Identity", "Dropout")
def _identity(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    if operation.kind == "Dropout" and len(inputs) > 2 and inputs[2] is not None and bool(np.any(inputs[2].array)):
        raise ModelFileError("it is in training mode. Export the network in evaluation mode.")
    return inputs[0]
