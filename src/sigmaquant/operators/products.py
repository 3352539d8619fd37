"""Matrix products: which operands an operator multiplies and sums, and how many multiply-accumulates that takes.

Counts are for one example. Conventions: a convolution takes output elements × (in_channels / groups × kernel), its
positions over padding included; a transposed convolution input elements × (out_channels / groups × kernel); a linear
layer positions × in × out; an embedding 0; a recurrent matrix sequence length × its elements; attention both of its
products, without softmax. Biases, scalings and element-by-element operators count as nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from torch import fx

from sigmaquant.exported.nodes import arguments, operator, tensor_value
from sigmaquant.exported.shapes import count, length, shape_at_one

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
CELLS = ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")


@dataclass(frozen=True)
class Operand:
    """An operand that may be a weight.

    Attributes:
        node: what yields it.
        contraction: the axes that are summed over; a scale must be constant along them.
        channel: the axis of output channels.
    """

    node: fx.Node
    contraction: tuple[int, ...]
    channel: int


@dataclass(frozen=True)
class Product:
    """One product of an operator.

    Attributes:
        node: the operator.
        sources: its inputs that are not the weight, or all operands where either may be the weight.
        weights: the operands that may be the weight.
        bias: what is added, if anything.
        macs: multiply-accumulates for one example.
        recurrent: a matrix of a recurrent layer.
        groups: groups of a convolution.
    """

    node: fx.Node
    sources: tuple[fx.Node, ...]
    weights: tuple[Operand, ...]
    bias: tuple[fx.Node, ...] = ()
    macs: int = 0
    recurrent: bool = False
    groups: int = 1


def products(node: fx.Node) -> tuple[Product, ...]:
    """The products an operator computes; none for all other nodes."""
    name = operator(node)
    bound = arguments(node)
    if not bound:
        return ()
    if name in CONVOLUTIONS or name in TRANSPOSED:
        return (_convolution(node, bound, transposed=name in TRANSPOSED),)
    if name == "linear":
        weight = bound["weight"]
        operand = Operand(weight, (_dims(weight) - 1,), 0)
        macs = count(node) * length(weight, -1)
        return (Product(node, (bound["input"],), (operand,), _nodes(bound["bias"]), macs),)
    if name in ("embedding", "embedding_bag"):
        return (Product(node, (bound["indices"],), (Operand(bound["weight"], (1,), 0),)),)
    if name == "bilinear":
        weight = bound["weight"]
        macs = count(node) * length(weight, 1) * length(weight, 2)
        sources = (bound["input1"], bound["input2"])
        return (Product(node, sources, (Operand(weight, (1, 2), 0),), _nodes(bound["bias"]), macs),)
    if name in RECURRENT or name in CELLS:
        return _recurrent(node, bound)
    if name == "einsum":
        return _einsum(node, bound)
    if name == "scaled_dot_product_attention":
        query, value = bound["query"], bound["value"]
        # q [..., L, E] with k [..., S, E], then the [..., L, S] result with v [..., S, Ev]
        macs = count(query) * length(value, -2) + count(node) * length(value, -2)
        return (Product(node, (query, bound["key"], value), (), macs=macs),)
    return _matmul(node, name, bound)


_MATMULS = {
    "matmul": ("self", "other", None), "mm": ("self", "mat2", None), "bmm": ("self", "mat2", None),
    "mv": ("self", "vec", None), "dot": ("self", "tensor", None), "addmm": ("mat1", "mat2", "self"),
    "baddbmm": ("batch1", "batch2", "self"), "addbmm": ("batch1", "batch2", "self"), "addmv": ("mat", "vec", "self"),
}  # fmt: skip


def _matmul(node: fx.Node, name: str, bound: dict[str, Any]) -> tuple[Product, ...]:
    if name not in _MATMULS:
        return ()
    left_name, right_name, bias_name = _MATMULS[name]
    left, right = bound[left_name], bound[right_name]
    # a vector has one axis, which is summed over
    first = Operand(left, (_dims(left) - 1,), max(_dims(left) - 2, 0))
    second = Operand(right, (max(_dims(right) - 2, 0),), _dims(right) - 1)
    macs = count(node) * length(left, -1)
    if name == "addbmm":
        macs *= length(left, 0)
    bias = () if bias_name is None else _nodes(bound[bias_name])
    return (Product(node, (left, right), (first, second), bias, macs),)


def _convolution(node: fx.Node, bound: dict[str, Any], transposed: bool) -> Product:
    weight = bound["weight"]
    dims = _dims(weight)
    value = tensor_value(weight)
    per_position = 0 if value is None else prod(shape_at_one(value)[1:])
    if transposed:  # weight: [in, out / groups, *kernel]
        operand = Operand(weight, (0, *range(2, dims)), 1)
        macs = count(bound["input"]) * per_position
    else:  # weight: [out, in / groups, *kernel]
        operand = Operand(weight, tuple(range(1, dims)), 0)
        macs = count(node) * per_position
    groups = int(bound["groups"])
    return Product(node, (bound["input"],), (operand,), _nodes(bound["bias"]), macs, groups=groups)


def _recurrent(node: fx.Node, bound: dict[str, Any]) -> tuple[Product, ...]:
    if "params" in bound:
        source, parameters = bound["input" if "input" in bound else "data"], list(bound["params"])
    else:
        source, parameters = bound["input"], [bound[key] for key in ("w_ih", "w_hh", "b_ih", "b_hh") if bound[key]]
    steps = count(source) // max(1, length(source, -1))
    matrices = [parameter for parameter in parameters if _dims(parameter) == 2]
    biases = tuple(parameter for parameter in parameters if _dims(parameter) == 1)
    return tuple(
        Product(node, (source,), (Operand(matrix, (1,), 0),), biases, steps * count(matrix), recurrent=True)
        for matrix in matrices
    )


def _einsum(node: fx.Node, bound: dict[str, Any]) -> tuple[Product, ...]:
    equation, tensors = str(bound["equation"]).replace(" ", ""), tuple(bound["tensors"])
    if len(tensors) != 2 or "->" not in equation or "." in equation:
        return ()
    inputs, output = equation.split("->")
    labels = inputs.split(",")
    sizes: dict[str, int] = {}
    for letters, tensor in zip(labels, tensors, strict=True):
        for axis, letter in enumerate(letters):
            sizes[letter] = max(sizes.get(letter, 1), length(tensor, axis))
    operands = []
    for letters, other, tensor in zip(labels, reversed(labels), tensors, strict=True):
        summed = tuple(axis for axis, letter in enumerate(letters) if letter not in output)
        own = [axis for axis, letter in enumerate(letters) if letter in output and letter not in other]
        operands.append(Operand(tensor, summed, own[-1] if own else 0))
    return (Product(node, tensors, tuple(operands), macs=prod(sizes.values())),)


def _dims(node: object) -> int:
    value = tensor_value(node)
    return 0 if value is None else value.dim()


def _nodes(argument: object) -> tuple[fx.Node, ...]:
    return (argument,) if isinstance(argument, fx.Node) else ()
