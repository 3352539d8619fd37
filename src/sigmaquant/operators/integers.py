"""What is computed from an input of integers: shifted or cut token indices, masks of padding.

Such values come out of a dozen operators on integers and truth values. What they say is two things: which element of
the input decides each of them, and what each integer becomes there. Both are found by computing the operators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from types import NoneType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from sigmaquant.exported.nodes import attribute_of, operator
from sigmaquant.exported.shapes import size_at
from sigmaquant.operators.meaning import Extent, evaluated, extent_of
from sigmaquant.operators.movement import Steps

_SAME = {"to", "_to_copy", "type_as", "contiguous", "clone", "alias", "detach", "lift_fresh_copy", "float", "bool"}
_CREATED = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"}
_POINTWISE = {"where", "masked_fill", "__and_", "__or_", "__xor_", "logical_not", "rsub"}
"""Functions of single values that torch does not mark as such."""
_MOVES = {
    "view", "reshape", "_unsafe_view", "expand", "expand_as", "unsqueeze", "squeeze", "flatten", "unflatten",
    "transpose", "permute", "slice", "select", "index", "index_select", "repeat", "narrow", "gather", "flip", "roll",
}  # fmt: skip
_CHUNK = 256
_NONE, _SEVERAL = -1, -2


@dataclass(frozen=True)
class Derived:
    """Values of which each is decided by one element of an input of integers.

    Attributes:
        source: the input.
        places: the deciding element of each value: indices into the input of one example, of an example's shape.
        batch_axis: of the values.
        nodes: what computes them.
        values: what the integers 0..count-1 become, [count, *shape], for a count.
    """

    source: fx.Node
    places: NDArray[np.int64]
    batch_axis: int
    nodes: tuple[fx.Node, ...]
    values: Callable[[int], Tensor]

    def steps(self, shape: tuple[int, ...], rows: int, target: tuple[int, ...]) -> Steps:
        """The moves from the input to these values, along whose axes without a difference they stay of size one.

        Args:
            shape: of the input.
            rows: of the values, folded into their first axis.
            target: their shape, of one row.
        """
        places = self.places.reshape((rows, *target))
        short = places
        for axis in range(1, places.ndim):
            first = short.take([0], axis)
            if np.array_equal(np.broadcast_to(first, short.shape), short):
                short = first
        steps = Steps(Extent(1, shape))
        flat = short.reshape(-1)
        steps.reshape((prod(shape),)).take(0, [int(place) for place in flat])
        return steps.reshape(short.shape[1:], rows)


_known: WeakKeyDictionary[fx.Node, Derived | None] = WeakKeyDictionary()


def derived(node: fx.Node) -> Derived | None:
    """What a node of integers, truth values or floats says of one input of integers; None where it is not of the kind.

    Every operator on the way is a function of single values or moves them, and no two elements of the input, nor
    another example, decide one value.
    """
    if node not in _known:
        _known[node] = _derived(node)
    return _known[node]


def is_computed(node: object) -> bool:
    """Whether a value comes from inputs of integers, buffers and sizes alone."""
    return isinstance(node, fx.Node) and _subgraph(node) is not None


def computed_nodes(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes of a graph for which `is_computed` is true."""
    found: set[fx.Node] = set()
    for node in nodes:
        value = node.meta.get("val")
        if node.op == "placeholder":
            whole = isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()
        elif node.op == "get_attr":
            whole = not isinstance(_held(node), torch.nn.Parameter | NoneType)
        else:
            whole = node.op == "call_function" and (_is_plain(value) or all(s in found for s in node.all_input_nodes))
        if whole:
            found.add(node)
    return found


