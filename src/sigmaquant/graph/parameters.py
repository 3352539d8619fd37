"""Parameters used directly: where one flows, whether it is a weight there, and the module that then holds it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from sigmaquant.exported.nodes import yields_tensor
from sigmaquant.exported.shapes import size_at_one
from sigmaquant.operators.products import Operand, Product, products
from sigmaquant.operators.roles import moves_weight


class ParameterLayer(nn.Module):
    """A weight that no stock module owns, as a module: calling it, without arguments, yields the weight.

    Example:
        >>> layer = ParameterLayer(nn.Parameter(torch.ones(2, 3)))
        >>> layer() is layer.weight
        True
    """

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self) -> Tensor:
        """The weight."""
        return self.weight


@dataclass(frozen=True)
class WeightUse:
    """A parameter used as the weight of a product.

    Attributes:
        product: the product.
        operand: the operand that holds it.
        chain: the nodes between the parameter and the operand, the operand's own node last.
        computed: whether values change on the way (weight standardisation, weight norm).
    """

    product: Product
    operand: Operand
    chain: tuple[fx.Node, ...]
    computed: bool


@dataclass
class ParameterFlow:
    """Where a parameter goes.

    Attributes:
        weights: its uses as a weight.
        others: all other operators that take it, with the operand through which it arrives.
    """

    weights: list[WeightUse] = field(default_factory=list)
    others: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)

    @property
    def direct(self) -> list[WeightUse]:
        """The uses where the parameter itself is the weight."""
        return [use for use in self.weights if not use.computed]


def constant_nodes(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose tensors depend on parameters, buffers and sizes only, not on the model's inputs."""
    constant: set[fx.Node] = set()
    for node in graph.nodes:
        operands = [operand for operand in node.all_input_nodes if yields_tensor(operand)]
        if node.op == "get_attr" or (node.op == "call_function" and all(operand in constant for operand in operands)):
            constant.add(node)
    return constant


def follow(source: fx.Node, constant: Collection[fx.Node]) -> ParameterFlow:
    """Follow a parameter forwards until it meets an activation.

    Args:
        source: the ``get_attr`` node of the parameter.
        constant: result of `constant_nodes`.
    """
    flow = ParameterFlow()
    seen: set[tuple[fx.Node, bool]] = set()
    stack: list[tuple[fx.Node, tuple[fx.Node, ...], bool]] = [(source, (), False)]
    while stack:
        node, chain, computed = stack.pop()
        for user in node.users:
            uses = [
                WeightUse(product, operand, chain, computed)
                for product in products(user)
                for operand in product.weights
                if operand.node is node and (len(product.weights) == 1 or user not in constant)
            ]
            flow.weights += uses
            if uses or (user, computed) in seen:
                continue
            if moves_weight(user) and user.args[0] is node:
                following = (user, (*chain, user), computed)
            elif user in constant:
                following = (user, (*chain, user), True)
            else:
                flow.others.append((user, node))
                continue
            seen.add((following[0], following[2]))
            stack.append(following)
    order = {node: index for index, node in enumerate(source.graph.nodes)}
    flow.weights.sort(key=lambda use: order[use.product.node])
    return flow


def channel_axis(shape: tuple[int, ...], use: WeightUse) -> int | None:
    """The parameter's axis along which its scales run, so that scales stay outside of the product's sum.

    Splits, transposes and reshapes between parameter and product are followed by sending each axis's indices through
    them: an axis qualifies when its indices are constant along the product's contraction axes.

    Args:
        shape: of the parameter.
        use: its first use.

    Returns:
        the axis; where several qualify, one that varies along the output channels; None where none does.
    """
    qualified: list[tuple[bool, int]] = []
    for axis, size in enumerate(shape):
        view = [1] * len(shape)
        view[axis] = size
        indices = _replay(torch.arange(size).view(view).expand(shape), use.chain)
        if all(_constant_along(indices, dim) for dim in use.operand.contraction):
            qualified.append((_constant_along(indices, use.operand.channel), axis))
    return min(qualified)[1] if qualified else None


def _constant_along(indices: Tensor, dim: int) -> bool:
    return torch.equal(indices, indices.narrow(dim, 0, 1).expand_as(indices))


def _replay(value: Tensor, chain: tuple[fx.Node, ...]) -> Tensor:
    """`value` sent through layout operators, for a batch of one."""

    def plain(node: fx.Node) -> Any:
        size = node.meta["val"]
        return size_at_one(size) if isinstance(size, torch.SymInt) else size

    current: Any = value
    for node in chain:
        rest = fx.node.map_arg(tuple(node.args[1:]), plain)
        options = fx.node.map_arg(dict(node.kwargs), plain)
        assert callable(node.target)
        current = node.target(current, *rest, **options)
    assert isinstance(current, Tensor)
    return current
