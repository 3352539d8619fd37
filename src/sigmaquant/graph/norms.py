"""Normalizations written by hand, recognised as the ones that they are.

``(x - mean) / sqrt(var + eps)`` and its kin are a dozen operators, whose parts (a variance, an inverse root) no grid of
8 bits holds. As one operator they are exact in integers.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from sigmaquant.exported.nodes import arguments, operator, tensor_value
from sigmaquant.graph.parameters import constant_nodes
from sigmaquant.graph.writing import Writer

aten = torch.ops.aten
_SAME = {"to", "_to_copy", "contiguous", "clone", "alias", "detach", "expand", "expand_as", "type_as", "float"}
"""Operators that leave values as they are, where type and size stay."""
_DEPTH = 4
"""How far two computations of one value are compared."""


@dataclass(frozen=True)
class _Found:
    """A normalization: ``factor * (x - mean) / sqrt(variance + eps)``.

    Attributes:
        source: x.
        dims: over which, of the tensor.
        centred: whether the mean is subtracted.
        eps: added to the variance.
        factor: behind it.
    """

    source: fx.Node
    dims: tuple[int, ...]
    centred: bool
    eps: float
    factor: float = 1.0


def raise_norms_(graph: fx.Graph) -> None:
    """Replace normalizations written by hand by ``layer_norm`` and ``rms_norm`` over their last dimensions."""
    constant = constant_nodes(graph)
    for node in list(graph.nodes):
        value = tensor_value(node)
        if value is None or value.dtype != torch.float32 or node in constant:
            continue
        found = _matched(node)
        if found is not None:
            _write_(graph, node, found, constant)
    graph.eliminate_dead_code()


def _write_(graph: fx.Graph, node: fx.Node, found: _Found, constant: Collection[fx.Node]) -> None:
    value = tensor_value(found.source)
    assert value is not None, "a match has read its size"
    rank = value.dim()
    order = [axis for axis in range(rank) if axis not in found.dims] + list(found.dims)
    last, moved = node, order != list(range(rank))
    follow = _affine_after(node, found, constant) if moved else []
    with graph.inserting_before(follow[-1] if follow else node):
        write = Writer(graph, node)
        x = write(aten.permute.default, found.source, order) if moved else found.source
        shape = [int(value.shape[axis]) for axis in found.dims]
        if found.centred:
            x = write(aten.layer_norm.default, x, shape, None, None, found.eps)
        else:
            x = write(aten.rms_norm.default, x, shape, None, found.eps)
        if found.factor != 1:
            x = write(aten.mul.Tensor, x, found.factor)
        for link in follow:  # factors and offsets of the normalized dimensions stand beside the norm
            operand = next(source for source in link.all_input_nodes if source is not last)
            x = write(link.target, x, _against(write, operand, rank, order))
            last = link
        if moved:
            x = write(aten.permute.default, x, [order.index(axis) for axis in range(rank)])
    last.replace_all_uses_with(x)


def _against(write: Writer, operand: fx.Node, rank: int, order: list[int]) -> fx.Node:
    """A constant with its axes in another order."""
    value = operand.meta["val"]
    if value.dim() < rank:
        operand = write(aten.reshape.default, operand, [1] * (rank - value.dim()) + [int(n) for n in value.shape])
    return write(aten.permute.default, operand, order)


def _affine_after(node: fx.Node, found: _Found, constant: Collection[fx.Node]) -> list[fx.Node]:
    """Products and sums with constants that vary along the normalized dimensions alone, one after the other."""
    chain: list[fx.Node] = []
    rank = node.meta["val"].dim()
    while len(node.users) == 1:
        (user,) = node.users
        if user.target not in (aten.mul.Tensor, aten.add.Tensor) or user.kwargs or len(user.all_input_nodes) != 2:
            break
        (operand,) = (source for source in user.all_input_nodes if source is not node)
        held, after = tensor_value(operand), tensor_value(user)
        if operand not in constant or held is None or after is None or after.shape != node.meta["val"].shape:
            break
        shape = [1] * (rank - held.dim()) + list(held.shape)
        if any(size != 1 for axis, size in enumerate(shape) if axis not in found.dims):
            break
        chain.append(user)
        node = user
    return chain


# -- recognition -----------------------------------------------------------------------------------------------------


def _matched(node: fx.Node) -> _Found | None:
    """The normalization that ends in a node."""
    name, given = operator(node).removesuffix("_"), arguments(node)
    if name in ("mul", "multiply"):
        for numerator, other in ((given["self"], given["other"]), (given["other"], given["self"])):
            if (variance := _under_inverse_root(other)) is not None:
                return _normalized(node, numerator, variance)
    elif name in ("div", "divide", "true_divide") and given.get("rounding_mode") is None:
        variance = _under_root(given["other"])
        return None if variance is None else _normalized(node, given["self"], variance)
    return None


def _normalized(node: fx.Node, numerator: object, variance: fx.Node) -> _Found | None:
    spread, eps = _with_epsilon(variance)
    found = _spread(spread)
    numerator = _plain(numerator)
    if found is None or not isinstance(numerator, fx.Node) or eps is None:
        return None
    source, dims, centred, correction = found
    mean = _centre(numerator)
    if centred:  # a variance: the numerator is what it is of, without its mean
        if mean is None or not _alike(mean[0], source) or mean[1] != dims:
            return None
    elif _alike(source, numerator):  # a mean square of the numerator itself
        if mean is not None and mean[1] == dims:
            source, centred = mean[0], True
        else:
            source = numerator
    else:
        return None
    value = tensor_value(source)
    after = tensor_value(node)
    if value is None or after is None or value.shape != after.shape or 0 in dims:
        return None
    sizes: list[Any] = [value.shape[axis] for axis in dims]
    if not all(isinstance(size, int) for size in sizes):
        return None
    count = math.prod(sizes)
    if not 0 <= correction < count:
        return None
    share = (count - correction) / count  # of the variance with the correction, in the one without
    return _Found(source, dims, centred, eps * share, math.sqrt(share))


def _plain(node: object) -> object:
    """Past what leaves a tensor as it is."""
    while isinstance(node, fx.Node) and operator(node) in _SAME and node.args:
        source = node.args[0]
        before, after = tensor_value(source), tensor_value(node)
        if before is None or after is None or before.dtype != after.dtype or before.shape != after.shape:
            break
        node = source
    return node


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _under_inverse_root(node: object) -> fx.Node | None:
    """What the inverse root is taken of."""
    node = _plain(node)
    if not isinstance(node, fx.Node):
        return None
    name, given = operator(node).removesuffix("_"), arguments(node)
    if name == "rsqrt":
        return given["self"] if isinstance(given["self"], fx.Node) else None
    if name == "pow" and _number(given.get("exponent")) == -0.5:
        return given["self"] if isinstance(given["self"], fx.Node) else None
    if name == "reciprocal":
        return _under_root(given["self"])
    if name in ("mul", "multiply") and _number(given["other"]) == 1:
        return _under_inverse_root(given["self"])
    if name in ("div", "divide", "true_divide") and _number(given["self"]) == 1:
        return _under_root(given["other"])
    return None


def _under_root(node: object) -> fx.Node | None:
    """What the root is taken of."""
    node = _plain(node)
    if not isinstance(node, fx.Node):
        return None
    name, given = operator(node).removesuffix("_"), arguments(node)
    root = name == "sqrt" or (name == "pow" and _number(given.get("exponent")) == 0.5)
    return given["self"] if root and isinstance(given["self"], fx.Node) else None


def _with_epsilon(node: fx.Node) -> tuple[fx.Node, float | None]:
    """A variance and what is added to it; None: something else than a number that is not negative."""
    plain = _plain(node)
    assert isinstance(plain, fx.Node)
    given = arguments(plain)
    if operator(plain).removesuffix("_") != "add" or given.get("alpha", 1) != 1:
        return plain, 0.0
    for inner, other in ((given["self"], given["other"]), (given["other"], given["self"])):
        eps = _number(other)
        if eps is not None and isinstance(inner, fx.Node):
            return inner, eps if eps >= 0 else None
    return plain, None


def _spread(node: fx.Node) -> tuple[fx.Node, tuple[int, ...], bool, float] | None:
    """A variance or mean square: of what, over which dimensions, whether it is a variance, and its correction."""
    plain = _plain(node)
    if not isinstance(plain, fx.Node):
        return None
    name, given = operator(plain), arguments(plain)
    if name == "getitem" and plain.args[1] == 0 and isinstance(plain.args[0], fx.Node):
        name, given = operator(plain.args[0]), arguments(plain.args[0])
        if name != "var_mean":
            return None
    if name in ("var", "var_mean"):
        source = _plain(given["self"])
        dims = _dims(source, given.get("dim"))
        correction = _correction(given)
        if not isinstance(source, fx.Node) or dims is None or not given.get("keepdim") or correction is None:
            return None
        return source, dims, True, correction
    squares = _mean(plain)
    if squares is not None:
        base = _squared(squares[0])
        return None if base is None else (base, squares[1], False, 0.0)
    if name in ("sub", "subtract") and given.get("alpha", 1) == 1:  # E[x ** 2] - E[x] ** 2
        first, second = _mean(given["self"]), _squared(given["other"])
        base = None if first is None else _squared(first[0])
        mean = None if second is None else _mean(second)
        if first is not None and base is not None and mean is not None and _alike(mean[0], base):
            return (base, first[1], True, 0.0) if mean[1] == first[1] else None
    return None


def _correction(given: dict[str, Any]) -> float | None:
    if "unbiased" in given:
        return float(bool(given["unbiased"]))
    return 1.0 if given.get("correction") is None else _number(given["correction"])


def _centre(node: fx.Node) -> tuple[fx.Node, tuple[int, ...]] | None:
    """Of ``x - mean(x)``: x and the dimensions."""
    given = arguments(node)
    if operator(node).removesuffix("_") not in ("sub", "subtract") or given.get("alpha", 1) != 1:
        return None
    source, mean = _plain(given["self"]), _mean(given["other"])
    if mean is None or not isinstance(source, fx.Node) or not _alike(source, mean[0]):
        return None
    return source, mean[1]


def _mean(node: object) -> tuple[fx.Node, tuple[int, ...]] | None:
    """Of a mean that keeps its dimensions: what it is of, and the dimensions."""
    node = _plain(node)
    if not isinstance(node, fx.Node):
        return None
    name, given = operator(node), arguments(node)
    if name == "getitem" and node.args[1] == 1 and isinstance(node.args[0], fx.Node):
        name, given = operator(node.args[0]), arguments(node.args[0])
        if name != "var_mean":
            return None
    total = name in ("div", "true_divide") and _number(given["other"])
    if total:
        inner = _plain(given["self"])
        if not isinstance(inner, fx.Node) or operator(inner) != "sum":
            return None
        given = arguments(inner)
    elif name not in ("mean", "var_mean"):
        return None
    source = _plain(given["self"])
    dims = _dims(source, given.get("dim"))
    if not isinstance(source, fx.Node) or dims is None or not given.get("keepdim"):
        return None
    if total and total != math.prod(source.meta["val"].shape[axis] for axis in dims):
        return None
    return source, dims


def _squared(node: object) -> fx.Node | None:
    """What is squared."""
    node = _plain(node)
    if not isinstance(node, fx.Node):
        return None
    name, given = operator(node).removesuffix("_"), arguments(node)
    base: object = None
    if (
        name == "square"
        or (name == "pow" and _number(given.get("exponent")) == 2)
        or (
            name in ("mul", "multiply")
            and isinstance(given["other"], fx.Node)
            and _alike(given["self"], given["other"])
        )
    ):
        base = _plain(given["self"])
    return base if isinstance(base, fx.Node) else None


def _dims(source: object, dims: Any) -> tuple[int, ...] | None:
    value = tensor_value(source)
    if value is None or dims is None:
        return None
    given = dims if isinstance(dims, list | tuple) else [dims]
    return tuple(sorted({int(dim) % value.dim() for dim in given})) or None


def _alike(first: object, second: object, depth: int = _DEPTH) -> bool:
    """Whether two nodes certainly hold the same values: one node, or the same operator on alike operands."""
    first, second = _plain(first), _plain(second)
    if first is second:
        return True
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node):
        return not isinstance(first, fx.Node | Tensor) and not isinstance(second, fx.Node) and first == second
    if (
        depth == 0
        or first.op != "call_function"
        or first.target != second.target
        or len(first.args) != len(second.args)
    ):
        return False
    if isinstance(first.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in first.target.tags:
        return False
    pairs = zip(first.args, second.args, strict=True)
    return first.kwargs == second.kwargs and all(_alike(a, b, depth - 1) for a, b in pairs)
