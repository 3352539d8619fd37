"""What a graph computes from nothing but sizes and numbers (positions in a map, masks), is computed once: constants.

Anchors of a detector, a causal mask or a frequency table come out of a dozen operators that no input's value enters.
Parameters and the user's own buffers stay where they are: those may still change.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx, nn

from sigmaquant.exported.nodes import attribute_of, tensor_value, writes
from sigmaquant.graph.sizes import written_memory
from sigmaquant.graph.writing import Constants

_SHAPE_ONLY = {
    torch.ops.aten.new_full.default, torch.ops.aten.new_zeros.default, torch.ops.aten.new_ones.default,
    torch.ops.aten.zeros_like.default, torch.ops.aten.ones_like.default, torch.ops.aten.full_like.default,
}  # fmt: skip
"""Operators that take a tensor for its shape, type and device alone."""
_TYPE_ONLY = {torch.ops.aten.type_as.default, torch.ops.aten.to.other, torch.ops.aten.expand_as.default}
"""Operators that take their second tensor for these alone."""
_LARGEST = 2**22  # elements: what repeats itself further than that, is made anew each time


def fold_constants_(exported: fx.GraphModule, model: nn.Module) -> None:
    """Replace what depends on no input's values, parameters or buffers by constants of the graph.

    Args:
        exported: changed in place; gets the constants as buffers that are not saved.
        model: the user's model, whose names stay free.
    """
    graph = exported.graph
    own = {name for name, _ in (*model.named_parameters(remove_duplicate=False), *model.named_buffers())}
    values: dict[fx.Node, Any] = {}
    pinned = written_memory(graph)
    for node in graph.nodes:
        if node in pinned:
            continue
        if node.op == "get_attr" and str(node.target) not in own:
            value = attribute_of(exported, str(node.target))
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                values[node] = value
        elif node.op == "call_function" and _is_foldable(node, values):
            values[node] = _computed(node, values)
    constants = Constants(exported, model)
    for node, value in values.items():
        if node.op == "get_attr" or not isinstance(value, Tensor) or all(user in values for user in node.users):
            continue
        node.replace_all_uses_with(constants.before(node, value))
    for node, value in values.items():
        if isinstance(value, int | float):  # a number that was read out of a constant
            for user in list(node.users):
                _substitute_(user, node, value)
    graph.eliminate_dead_code()


def _substitute_(user: fx.Node, node: fx.Node, number: float) -> None:
    def changed(argument: fx.Node) -> Any:
        return number if argument is node else argument

    user.args = fx.node.map_arg(user.args, changed)
    user.kwargs = fx.node.map_arg(user.kwargs, changed)


def _is_foldable(node: fx.Node, known: Collection[fx.Node]) -> bool:
    target = node.target
    if target is not operator.getitem:
        if not isinstance(target, torch._ops.OpOverload) or writes(node) or target.namespace != "aten":
            return False
        if torch.Tag.nondeterministic_seeded in target.tags:
            return False
    value = node.meta.get("val")
    results = value if isinstance(value, list | tuple) else (value,)
    tensors = [result for result in results if isinstance(result, Tensor)]
    if len(tensors) < len(results) and target is not torch.ops.aten.item.default:
        return False
    if not all(_is_static(tensor) and tensor.numel() <= _LARGEST for tensor in tensors):
        return False
    return all(source in known for source in _read(node))


def _read(node: fx.Node) -> list[fx.Node]:
    """The operands whose values matter."""
    if node.target in _SHAPE_ONLY | _TYPE_ONLY:
        for_shape = node.args[0 if node.target in _SHAPE_ONLY else 1]
        return [source for source in node.all_input_nodes if source is not for_shape]
    return node.all_input_nodes


def _is_static(value: Tensor) -> bool:
    sizes: list[Any] = list(value.shape)
    return all(isinstance(size, int) for size in sizes)


def _computed(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """The node's value; an operand that matters by its shape alone is an empty tensor of that type."""

    def operand(source: fx.Node) -> Any:
        if source in values:
            return values[source]
        like = tensor_value(source)
        assert like is not None
        shape = [size if isinstance(size, int) else 1 for size in list[Any](like.shape)]
        return torch.empty(shape, dtype=like.dtype, device=like.device)

    assert callable(node.target)
    with torch.no_grad():
        return node.target(*fx.node.map_arg(node.args, operand), **fx.node.map_arg(dict(node.kwargs), operand))
