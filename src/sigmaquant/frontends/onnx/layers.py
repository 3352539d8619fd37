"""Operators with weights: convolutions, matrix products, normalisations, embeddings."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional as F

from sigmaquant.errors import ModelFileError
from sigmaquant.frontends.onnx.file import Operation, tensor_of
from sigmaquant.frontends.onnx.reader import Reader, handles
from sigmaquant.frontends.onnx.values import Known
from sigmaquant.frontends.spatial import (
    BATCH_NORMS,
    INSTANCE_NORMS,
    convolution,
    filled,
    pad,
    same_pads,
    transposed_convolution,
    without_end,
)


def spatial_pads(
    operation: Operation, sizes: list[int], kernel: list[int], stride: list[int], dilation: list[int]
) -> list[tuple[int, int]]:
    """What an operation's ``pads`` or ``auto_pad`` say, for each dimension."""
    auto = operation.attributes.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        return same_pads(sizes, kernel, stride, dilation, upper=auto == "SAME_UPPER")
    flat = operation.attributes.get("pads", [0] * (2 * len(kernel)))
    if auto == "VALID":
        flat = [0] * (2 * len(kernel))
    return list(zip(flat[: len(kernel)], flat[len(kernel) :], strict=True))


def _weight(value: Any, what: str = "weight") -> torch.Tensor:
    if not isinstance(value, Known):
        raise ModelFileError(f"its {what} is computed in the network, not stored. Only stored ones are read.")
    return tensor_of(value.array)


@handles("Conv")
def _conv(reader: Reader, operation: Operation, inputs: list[Any]) -> fx.Node:
    x, stored, *rest = inputs
    bias = rest[0] if rest else None
    weight = _weight(stored)
    kernel = list(weight.shape[2:])
    ones = [1] * len(kernel)
    stride = list(operation.attributes.get("strides", ones))
    dilation = list(operation.attributes.get("dilations", ones))
    groups = operation.attributes.get("group", 1)
    pads = spatial_pads(operation, list(reader.sizes(x)[0][2:]), kernel, stride, dilation)
    module, before = convolution(
        weight, None if bias is None else _weight(bias, "bias"), stride, dilation, groups, pads
    )
    key = (tuple(stride), tuple(dilation), groups, tuple(pads))
    target = reader.layer(operation, module, stored, *([bias] if bias is not None else []), key=key)
    return reader.builder.call(target, pad(reader.builder, reader.node(x), before))


@handles("ConvTranspose")
def _conv_transpose(reader: Reader, operation: Operation, inputs: list[Any]) -> fx.Node:
    x, stored, *rest = inputs
    bias = rest[0] if rest else None
    weight = _weight(stored)
    kernel = list(weight.shape[2:])
    ones = [1] * len(kernel)
    stride = list(operation.attributes.get("strides", ones))
    dilation = list(operation.attributes.get("dilations", ones))
    extra = list(operation.attributes.get("output_padding", [0] * len(kernel)))
    groups = operation.attributes.get("group", 1)
    sizes = reader.sizes(x)[0][2:]
    auto, wanted = operation.attributes.get("auto_pad", "NOTSET"), operation.attributes.get("output_shape")
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * s for size, s in zip(sizes, stride, strict=True)]
    if wanted is None:
        pads = spatial_pads(operation, list(sizes), kernel, stride, dilation)
    else:
        pads = []
        spatial = wanted[-len(kernel) :]
        for size, k, s, d, more, out in zip(sizes, kernel, stride, dilation, extra, spatial, strict=True):
            total = max(s * (size - 1) + more + d * (k - 1) + 1 - out, 0)
            half = total // 2
            pads.append((half, total - half) if auto != "SAME_LOWER" else (total - half, half))
    module, cut = transposed_convolution(
        weight, None if bias is None else _weight(bias, "bias"), stride, dilation, groups, pads, extra
    )
    key = (tuple(stride), tuple(dilation), groups, tuple(pads), tuple(extra))
    target = reader.layer(operation, module, stored, *([bias] if bias is not None else []), key=key)
    return without_end(reader.builder, reader.builder.call(target, reader.node(x)), cut)