def _derived(node: fx.Node) -> Derived | None:
    nodes = _subgraph(node)
    if nodes is None:
        return None
    value, sources = node.meta.get("val"), [n for n in nodes if n.op == "placeholder"]
    if len(sources) != 1 or not isinstance(value, Tensor):
        return None
    (source,) = sources
    given, found = source.meta["val"], extent_of(value, anywhere=True)
    place = extent_of(given)
    if place is None or found is None or place.rows != 1:
        return None
    shape = place.shape
    count = prod(shape)
    two = torch.zeros((2, *shape), dtype=given.dtype)
    marks = torch.arange(2 * count).reshape(2, *shape)
    try:
        reals = _computed(nodes, source, two, 2)
        indices = _traced(nodes, source, marks, reals)
    except (RuntimeError, IndexError, TypeError, ValueError):
        return None
    if indices is None:
        return None
    rows = indices.movedim(found.batch_axis, 0).reshape(2, found.rows, *found.shape)
    if bool((rows < 0).any()) or bool((rows[0] >= count).any()) or not torch.equal(rows[0] + count, rows[1]):
        return None

    @lru_cache(maxsize=4)
    def values(integers: int) -> Tensor:
        parts = []
        for start in range(0, integers, _CHUNK):
            chosen = torch.arange(start, min(start + _CHUNK, integers))
            batch = chosen.reshape(-1, *[1] * len(shape)).expand(-1, *shape).to(given.dtype).contiguous()
            result = _computed(nodes, source, batch, len(chosen))[node]
            parts.append(result.movedim(found.batch_axis, 0).reshape(len(chosen), found.rows, *found.shape).clone())
        return torch.cat(parts)

    return Derived(source, rows[0].numpy(), found.batch_axis, tuple(nodes), values)


def _subgraph(node: object) -> list[fx.Node] | None:
    """The nodes that a value is computed by, in order; None where one of them is of another kind."""
    if not isinstance(node, fx.Node):
        return None
    seen, stack = {node}, [node]
    while stack:
        current = stack.pop()
        value = current.meta.get("val")
        if current.op == "placeholder":
            if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex():
                return None
        elif current.op == "get_attr":
            held = _held(current)
            if held is None or isinstance(held, torch.nn.Parameter):
                return None
        elif current.op != "call_function":
            return None
        for source in [] if _is_plain(value) else current.all_input_nodes:
            if source not in seen:
                seen.add(source)
                stack.append(source)
    return [n for n in node.graph.nodes if n in seen]


def _is_plain(value: object) -> bool:
    """Whether a node yields a size or a device, which no input's values enter."""
    return isinstance(value, int | float | torch.SymInt | torch.device)


def _held(node: fx.Node) -> Tensor | None:
    module = node.graph.owning_module
    held = None if module is None else attribute_of(module, str(node.target), None)
    return held if isinstance(held, Tensor) else None


def _computed(nodes: list[fx.Node], source: fx.Node, given: Tensor, batch: int) -> dict[fx.Node, Any]:
    """The values of all nodes for a batch of the input."""
    known: dict[fx.Node, Any] = {source: given}
    for node in nodes:
        value = node.meta.get("val")
        if node in known:
            continue
        if node.op == "get_attr":
            held = _held(node)
            assert held is not None, "the subgraph has been looked at"
            known[node] = held.detach().cpu()
        elif isinstance(value, int | torch.SymInt):
            known[node] = size_at(value, batch)
        elif isinstance(value, torch.device):
            known[node] = torch.device("cpu")
        else:
            known[node] = evaluated(node, known)
    return known


def _traced(nodes: list[fx.Node], source: fx.Node, marks: Tensor, reals: Mapping[fx.Node, Any]) -> Tensor | None:
    """Which element of the input decides each value of the last node; None where that is not known."""
    found: dict[fx.Node, Tensor] = {source: marks}
    for node in nodes:
        value = reals[node]
        if node in found or not isinstance(value, Tensor):
            continue
        name = operator(node).removesuffix("_")
        sources = [s for s in node.all_input_nodes if isinstance(reals.get(s), Tensor)]
        live = [s for s in sources if bool((found[s] != _NONE).any())]
        target = node.target
        pointwise = isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags
        if not live or name in _CREATED:
            found[node] = torch.full(value.shape, _NONE)
        elif pointwise or name in _POINTWISE or name in _SAME:
            merged = torch.full(value.shape, _NONE)
            for operand in sources:
                mark = found[operand].expand(value.shape) if name not in _SAME else found[operand]
                if name in _SAME and mark.shape != value.shape:
                    mark = torch.full(value.shape, _NONE)  # the tensor whose type is taken
                clash = (merged != _NONE) & (mark != _NONE) & (merged != mark)
                merged = torch.where(clash, _SEVERAL, torch.where(merged == _NONE, mark, merged))
            found[node] = merged
        elif name in _MOVES and node.args and live == [node.args[0]]:
            found[node] = evaluated(node, {**reals, live[0]: found[live[0]]})
        else:
            return None
    return found[nodes[-1]]
