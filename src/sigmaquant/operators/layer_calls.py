"""Calls of layers with weights: what they mean, and what they multiply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, fx

from sigmaquant.exported.nodes import arguments, operator, tensor_value
from sigmaquant.exported.shapes import count, length, shape_at_one
from sigmaquant.operators.edge import Edge
from sigmaquant.operators.layers import LayerSum
from sigmaquant.operators.meaning import (
    Builder,
    Extent,
    Meaning,
    Value,
    constant_shape,
    extent,
    in_float,
    is_codes,
    is_constant,
    is_live,
    sizes,
)
from sigmaquant.operators.movement import Steps, moved, padded
from sigmaquant.operators.products import Operand, Product, dims, multiplies, nodes

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


@dataclass(frozen=True)
class LayerCall(Meaning):
    """A layer of the user: a module that is called, or an operator on a weight of its own.

    Attributes:
        node: the call.
        weight: the node of the weight where it is a functional one; None: the module's own.
        bias: the node of a functional bias.
        geometry: fields of a `Convolution` with the padding's mode as ``mode``; None for a linear layer.
        order: axes of the weight's codes that make them [out, ...]; None: as they are.
    """

    node: fx.Node = None  # type: ignore[assignment]
    weight: fx.Node | None = None
    bias: fx.Node | None = None
    geometry: tuple[tuple[str, Any], ...] | None = None
    order: tuple[int, ...] | None = None

    producer: ClassVar[str] = "layer"
    clippable: ClassVar[bool] = True
    affine: ClassVar[bool] = True

    @property
    def channel_axis(self) -> int | None:
        return len(self.shape) - 1 if self.geometry is None else 0

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        edge = values[0]
        weight = to.weight(self.node if self.weight is None else self.weight)
        if not is_codes(edge) or weight is None:
            return None
        module: Any = to.module(self.node) if self.weight is None else None
        codes, axis = weight.codes, weight.axis
        if self.order is not None:
            codes, axis = codes.transpose(self.order), self.order.index(axis)
        geometry = None if self.geometry is None else dict(self.geometry)
        transposed = bool(geometry and geometry["transposed"])
        if axis != int(transposed):
            return None  # the scales do not run along the output channels
        groups = int(geometry["groups"]) if geometry else 1
        channels = codes.shape[1] * groups if transposed else codes.shape[0]
        scale = weight.scale
        if len(scale) != channels:  # grouped and transposed: the like channels of all groups share a scale
            scale = np.tile(scale, channels // len(scale))
        bias_value = module.bias if module is not None else None if self.bias is None else to.constant(self.bias)
        bias = np.zeros(channels) if bias_value is None else bias_value.detach().double().cpu().numpy().reshape(-1)
        if len(bias) != channels:
            bias = np.broadcast_to(bias, (channels,)) if len(bias) == 1 else None
        if bias is None:
            return None
        if geometry is not None and (mode := geometry.pop("mode")) != "zeros":
            edge = _padded(edge, geometry["padding"], mode, to)
            geometry["padding"] = ((0, 0),) * len(geometry["padding"])
        name = str(self.node.target) if self.weight is None else weight.layer
        kept = replace(weight, codes=np.ascontiguousarray(codes), axis=axis)
        return LayerSum(
            name=name, edge=edge, weight=kept, scale=scale, bias=bias, geometry=geometry,
            fine_bias=to.fine_bias, rank=len(self.shape),
        )  # fmt: skip


def _padded(edge: Edge, sides: tuple[tuple[int, int], ...], mode: str, to: Builder) -> Edge:
    """A convolution's input with what the convolution itself pads it with: copies of codes, not zeros."""
    steps = padded(Steps(Extent(edge.rows, edge.shape)), ((0, 0), *sides), mode)
    assert steps is not None, f"torch has no padding {mode!r}"
    return moved(edge, steps, to)


def parse_module(node: fx.Node, module: Any) -> Meaning | None:
    """The meaning of a call of a stock convolution, linear layer or BatchNorm; None for other modules."""
    from torch import nn

    from sigmaquant.operators.affine import Normalization

    anywhere = isinstance(module, nn.Linear)
    source, found = (node.args[0] if node.args else None), extent(node, anywhere)
    place = extent(source, anywhere) if is_live(source) else None
    if found is None or place is None or place.rows != found.rows or not isinstance(source, fx.Node):
        return None
    if isinstance(module, nn.Linear):
        last = place.axis(-1) == len(place.shape) - 1 and bool(place.shape)
        return LayerCall((source,), found.rows, found.shape, node) if last else None
    if isinstance(module, nn.modules.conv._ConvNd):
        if len(place.shape) != len(module.kernel_size) + 1:
            return None
        return LayerCall((source,), found.rows, found.shape, node, geometry=tuple(_geometry_of(module).items()))
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
        varies = (found.shape[0], *[1] * (len(found.shape) - 1))
        return Normalization((source,), found.rows, found.shape, varies, node)
    return None


