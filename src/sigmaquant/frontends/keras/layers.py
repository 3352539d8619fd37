"""Layers with weights, pools, and layers that move values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sigmaquant.errors import ModelFileError
from sigmaquant.frontends.keras.activations import activated
from sigmaquant.frontends.keras.reader import LAYERS, KerasReader, Value, reads
from sigmaquant.frontends.spatial import (
    BATCH_NORMS,
    GLOBAL_POOLS,
    convolution,
    filled,
    pad,
    pool,
    same_pads,
    transposed_convolution,
    without_end,
)

_Pads = list[tuple[int, int]]


def _several(value: Any, count: int) -> list[int]:
    return [int(value)] * count if isinstance(value, int) else [int(number) for number in value]


def _pads(layer: Any, sizes: tuple[int, ...], kernel: list[int], stride: list[int], dilation: list[int]) -> _Pads:
    if layer.padding == "same":
        return same_pads(sizes, kernel, stride, dilation)
    if layer.padding == "causal":
        return [(dilation[0] * (kernel[0] - 1), 0)]
    return [(0, 0)] * len(kernel)


def _bias(reader: KerasReader, layer: Any) -> Tensor | None:
    return reader.tensor(layer.bias) if layer.use_bias else None


def _convolved(
    reader: KerasReader,
    layer: Any,
    x: fx.Node,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    pads: _Pads,
    stride: list[int],
    dilation: list[int],
    part: str = "",
) -> fx.Node:
    before: list[Any] = []

    def make() -> nn.Module:
        module, _ = convolution(weight, bias, stride, dilation, groups, pads)
        return module

    even = all(first == last for first, last in pads)
    before = [(0, 0)] * len(pads) if even else pads
    name = reader.kept(layer, make, part, key=tuple(pads) if even else None)
    return reader.builder.call(name, pad(reader.builder, x, before))


@reads("Conv1D", "Conv2D", "Conv3D")
def _conv(reader: KerasReader, layer: Any, value: Value) -> Value:
    x = reader.images(value, layer)
    kernel = reader.tensor(layer.kernel)  # [*sizes, in, out]
    rank = kernel.dim() - 2
    weight = kernel.permute(rank + 1, rank, *range(rank))
    stride, dilation = _several(layer.strides, rank), _several(layer.dilation_rate, rank)
    pads = _pads(layer, reader.sizes(x), list(weight.shape[2:]), stride, dilation)
    result = _convolved(reader, layer, x, weight, _bias(reader, layer), layer.groups, pads, stride, dilation)
    return activated(reader, layer.activation, reader.made(result, layer))


def _depthwise_weight(kernel: Tensor) -> Tensor:
    *sizes, channels, multiplier = kernel.shape
    rank = len(sizes)
    return kernel.permute(rank, rank + 1, *range(rank)).reshape(channels * multiplier, 1, *sizes)


@reads("DepthwiseConv1D", "DepthwiseConv2D")
def _depthwise(reader: KerasReader, layer: Any, value: Value) -> Value:
    x = reader.images(value, layer)
    kernel = reader.tensor(layer.kernel)
    weight, rank = _depthwise_weight(kernel), kernel.dim() - 2
    stride, dilation = _several(layer.strides, rank), _several(layer.dilation_rate, rank)
    pads = _pads(layer, reader.sizes(x), list(weight.shape[2:]), stride, dilation)
    bias = _bias(reader, layer)
    result = _convolved(reader, layer, x, weight, bias, kernel.shape[-2], pads, stride, dilation)
    return activated(reader, layer.activation, reader.made(result, layer))


@reads("SeparableConv1D", "SeparableConv2D")
def _separable(reader: KerasReader, layer: Any, value: Value) -> Value:
    x = reader.images(value, layer)
    kernel, points = reader.tensor(layer.depthwise_kernel), reader.tensor(layer.pointwise_kernel)
    weight, rank = _depthwise_weight(kernel), kernel.dim() - 2
    stride, dilation = _several(layer.strides, rank), _several(layer.dilation_rate, rank)
    pads = _pads(layer, reader.sizes(x), list(weight.shape[2:]), stride, dilation)
    inner = _convolved(reader, layer, x, weight, None, kernel.shape[-2], pads, stride, dilation, "depthwise")
    outer = points.permute(rank + 1, rank, *range(rank))
    none, ones = [(0, 0)] * rank, [1] * rank
    result = _convolved(reader, layer, inner, outer, _bias(reader, layer), 1, none, ones, ones, "pointwise")
    return activated(reader, layer.activation, reader.made(result, layer))


@reads("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
def _conv_transpose(reader: KerasReader, layer: Any, value: Value) -> Value:
    if layer.output_padding is not None:
        raise ModelFileError("an output_padding is not read.")
    x = reader.images(value, layer)
    kernel = reader.tensor(layer.kernel)  # [*sizes, out, in]
    rank = kernel.dim() - 2
    weight = kernel.permute(rank + 1, rank, *range(rank))
    stride, dilation = _several(layer.strides, rank), _several(layer.dilation_rate, rank)
    spans = [d * (k - 1) + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    totals = [max(span - s, 0) if layer.padding == "same" else 0 for span, s in zip(spans, stride, strict=True)]
    pads = [(total // 2, total - total // 2) for total in totals]
    extra = [max(s - span, 0) for span, s in zip(spans, stride, strict=True)]
    bias = _bias(reader, layer)
    _, cut = transposed_convolution(weight, bias, stride, dilation, 1, pads, extra)
    name = reader.kept(layer, lambda: transposed_convolution(weight, bias, stride, dilation, 1, pads, extra)[0])
    result = without_end(reader.builder, reader.builder.call(name, x), cut)
    return activated(reader, layer.activation, reader.made(result, layer))


@reads("Dense")
def _dense(reader: KerasReader, layer: Any, value: Value) -> Value:
    weight, bias = reader.tensor(layer.kernel).T, _bias(reader, layer)
    node = value.node if value.flat else reader.plain(value)
    if value.flat:  # the file flattens channels last, here they come first: so do the columns
        channels, *sizes = value.flat
        columns = weight.reshape(len(weight), *sizes, channels)
        weight = columns.permute(0, columns.dim() - 1, *range(1, columns.dim() - 1)).reshape(len(weight), -1)

    def make() -> nn.Module:
        return filled(nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None), weight=weight, bias=bias)

    name = reader.kept(layer, make, key=value.flat)
    return activated(reader, layer.activation, Value(reader.builder.call(name, node)))


@reads("BatchNormalization")
def _batch_norm(reader: KerasReader, layer: Any, value: Value) -> Value:
    rank = reader.builder.rank(value.node)
    axis = layer.axis[0] if isinstance(layer.axis, list | tuple) else layer.axis
    mean, variance = reader.tensor(layer.moving_mean), reader.tensor(layer.moving_variance)
    weight = reader.tensor(layer.gamma) if layer.scale else torch.ones_like(mean)
    bias = reader.tensor(layer.beta) if layer.center else torch.zeros_like(mean)

    def make() -> nn.Module:
        module = BATCH_NORMS[max(rank - 3, 0)](len(mean), eps=layer.epsilon, momentum=1.0 - layer.momentum)
        return filled(module, weight=weight, bias=bias, running_mean=mean, running_var=variance)

    name = reader.kept(layer, make)
    last = axis in (-1, rank - 1)
    if rank == 2 or (axis == 1 and not last):
        return Value(reader.builder.call(name, reader.plain(value)))
    if not last:
        raise ModelFileError(f"it normalises dimension {axis}; only the channels are read.")
    return Value(reader.builder.call(name, reader.first(value)), moved=True)


@reads("LayerNormalization")
def _layer_norm(reader: KerasReader, layer: Any, value: Value) -> Value:
    x = reader.plain(value)
    rank = reader.builder.rank(x)
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    if [axis % rank for axis in axes] != list(range(rank - len(axes), rank)):
        raise ModelFileError(f"it normalises the dimensions {list(axes)}; PyTorch knows the last ones only.")
    if getattr(layer, "rms_scaling", False):
        raise ModelFileError("rms_scaling is not read.")
    shape = reader.builder.shapes(x)[0][rank - len(axes) :]
    weight = reader.tensor(layer.gamma) if layer.scale else torch.ones(shape)
    bias = reader.tensor(layer.beta) if layer.center else torch.zeros(shape)
    name = reader.kept(layer, lambda: filled(nn.LayerNorm(shape, eps=layer.epsilon), weight=weight, bias=bias))
    return Value(reader.builder.call(name, x))


@reads("GroupNormalization")
def _group_norm(reader: KerasReader, layer: Any, value: Value) -> Value:
    x = reader.first(value)
    channels = reader.builder.shapes(x)[0][1]
    groups = channels if layer.groups == -1 else layer.groups
    weight = reader.tensor(layer.gamma) if layer.scale else torch.ones(channels)
    bias = reader.tensor(layer.beta) if layer.center else torch.zeros(channels)
    module = nn.GroupNorm(groups, channels, eps=layer.epsilon)
    name = reader.kept(layer, lambda: filled(module, weight=weight, bias=bias))
    return Value(reader.builder.call(name, x), moved=True)


@reads("Embedding")
def _embedding(reader: KerasReader, layer: Any, value: Value) -> Value:
    if layer.mask_zero:
        raise ModelFileError("masks (mask_zero=True) are not read.")
    weight = reader.tensor(layer.embeddings)
    name = reader.kept(layer, lambda: filled(nn.Embedding(*weight.shape), weight=weight))
    node = reader.plain(value)
    if reader.builder.dtype(node).is_floating_point:
        node = reader.builder.method("to", node, torch.int64)
    return Value(reader.builder.call(name, node))


@reads("MultiHeadAttention")
def _attention(
    reader: KerasReader, layer: Any, query: Value, value: Value, key: Value | None = None, **options: Any
) -> Value:
    if any(option for name, option in options.items() if name != "use_causal_mask" and option not in (None, False)):
        raise ModelFileError("masks and returned scores are not read.")
    builder = reader.builder

    def projected(of: Value, dense: Any, part: str) -> fx.Node:
        kernel = reader.tensor(dense.kernel)  # [in, heads, width]
        weight = kernel.flatten(1).T
        bias = None if dense.bias is None else reader.tensor(dense.bias).flatten()
        module = filled(nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None), weight=weight, bias=bias)
        found = builder.call(reader.kept(layer, lambda: module, part), reader.plain(of))
        heads = builder.function(torch.unflatten, found, 2, tuple(kernel.shape[1:]))
        return builder.function(torch.transpose, heads, 1, 2)

    parts = [
        projected(query, layer._query_dense, "query"),
        projected(key or value, layer._key_dense, "key"),
        projected(value, layer._value_dense, "value"),
    ]
    causal = {"is_causal": True} if options.get("use_causal_mask") else {}
    mixed = builder.function(F.scaled_dot_product_attention, *parts, **causal)
    joined = builder.function(torch.flatten, builder.function(torch.transpose, mixed, 1, 2), 2)
    kernel = reader.tensor(layer._output_dense.kernel)  # [heads, width, out]
    weight = kernel.flatten(0, 1).T
    bias = None if layer._output_dense.bias is None else reader.tensor(layer._output_dense.bias)
    module = filled(nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None), weight=weight, bias=bias)
    return Value(builder.call(reader.kept(layer, lambda: module, "output"), joined))


@reads("MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "AveragePooling1D", "AveragePooling2D", "AveragePooling3D")
def _pool(reader: KerasReader, layer: Any, value: Value) -> Value:
    x = reader.images(value, layer)
    sizes = reader.sizes(x)
    kernel, stride = _several(layer.pool_size, len(sizes)), _several(layer.strides, len(sizes))
    pads = _pads(layer, sizes, kernel, stride, [1] * len(sizes))
    kind = "max" if type(layer).__name__.startswith("Max") else "average"
    return reader.made(pool(reader.builder, x, kind, kernel, stride, pads), layer)  # type: ignore[arg-type]


@reads(
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D",
    "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D",
)  # fmt: skip
def _global_pool(reader: KerasReader, layer: Any, value: Value) -> Value:
    x = reader.images(value, layer)
    kind = "max" if "Max" in type(layer).__name__ else "average"
    pooled = reader.builder.function(GLOBAL_POOLS[kind][len(reader.sizes(x)) - 1], x, 1)
    return reader.made(pooled, layer) if layer.keepdims else Value(reader.builder.function(torch.flatten, pooled, 1))


@reads("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
def _zero_padding(reader: KerasReader, layer: Any, value: Value) -> Value:
    x = reader.images(value, layer) if hasattr(layer, "data_format") else reader.first(value)
    given = layer.padding if isinstance(layer.padding[0], list | tuple) else [layer.padding]
    padded = pad(reader.builder, x, [tuple(pair) for pair in given])
    return reader.made(padded, layer) if hasattr(layer, "data_format") else Value(padded, moved=True)


@reads("Cropping1D", "Cropping2D", "Cropping3D")
def _cropping(reader: KerasReader, layer: Any, value: Value) -> Value:
    x = reader.images(value, layer) if hasattr(layer, "data_format") else reader.first(value)
    given = layer.cropping if isinstance(layer.cropping[0], list | tuple) else [layer.cropping]
    for axis, (size, (before, after)) in enumerate(zip(reader.sizes(x), given, strict=True)):
        if before or after:
            x = reader.builder.method("narrow", x, axis + 2, before, size - before - after)
    return reader.made(x, layer) if hasattr(layer, "data_format") else Value(x, moved=True)


@reads("UpSampling1D", "UpSampling2D")
def _upsampling(reader: KerasReader, layer: Any, value: Value) -> Value:
    image = hasattr(layer, "data_format")
    x = reader.images(value, layer) if image else reader.first(value)
    factors = _several(layer.size, len(reader.sizes(x)))
    kind = getattr(layer, "interpolation", "nearest")
    if kind not in ("nearest", "bilinear"):
        raise ModelFileError(f"the interpolation {kind!r} is not read; nearest and bilinear are.")
    size = tuple(size * factor for size, factor in zip(reader.sizes(x), factors, strict=True))
    options: dict[str, Any] = {"mode": kind, **({"align_corners": False} if kind == "bilinear" else {})}
    grown = reader.builder.function(F.interpolate, x, size, **options)
    return reader.made(grown, layer) if image else Value(grown, moved=True)


@reads("Flatten")
def _flatten(reader: KerasReader, layer: Any, value: Value) -> Value:
    if not value.moved:
        x = reader.plain(value)
        return Value(x if reader.builder.rank(x) == 2 else reader.builder.function(torch.flatten, x, 1))
    shape = reader.builder.shapes(value.node)[0][1:]
    spread = any(size > 1 for size in shape[1:]) and shape[0] > 1
    return Value(reader.builder.function(torch.flatten, value.node, 1), flat=shape if spread else ())


@reads("Reshape")
def _reshape(reader: KerasReader, layer: Any, value: Value) -> Value:
    target = [int(size) for size in layer.target_shape]
    total = 1
    for size in reader.shape(value):
        total *= size
    if -1 in target:
        rest = -1
        for size in target:
            rest *= size
        target[target.index(-1)] = total // rest
    if len(target) > 2 and all(size == 1 for size in target[:-1]) and not value.flat:
        node = reader.plain(value)
        return Value(reader.builder.function(torch.reshape, node, (-1, target[-1], *target[:-1])), moved=True)
    return Value(reader.builder.function(torch.reshape, reader.plain(value), (-1, *target)))


@reads("Permute")
def _permute(reader: KerasReader, layer: Any, value: Value) -> Value:
    return Value(reader.builder.function(torch.permute, reader.plain(value), (0, *layer.dims)))


@reads("RepeatVector")
def _repeat(reader: KerasReader, layer: Any, value: Value) -> Value:
    row = reader.builder.function(torch.unsqueeze, reader.plain(value), 1)
    return Value(reader.builder.method("expand", row, -1, layer.n, -1))


@reads("TimeDistributed")
def _time_distributed(reader: KerasReader, layer: Any, value: Value) -> Value:
    inner = layer.layer
    if type(inner).__name__ not in ("Dense", "Activation", "Dropout", "LayerNormalization"):
        raise ModelFileError(f"a {type(inner).__name__} for each time step is not read.")
    result: Value = LAYERS[type(inner).__name__](reader, inner, Value(reader.plain(value)))
    return result