def _linear(
    reader: Reader, operation: Operation, x: fx.Node, weight: Known, bias: Known | None, scale: float = 1.0
) -> fx.Node:
    """A linear layer of a weight ``[out, in]``."""
    values = tensor_of(weight.array) * scale if scale != 1.0 else tensor_of(weight.array)
    module = nn.Linear(values.shape[1], values.shape[0], bias=bias is not None)
    filled(module, weight=values, bias=None if bias is None else tensor_of(bias.array))
    stored = [weight] if bias is None else [weight, bias]
    target = reader.layer(operation, module, *stored, key=(values.shape, scale))
    return reader.builder.call(target, x)


@handles("Gemm")
def _gemm(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    a, b, *rest = inputs
    c = rest[0] if rest else None
    alpha, beta = operation.attributes.get("alpha", 1.0), operation.attributes.get("beta", 1.0)
    builder = reader.builder
    x = reader.node(a)
    if operation.attributes.get("transA", 0):
        x = builder.function(torch.transpose, x, 0, 1)
    transposed = operation.attributes.get("transB", 0)
    if isinstance(b, Known) and (c is None or (isinstance(c, Known) and c.array.size in (1, _columns(b, transposed)))):
        weight = b if transposed else b.mapped(np.transpose)
        out = weight.array.shape[0]
        bias = None if c is None else c.mapped(lambda v: np.broadcast_to(v.reshape(-1) * np.float32(beta), (out,)))
        return _linear(reader, operation, x, weight, bias, alpha)
    y = reader.node(b)
    product = builder.function(torch.matmul, x, builder.function(torch.transpose, y, 0, 1) if transposed else y)
    product = product if alpha == 1.0 else builder.function(torch.mul, product, alpha)
    if c is None:
        return product
    addend = reader.operand(c)
    return builder.function(torch.add, product, addend if beta == 1.0 else builder.function(torch.mul, addend, beta))


def _columns(b: Known, transposed: int) -> int:
    return int(b.array.shape[0 if transposed else 1])


@handles("MatMul")
def _matmul(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    a, b = inputs
    if not isinstance(b, Known) or b.array.ndim != 2 or reader.rank(a) < 2:
        return reader.builder.function(torch.matmul, reader.node(a), reader.node(b))
    addition, bias = _bias_after(reader, operation, b.array.shape[1])
    result = _linear(reader, operation, reader.node(a), b.mapped(np.transpose), bias)
    if addition is not None:
        reader.values[addition.outputs[0]] = result
    return result


def _bias_after(reader: Reader, operation: Operation, columns: int) -> tuple[Operation | None, Known | None]:
    """The addition of a stored bias that follows, and that bias."""
    addition = reader.only_reader(operation.outputs[0])
    if addition is None or addition.kind != "Add":
        return None, None
    (other,) = [name for name in addition.inputs if name != operation.outputs[0]] or [""]
    bias = reader.values.get(other)
    if isinstance(bias, Known) and bias.fixed and bias.array.shape in ((columns,), (1, columns), (1, 1, columns)):
        return addition, bias.mapped(lambda values: values.reshape(-1))
    return None, None


@handles("BatchNormalization")
def _batch_norm(reader: Reader, operation: Operation, inputs: list[Any]) -> fx.Node:
    x, scale, shift, mean, variance = inputs
    rank = reader.rank(x)
    if operation.attributes.get("training_mode", 0):
        raise ModelFileError("it is in training mode. Export the network in evaluation mode.")
    tensors = [_weight(value, "statistics") for value in (scale, shift, mean, variance)]
    module = BATCH_NORMS[max(rank - 3, 0)](
        len(tensors[0]),
        eps=operation.attributes.get("epsilon", 1e-5),
        momentum=1.0 - operation.attributes.get("momentum", 0.9),
    )
    names = ("weight", "bias", "running_mean", "running_var")
    filled(module, **dict(zip(names, tensors, strict=True)))
    target = reader.layer(operation, module, scale, shift, mean, variance)
    return reader.builder.call(target, reader.node(x))


@handles("InstanceNormalization")
def _instance_norm(reader: Reader, operation: Operation, inputs: list[Any]) -> fx.Node:
    x, scale, shift = inputs
    weight, bias = _weight(scale), _weight(shift)
    eps = operation.attributes.get("epsilon", 1e-5)
    module = INSTANCE_NORMS[reader.rank(x) - 3](len(weight), eps=eps, affine=True)
    target = reader.layer(operation, filled(module, weight=weight, bias=bias), scale, shift)
    return reader.builder.call(target, reader.node(x))


@handles("GroupNormalization")
def _group_norm(reader: Reader, operation: Operation, inputs: list[Any]) -> fx.Node:
    x, scale, shift = inputs
    weight, bias = _weight(scale), _weight(shift)
    groups, channels = operation.attributes["num_groups"], reader.sizes(x)[0][1]
    if len(weight) == groups != channels:  # opset 18 has one value a group
        weight, bias = (t.repeat_interleave(channels // groups) for t in (weight, bias))
    module = nn.GroupNorm(groups, channels, eps=operation.attributes.get("epsilon", 1e-5))
    target = reader.layer(operation, filled(module, weight=weight, bias=bias), scale, shift)
    return reader.builder.call(target, reader.node(x))


@handles("LayerNormalization", "sigmaquant.LayerNorm")
def _layer_norm(reader: Reader, operation: Operation, inputs: list[Any]) -> fx.Node:
    x, scale, *rest = inputs
    shift = rest[0] if rest else None
    axis = operation.attributes.get("axis", -1) % reader.rank(x)
    shape = reader.sizes(x)[0][axis:]
    weight = _weight(scale)
    if tuple(weight.shape) != shape:
        weight = weight.expand(shape)
    eps = operation.attributes.get("epsilon", 1e-5)
    module = nn.LayerNorm(shape, eps=eps, bias=shift is not None)
    filled(module, weight=weight, bias=None if shift is None else _weight(shift, "bias").expand(shape))
    target = reader.layer(operation, module, scale, *([shift] if shift is not None else []), key=shape)
    return reader.builder.call(target, reader.node(x))


@handles("RMSNormalization")
def _rms_norm(reader: Reader, operation: Operation, inputs: list[Any]) -> fx.Node:
    x, scale = inputs
    axis = operation.attributes.get("axis", -1) % reader.rank(x)
    module = nn.RMSNorm(reader.sizes(x)[0][axis:], eps=operation.attributes.get("epsilon", 1e-5))
    target = reader.layer(operation, filled(module, weight=_weight(scale)), scale)
    return reader.builder.call(target, reader.node(x))


@handles("LRN")
def _local_norm(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    given = operation.attributes
    alpha, beta, k = given.get("alpha", 1e-4), given.get("beta", 0.75), given.get("bias", 1.0)
    return reader.builder.function(F.local_response_norm, reader.node(inputs[0]), given["size"], alpha, beta, k)


@handles("PRelu")
def _prelu(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    x, slope = inputs
    values = _weight(slope, "slope")
    channels = reader.sizes(x)[0][1]
    along = values.dim() >= reader.rank(x) - 1 and values.shape[-(reader.rank(x) - 1)] == channels
    if values.numel() != 1 and not (along and values.numel() == channels):
        raise ModelFileError(f"its slopes have the shape {tuple(values.shape)}; PyTorch knows one a channel, or one.")
    module = nn.PReLU(values.numel())
    target = reader.layer(operation, filled(module, weight=values.reshape(-1)), slope)
    return reader.builder.call(target, reader.node(x))


@handles("Gather")
def _gather(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    data, indices = inputs
    builder = reader.builder
    axis = operation.attributes.get("axis", 0) % reader.rank(data)
    if isinstance(data, Known) and data.stored and data.array.ndim == 2 and axis == 0 and data.array.dtype.kind == "f":
        weight = tensor_of(data.array)
        target = reader.layer(operation, filled(nn.Embedding(*weight.shape), weight=weight), data)
        index = reader.node(indices)
        return builder.call(target, index)
    if isinstance(indices, Known):
        size = reader.sizes(data)[0][axis]
        numbers = np.where(indices.array < 0, indices.array + size, indices.array)
        if numbers.ndim == 0:
            return builder.function(torch.select, reader.node(data), axis, int(numbers))
        if numbers.ndim == 1:
            first, last = int(numbers[0]), int(numbers[-1])
            if np.array_equal(numbers, np.arange(first, last + 1)):
                return builder.method("narrow", reader.node(data), axis, first, len(numbers))
            chosen = reader.node(indices.mapped(lambda _: numbers))
            return builder.function(torch.index_select, reader.node(data), axis, chosen)
        flat = indices.mapped(lambda _: numbers.reshape(-1))
        chosen = builder.function(torch.index_select, reader.node(data), axis, reader.node(flat))
        return builder.function(torch.unflatten, chosen, axis, tuple(numbers.shape))
    index = reader.node(indices)
    before = (slice(None),) * axis
    return builder.function(operator.getitem, reader.node(data), (*before, index))