def _geometry_of(module: Any) -> dict[str, Any]:
    """The fields of a `Convolution` that are not numbers to learn, and the mode of its padding."""
    rank = len(module.kernel_size)
    if module.padding == "same":
        total = [d * (k - 1) for k, d in zip(module.kernel_size, module.dilation, strict=True)]
        padding = tuple((t // 2, t - t // 2) for t in total)
    else:
        sides = (0,) * rank if module.padding == "valid" else module.padding
        padding = tuple((int(p), int(p)) for p in sides)
    return {
        "stride": tuple(module.stride),
        "padding": padding,
        "dilation": tuple(module.dilation),
        "groups": int(module.groups),
        "transposed": bool(module.transposed),
        "output_padding": tuple(module.output_padding),
        "mode": str(module.padding_mode),
    }


def parse_functional(node: fx.Node, is_weight: Any) -> Meaning | None:
    """The meaning of a product with a weight that no stock module owns; None for any other node.

    Args:
        node: calls an operator.
        is_weight: tells the nodes that hold such a weight, unchanged.
    """
    name, bound = operator(node), arguments(node)
    if name not in _FUNCTIONAL:
        return None
    anywhere = not name.startswith("conv")
    found = extent(node, anywhere)
    source, weight, bias, order = _operands(name, bound)
    place = extent(source, anywhere) if is_live(source) else None
    if found is None:
        return None
    if place is None or place.rows != found.rows or not isinstance(weight, fx.Node) or not is_weight(weight):
        return None
    if bias is not None and (not isinstance(bias, fx.Node) or not is_constant(bias)):
        return None
    value = weight.meta.get("val")
    if not isinstance(value, Tensor):
        return None
    if bias is not None:
        shape = constant_shape(bias, len(found.shape)) if not name.startswith("conv") else ()
        if shape is None or any(size != 1 for size in shape[:-1]):
            return None
    if not name.startswith("conv"):
        if value.dim() != 2 or not place.shape or (name == "addmm" and (bound["alpha"], bound["beta"]) != (1, 1)):
            return None
        return LayerCall((source,), found.rows, found.shape, node, weight, bias, None, order)
    space = value.dim() - 2
    padding = bound["padding"]
    if isinstance(padding, str) or len(place.shape) != space + 1:
        return None
    geometry = {
        "stride": sizes(bound["stride"], space),
        "padding": tuple((p, p) for p in sizes(padding, space)),
        "dilation": sizes(bound["dilation"], space),
        "groups": int(bound["groups"]),
        "transposed": "transpose" in name,
        "output_padding": sizes(bound.get("output_padding", 0), space),
        "mode": "zeros",
    }
    return LayerCall((source,), found.rows, found.shape, node, weight, bias, tuple(geometry.items()))


_FUNCTIONAL = {"linear", "matmul", "mm", "addmm", *CONVOLUTIONS, *TRANSPOSED}


def _operands(name: str, bound: dict[str, Any]) -> tuple[Any, Any, Any, tuple[int, ...] | None]:
    """Source, weight, bias, and the order of the weight's axes that makes it [out, in]."""
    if name in ("matmul", "mm"):
        return bound["self"], bound["other" if name == "matmul" else "mat2"], None, (1, 0)
    if name == "addmm":
        return bound["mat1"], bound["mat2"], bound["self"], (1, 0)
    return bound["input"], bound["weight"], bound["bias"], None


in_float(
    "linear", "addmm", "convolution", *CONVOLUTIONS, *TRANSPOSED, "bilinear", "embedding", "embedding_bag",
    producer="layer",
)  # fmt: skip


# -- products --------------------------------------------------------------------------------------------------------


@multiplies("linear")
def _(node: fx.Node, bound: Mapping[str, Any]) -> tuple[Product, ...]:
    weight = bound["weight"]
    operand = Operand(weight, (dims(weight) - 1,), 0)
    macs = count(node) * length(weight, -1)
    return (Product(node, (bound["input"],), (operand,), nodes(bound["bias"]), macs),)


@multiplies("embedding", "embedding_bag")
def _(node: fx.Node, bound: Mapping[str, Any]) -> tuple[Product, ...]:
    return (Product(node, (bound["indices"],), (Operand(bound["weight"], (1,), 0),)),)


@multiplies("bilinear")
def _(node: fx.Node, bound: Mapping[str, Any]) -> tuple[Product, ...]:
    weight = bound["weight"]
    macs = count(node) * length(weight, 1) * length(weight, 2)
    sources = (bound["input1"], bound["input2"])
    return (Product(node, sources, (Operand(weight, (1, 2), 0),), nodes(bound["bias"]), macs),)


@multiplies(*CONVOLUTIONS, *TRANSPOSED)
def _(node: fx.Node, bound: Mapping[str, Any]) -> tuple[Product, ...]:
    weight = bound["weight"]
    value = tensor_value(weight)
    per_position = 0 if value is None else prod(shape_at_one(value)[1:])
    if operator(node) in TRANSPOSED:  # weight: [in, out / groups, *kernel]
        operand = Operand(weight, (0, *range(2, dims(weight))), 1)
        macs = count(bound["input"]) * per_position
    else:  # weight: [out, in / groups, *kernel]
        operand = Operand(weight, tuple(range(1, dims(weight))), 0)
        macs = count(node) * per_position
    groups = int(bound["groups"])
    return (Product(node, (bound["input"],), (operand,), nodes(bound["bias"]), macs, groups=groups),)
