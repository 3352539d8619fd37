"""Tensors of one number that are made for the batch (``zeros_like``, ``new_ones``) are one example's constant, spread.

Channels of zeros beside a map, a column of zeros before scores, a mask's other branch: operators meet them as they
meet a token that is a parameter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from sigmaquant.exported.nodes import arguments, operator, tensor_value
from sigmaquant.graph.sizes import written_memory
from sigmaquant.graph.writing import Constants, Writer

_NUMBERS = {"zeros": 0.0, "zeros_like": 0.0, "new_zeros": 0.0, "ones": 1.0, "ones_like": 1.0, "new_ones": 1.0}
_FILLED = {"full": "fill_value", "full_like": "fill_value", "new_full": "fill_value"}
_ALIKE = ("cat", "concat", "concatenate", "stack", "where", "maximum", "minimum", "add", "sub", "mul")
"""What takes a constant in the place of such a tensor; states of recurrent layers are read as zeros as they are."""
_LARGEST = 2**22  # elements of one example


def spread_created_(exported: fx.GraphModule, model: nn.Module) -> None:
    """Replace floating tensors of one number, made for the batch, by a constant of one example that is expanded.

    Args:
        exported: changed in place; gets the constants as buffers that are not saved.
        model: the user's model, whose names stay free.
    """
    graph = exported.graph
    pinned = written_memory(graph)
    constants = Constants(exported, model)
    for node in list(graph.nodes):
        number, shape = _number(node), _shape_of_one(node)
        if number is None or shape is None or node in pinned or not all(operator(u) in _ALIKE for u in node.users):
            continue
        like: Any = tensor_value(node)
        held = constants.before(node, torch.full(shape, number, dtype=like.dtype, device=like.device))
        with graph.inserting_before(node):
            with like.fake_mode:
                held.meta["val"] = torch.full(shape, number, dtype=like.dtype, device=like.device)
            write = Writer(graph, node)
            node.replace_all_uses_with(write(torch.ops.aten.expand.default, held, [_batch(node, write), *shape[1:]]))
    graph.eliminate_dead_code()


def _number(node: fx.Node) -> float | None:
    """The number that a node fills a floating tensor with."""
    value, name = tensor_value(node), operator(node)
    if value is None or value.dtype != torch.float32:
        return None
    filled = arguments(node).get(_FILLED[name]) if name in _FILLED else _NUMBERS.get(name)
    return float(filled) if isinstance(filled, int | float) else None


def _shape_of_one(node: fx.Node) -> tuple[int, ...] | None:
    """The shape for one example; None where another dimension than the first depends on the batch, or none does."""
    value = tensor_value(node)
    sizes: list[Any] = [] if value is None else list(value.shape)
    if not sizes or isinstance(sizes[0], int) or not all(isinstance(size, int) for size in sizes[1:]):
        return None
    shape = (1, *sizes[1:])
    return shape if 0 < torch.Size(shape).numel() <= _LARGEST else None


def _batch(node: fx.Node, write: Writer) -> Any:
    """The number of examples: from what the node is like, or as it is given."""
    bound = arguments(node)
    if operator(node).endswith("_like"):
        return write(torch.ops.aten.sym_size.int, bound["self"], 0)
    return bound["size"][0]
