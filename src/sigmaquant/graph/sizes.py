"""Sizes read from shapes: what of an exported graph says no more than "as many as the batch has" goes away.

``x.view(x.size(0), -1)`` reads a size and hands it back. A view whose result has one size that depends on the batch
needs none: ``[-1, 512]`` says it all. What is left of such sizes has no reader and is removed. Views become reshapes:
the graph also runs on tensors in channels-last memory, which a view may refuse, as it would not in the user's layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from sigmaquant.exported.nodes import arguments, operator, tensor_value, writes

_VIEWS = ("view", "reshape", "_unsafe_view")
_LAST = 2**63 - 1  # how export writes an open end of a slice


def simplify_sizes_(graph: fx.Graph) -> None:
    """Write views, expansions and slices without sizes that were read from shapes, wherever these say nothing."""
    pinned = written_memory(graph)
    for node in list(graph.nodes):
        name = operator(node)
        if name in _VIEWS and node not in pinned:
            _reshape_(node)
        elif name == "expand":
            _expand_(node)
        elif name == "slice":
            _slice_(node)
        elif name == "as_strided":
            _strided_(node)
    graph.eliminate_dead_code()


def excluded_sizes(program: torch.export.ExportedProgram) -> tuple[int, ...] | None:
    """The batch sizes for which a graph was not made, where these are single ones; None where there are more.

    Args:
        program: exported with a batch that may be narrowed (``Dim.AUTO``).
    """
    values = [tensor_value(node) for node in program.graph.find_nodes(op="placeholder")]
    shapes: list[Sequence[Any]] = [value.shape for value in values if value is not None]
    sizes = [size for shape in shapes for size in shape if isinstance(size, torch.SymInt)]
    symbols = {symbol for size in sizes for symbol in size.node.expr.free_symbols}
    if len(symbols) != 1:
        return None
    (symbol,) = symbols
    span = program.range_constraints.get(symbol)
    if span is None or int(span.lower) > 2 or span.upper < 2**31:
        return None
    excluded: list[int] = []
    for guard in sizes[0].node.shape_env.guards:
        if getattr(guard.expr, "rel_op", "") != "!=" or not guard.expr.free_symbols <= {symbol}:
            return None
        zeros = _zeros_of_line({size: (guard.expr.lhs - guard.expr.rhs).subs(symbol, size) for size in (2, 3, 5)})
        if zeros is None:
            return None
        excluded += zeros
    return tuple(dict.fromkeys(excluded))


def _zeros_of_line(at: Mapping[int, Any]) -> list[int] | None:
    """Where a difference is zero, at no or one size, by its values at 2, 3 and 5; None where it is no straight line."""
    rise = at[3] - at[2]
    if at[5] - at[3] != 2 * rise:
        return None
    if rise == 0:
        return None if at[2] == 0 else []
    zero = 2 - at[2] / rise
    return [int(zero)] if zero == int(zero) and zero > 0 else []


def _reshape_(node: fx.Node) -> None:
    value, bound = tensor_value(node), arguments(node)
    wanted = bound.get("size", bound.get("shape"))
    if value is None or wanted is None:  # a view as another dtype
        return
    node.target = torch.ops.aten.reshape.default
    node.args, node.kwargs = (bound["self"], _plain_sizes(value.shape, wanted)), {}


def _plain_sizes(shape: Sequence[Any], wanted: Sequence[Any]) -> list[Any]:
    """A reshape's sizes as numbers, -1 for the one that depends on the batch; as they were where there are more."""
    symbolic = [axis for axis, size in enumerate(shape) if not isinstance(size, int)]
    if len(symbolic) > 1 or (symbolic and 0 in shape):
        return list(wanted)
    return [-1 if axis in symbolic else size for axis, size in enumerate(shape)]


def _expand_(node: fx.Node) -> None:
    """Dimensions that stay as they are, are -1."""
    source, value = tensor_value(node.args[0]), tensor_value(node)
    if source is None or value is None or len(node.args) < 2:
        return
    wanted, offset = node.args[1], value.dim() - source.dim()
    assert isinstance(wanted, list | tuple)
    sizes = list(wanted)
    for axis, size in enumerate(value.shape):
        if axis >= offset and _same(size, source.shape[axis - offset]):
            sizes[axis] = -1
        elif isinstance(size, int):
            sizes[axis] = size
    node.update_arg(1, sizes)


def _slice_(node: fx.Node) -> None:
    """An end that is the whole dimension, is open."""
    bound, source, value = arguments(node), tensor_value(node.args[0]), tensor_value(node)
    if source is None or value is None or not isinstance(bound["end"], fx.Node):
        return
    axis = int(bound["dim"])
    if bound["start"] in (0, None) and bound["step"] == 1 and _same(value.shape[axis], source.shape[axis]):
        node.args, node.kwargs = (node.args[0], axis, 0, _LAST), {}


def _strided_(node: fx.Node) -> None:
    """Strides are those of the layout in which the graph was made."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    value = tensor_value(source)
    if value is None or not value.is_contiguous() or source.op == "get_attr":
        return
    with node.graph.inserting_before(node):
        dense = node.graph.call_function(torch.ops.aten.contiguous.default, (source,))
    dense.meta = dict(source.meta)
    node.update_arg(0, dense)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a == b
    return bool(a.node.expr == b.node.expr)


def written_memory(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose memory an operator may write into, theirs or what they are a view of."""
    pinned: set[fx.Node] = set()
    stack = [source for node in graph.nodes if writes(node) for source in node.all_input_nodes[:1]]
    while stack:
        node = stack.pop()
        if node in pinned:
            continue
        pinned.add(node)
        if shares_memory(node):
            stack += node.all_input_nodes[:1]
        stack += [user for user in node.users if shares_memory(user) and user.all_input_nodes[0] is node]
    return pinned


def shares_memory(node: fx.Node) -> bool:
    """Whether the result may share memory with the first operand."""
    if isinstance(node.target, torch._ops.OpOverload):
        return any(result.alias_info is not None for result in node.target._schema.returns)
    return node.op == "call_function"
