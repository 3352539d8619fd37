"""Matrix products: which operands an operator multiplies and sums, and how many multiply-accumulates that takes.

Counts are for one example. Conventions: a convolution takes output elements × (in_channels / groups × kernel), its
positions over padding included; a transposed convolution input elements × (out_channels / groups × kernel); a linear
layer positions × in × out; an embedding 0; a recurrent matrix sequence length × its elements; attention both of its
products, without softmax. Biases, scalings and element-by-element operators count as nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from sigmaquant.exported.nodes import arguments, operator, tensor_value


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


Multiply = Callable[[fx.Node, Mapping[str, Any]], tuple[Product, ...]]
"""From a node and its arguments by name to its products."""
PRODUCTS: dict[str, Multiply] = {}
"""By name of the operator; the families register theirs."""


def multiplies(*names: str) -> Callable[[Multiply], Multiply]:
    """Register what operators multiply, by their names in ``torch.ops.aten``."""

    def register(count: Multiply) -> Multiply:
        for name in names:
            assert name not in PRODUCTS, f"{name} is declared twice"
            PRODUCTS[name] = count
        return count

    return register


def products(node: fx.Node) -> tuple[Product, ...]:
    """The products an operator computes; none for all other nodes."""
    bound, count = arguments(node), PRODUCTS.get(operator(node))
    return count(node, bound) if bound and count is not None else ()


def dims(node: object) -> int:
    """Dimensions of a node's value; 0 where it is no tensor."""
    value = tensor_value(node)
    return 0 if value is None else value.dim()


def nodes(argument: object) -> tuple[fx.Node, ...]:
    """The argument, where it is a node."""
    return (argument,) if isinstance(argument, fx.Node) else ()
