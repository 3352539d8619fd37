"""Operators that are several others in one, written out: then each part has its own grid and its own integer form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from sigmaquant.exported.nodes import arguments, operator
from sigmaquant.graph.writing import Writer

aten = torch.ops.aten
_VIEWS = ("view", "reshape", "_unsafe_view")


def decompose_(graph: fx.Graph) -> None:
    """Replace gated units, fused multiply-adds, interpolations between tensors and minima over dimensions."""
    for node in list(graph.nodes):
        write = _WRITTEN_OUT.get(operator(node))
        value = node.meta.get("val")
        if write is None or not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        with graph.inserting_before(node):
            result = write(Writer(graph, node), arguments(node))
        if result is not None:
            node.replace_all_uses_with(result)
            graph.erase_node(node)


def keep_sequences_first_(graph: fx.Graph) -> None:
    """A linear layer on ``[T * N, C]`` between ``[T, N, C]`` before and after it, as in attention, works on the latter.

    The flattened axis has the batch inside, where no example's rows lie together; apart the two axes are what they are.
    """
    for node in list(graph.nodes):
        if operator(node) != "linear":
            continue
        flat, after = node.args[0], list(node.users)
        if not isinstance(flat, fx.Node) or operator(flat) not in _VIEWS or len(flat.users) != 1 or len(after) != 1:
            continue
        source, back = flat.args[0], after[0]
        if operator(back) not in _VIEWS or not isinstance(source, fx.Node):
            continue
        shapes = [item.meta["val"].shape for item in (source, flat, node, back)]
        leading, width = shapes[0][:2], shapes[1][-1]
        whole = isinstance(leading[0], int) and not isinstance(leading[-1], int) and len(shapes[1]) == 2
        if not whole or tuple(shapes[3]) != (*leading, shapes[2][-1]) or shapes[1][0] != leading[0] * leading[1]:
            continue
        size = _second_size(graph, source)
        with graph.inserting_before(node):
            write = Writer(graph, flat)
            apart = write(aten.reshape.default, source, [leading[0], size, width])
        with node.meta["val"].fake_mode:
            node.meta["val"] = node.meta["val"].reshape(*leading, shapes[2][-1])
        node.replace_input_with(flat, apart)
        back.replace_all_uses_with(node)
        graph.erase_node(back)
        graph.erase_node(flat)


def _second_size(graph: fx.Graph, source: fx.Node) -> fx.Node:
    """A node that reads the size of the second axis."""
    with graph.inserting_after(source):
        made = graph.call_function(aten.sym_size.int, (source, 1))
    made.meta["val"] = source.meta["val"].shape[1]
    return made


def _glu(write: Writer, given: Mapping[str, Any]) -> fx.Node | None:
    value = given["self"].meta["val"]
    dim = int(given["dim"]) % value.dim()
    size = value.shape[dim]
    if not isinstance(size, int):
        return None
    first = write(aten.slice.Tensor, given["self"], dim, 0, size // 2)
    second = write(aten.slice.Tensor, given["self"], dim, size // 2, size)
    return write(aten.mul.Tensor, first, write(aten.sigmoid.default, second))


def _addcmul(write: Writer, given: Mapping[str, Any]) -> fx.Node:
    product = write(aten.mul.Tensor, given["tensor1"], given["tensor2"])
    scaled = product if given["value"] == 1 else write(aten.mul.Tensor, product, given["value"])
    return write(aten.add.Tensor, given["self"], scaled)


def _addcdiv(write: Writer, given: Mapping[str, Any]) -> fx.Node:
    quotient = write(aten.div.Tensor, given["tensor1"], given["tensor2"])
    scaled = quotient if given["value"] == 1 else write(aten.mul.Tensor, quotient, given["value"])
    return write(aten.add.Tensor, given["self"], scaled)


def _lerp(write: Writer, given: Mapping[str, Any]) -> fx.Node:
    difference = write(aten.sub.Tensor, given["end"], given["self"])
    weight = given["weight"]
    return write(aten.add.Tensor, given["self"], write(aten.mul.Tensor, difference, weight))


def _amin(write: Writer, given: Mapping[str, Any]) -> fx.Node:
    negative = write(aten.neg.default, given["self"])
    return write(aten.neg.default, write(aten.amax.default, negative, given["dim"], given["keepdim"]))


def _attention(write: Writer, given: Mapping[str, Any]) -> fx.Node | None:
    """``softmax(q k^T * scale + mask) v``; left whole where heads are shared between queries."""
    query, key, value, mask = (given[name] for name in ("query", "key", "value", "attn_mask"))
    sizes = [operand.meta["val"].shape for operand in (query, key, value)]
    if given["dropout_p"] or given.get("enable_gqa") or len({len(size) for size in sizes}) != 1:
        return None
    length, keys, width = sizes[0][-2], sizes[1][-2], sizes[0][-1]
    scale = given["scale"] if given["scale"] is not None else float(width) ** -0.5
    scores = write(aten.mul.Tensor, write(aten.matmul.default, query, write(aten.transpose.int, key, -2, -1)), scale)
    if given["is_causal"]:
        if not isinstance(length, int) or not isinstance(keys, int):
            return None
        later = write(aten.triu.default, write(aten.full.default, [length, keys], float("-inf")), 1)
        scores = write(aten.add.Tensor, scores, later)
    if isinstance(mask, fx.Node):
        if mask.meta["val"].dtype == torch.bool:
            scores = write(aten.masked_fill.Scalar, scores, write(aten.logical_not.default, mask), float("-inf"))
        else:
            scores = write(aten.add.Tensor, scores, mask)
    return write(aten.matmul.default, write(aten.softmax.int, scores, -1), value)


def _baddbmm(write: Writer, given: Mapping[str, Any]) -> fx.Node | None:
    if (given["alpha"], given["beta"]) != (1, 1):
        return None
    return write(aten.add.Tensor, write(aten.bmm.default, given["batch1"], given["batch2"]), given["self"])


_WRITTEN_OUT: Mapping[str, Callable[[Writer, Mapping[str, Any]], fx.Node | None]] = {
    "glu": _glu,
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "lerp": _lerp,
    "amin": _amin,
    "baddbmm": _baddbmm,
    "scaled_dot_product_attention": _attention,
}
