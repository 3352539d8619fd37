"""Layers and operations on single values and pairs of them: activations, arithmetic, joining."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from sigmaquant.errors import ModelFileError
from sigmaquant.frontends.keras.reader import KerasReader, Value, reads, reads_operation
from sigmaquant.frontends.spatial import filled

_FUNCTIONS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "relu": (F.relu, {}), "relu6": (F.relu6, {}), "sigmoid": (torch.sigmoid, {}), "tanh": (torch.tanh, {}),
    "silu": (F.silu, {}), "swish": (F.silu, {}), "gelu": (F.gelu, {}), "elu": (F.elu, {}), "selu": (F.selu, {}),
    "softplus": (F.softplus, {}), "softsign": (F.softsign, {}), "exponential": (torch.exp, {}), "mish": (F.mish, {}),
    "hard_sigmoid": (F.hardsigmoid, {}), "hard_silu": (F.hardswish, {}), "hard_swish": (F.hardswish, {}),
    "leaky_relu": (F.leaky_relu, {"negative_slope": 0.2}), "celu": (F.celu, {}), "log_sigmoid": (F.logsigmoid, {}),
}  # fmt: skip
_ALONG = {"softmax": F.softmax, "log_softmax": F.log_softmax}


def activated(reader: KerasReader, function: Any, value: Value) -> Value:
    """A value after an activation of Keras.

    Raises:
        ModelFileError: another one than PyTorch has.
    """
    name = getattr(function, "__name__", type(function).__name__)
    if name == "linear":
        return value
    if name in _ALONG:
        return _along_channels(reader, _ALONG[name], value)
    if name not in _FUNCTIONS:
        raise ModelFileError(f"its activation {name!r} is not read.")
    called, options = _FUNCTIONS[name]
    return _same(value, reader.builder.function(called, value.node, **options))


def _same(value: Value, node: fx.Node) -> Value:
    """Another value in the same layout."""
    return Value(node, value.moved, value.flat)


def _along_channels(reader: KerasReader, function: Callable[..., Any], value: Value) -> Value:
    return _same(value, reader.builder.function(function, value.node, dim=1 if value.moved else -1))


@reads("Activation")
def _activation(reader: KerasReader, layer: Any, value: Value) -> Value:
    return activated(reader, layer.activation, value)


@reads("Softmax")
def _softmax(reader: KerasReader, layer: Any, value: Value) -> Value:
    rank = reader.builder.rank(value.node)
    if layer.axis not in (-1, rank - 1):
        return Value(reader.builder.function(F.softmax, reader.plain(value), dim=layer.axis))
    return _along_channels(reader, F.softmax, value)


@reads("ReLU")
def _relu(reader: KerasReader, layer: Any, value: Value) -> Value:
    top, slope, threshold = layer.max_value, float(layer.negative_slope or 0), float(layer.threshold or 0)
    if threshold or (slope and top is not None):
        raise ModelFileError("a threshold, or a slope together with a largest value, is not read.")
    builder, node = reader.builder, value.node
    if slope:
        return _same(value, builder.function(F.leaky_relu, node, slope))
    if top is None:
        return _same(value, builder.function(F.relu, node))
    if float(top) == 6.0:
        return _same(value, builder.function(F.relu6, node))
    return _same(value, builder.function(torch.clamp, node, 0.0, float(top)))


@reads("LeakyReLU")
def _leaky(reader: KerasReader, layer: Any, value: Value) -> Value:
    return _same(value, reader.builder.function(F.leaky_relu, value.node, float(layer.negative_slope)))


@reads("ELU")
def _elu(reader: KerasReader, layer: Any, value: Value) -> Value:
    return _same(value, reader.builder.function(F.elu, value.node, float(layer.alpha)))


@reads("PReLU")
def _prelu(reader: KerasReader, layer: Any, value: Value) -> Value:
    slopes = reader.tensor(layer.alpha)
    if slopes.numel() not in (1, slopes.shape[-1]):
        raise ModelFileError("slopes that differ by place are not read: share them, as with shared_axes=[1, 2].")
    image = reader.builder.rank(value.node) > 2
    node = reader.first(value) if image else reader.plain(value)
    name = reader.kept(layer, lambda: filled(nn.PReLU(slopes.numel()), weight=slopes.reshape(-1)))
    return Value(reader.builder.call(name, node), moved=image)


@reads(
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianNoise", "GaussianDropout",
    "AlphaDropout", "ActivityRegularization", "Identity", "RandomFlip", "RandomRotation", "RandomTranslation",
    "RandomZoom", "RandomContrast", "RandomBrightness",
)  # fmt: skip
def _inactive(reader: KerasReader, layer: Any, value: Value) -> Value:
    return value


@reads("Rescaling")
def _rescaling(reader: KerasReader, layer: Any, value: Value) -> Value:
    factors = []
    for given in (layer.scale, layer.offset):
        if isinstance(given, list | tuple) and len(set(given)) > 1:
            raise ModelFileError("a scale or offset for each channel is not read. Normalise the data before.")
        factors.append(float(given[0] if isinstance(given, list | tuple) else given))
    node = value.node
    if not reader.builder.dtype(node).is_floating_point:
        node = reader.builder.method("to", node, torch.float32)
    if factors[0] != 1.0:
        node = reader.builder.function(torch.mul, node, factors[0])
    return _same(value, reader.builder.function(torch.add, node, factors[1]) if factors[1] else node)


@reads("Normalization")
def _normalization(reader: KerasReader, layer: Any, value: Value) -> Value:
    node, builder = reader.plain(value), reader.builder
    mean, deviation = reader.tensor(layer.mean), reader.tensor(layer.variance).sqrt().clamp_min(1e-7)
    if layer.invert:
        raise ModelFileError("an inverted normalisation is not read.")
    named = {"mean": mean, "std": deviation}
    stored = [builder.tensor(f"{layer.name}.{name}", values, trained=False) for name, values in named.items()]
    return Value(builder.function(torch.div, builder.function(torch.sub, node, stored[0]), stored[1]))


def _together(reader: KerasReader, values: list[Value]) -> tuple[list[fx.Node], Value]:
    """The nodes of several values in one layout, and a value in it."""
    ranks = {reader.builder.rank(value.node) for value in values}
    if len({(value.moved, value.flat) for value in values}) == len(ranks) == 1:
        return [value.node for value in values], values[0]
    if len(ranks) == 1 and max(ranks) > 2:
        nodes = [reader.first(value) for value in values]
        return nodes, Value(nodes[0], moved=True)
    nodes = [reader.plain(value) for value in values]
    return nodes, Value(nodes[0])


_MERGES: dict[str, Callable[..., Any]] = {
    "Add": torch.add, "Subtract": torch.sub, "Multiply": torch.mul, "Maximum": torch.maximum, "Minimum": torch.minimum,
    "Average": torch.add,
}  # fmt: skip


@reads(*_MERGES)
def _merge(reader: KerasReader, layer: Any, values: list[Value]) -> Value:
    nodes, like = _together(reader, values)
    result = nodes[0]
    for node in nodes[1:]:
        result = reader.builder.function(_MERGES[type(layer).__name__], result, node)
    if type(layer).__name__ == "Average":
        result = reader.builder.function(torch.div, result, len(nodes))
    return _same(like, result)


@reads("Concatenate")
def _concatenate(reader: KerasReader, layer: Any, values: list[Value]) -> Value:
    rank = reader.builder.rank(values[0].node)
    axis = layer.axis % rank
    nodes, like = _together(reader, values)
    if like.flat:
        nodes, like = [reader.plain(value) for value in values], Value(nodes[0])
    if like.moved:
        axis = 1 if axis == rank - 1 else axis + 1 if axis else 0
    return _same(like, reader.builder.function(torch.cat, nodes, axis))


_BINARY: dict[str, Callable[..., Any]] = {
    "Add": torch.add, "Subtract": torch.sub, "Multiply": torch.mul, "Divide": torch.div, "TrueDivide": torch.div,
    "Power": torch.pow, "Maximum": torch.maximum, "Minimum": torch.minimum,
}  # fmt: skip


@reads_operation(*_BINARY)
def _binary(reader: KerasReader, layer: Any, first: Any, second: Any) -> Value:
    function = _BINARY[type(layer).__name__]
    if isinstance(first, Value) and isinstance(second, Value):
        (left, right), like = _together(reader, [first, second])
        return _same(like, reader.builder.function(function, left, right))
    given = first if isinstance(first, Value) else second
    if isinstance(first, Value) and isinstance(second, int | float):
        return _same(given, reader.builder.function(function, given.node, second))
    if isinstance(first, int | float) and type(layer).__name__ in ("Add", "Multiply"):
        return _same(given, reader.builder.function(function, given.node, first))
    if isinstance(first, int | float) and type(layer).__name__ == "Subtract":
        return _same(given, reader.builder.function(torch.rsub, given.node, first))
    raise ModelFileError("it is read on tensors and plain numbers only.")


_UNARY = {
    "Relu": "relu", "Relu6": "relu6", "Sigmoid": "sigmoid", "Tanh": "tanh", "Silu": "silu", "Softplus": "softplus",
    "HardSigmoid": "hard_sigmoid", "HardSilu": "hard_silu", "Exp": "exponential",
}  # fmt: skip


@reads_operation(*_UNARY)
def _unary(reader: KerasReader, layer: Any, value: Value) -> Value:
    called, options = _FUNCTIONS[_UNARY[type(layer).__name__]]
    return _same(value, reader.builder.function(called, value.node, **options))
