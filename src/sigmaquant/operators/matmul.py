"""Matrix products of two activations: attention's scores and mixtures, bilinear forms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from sigmaquant.exported.nodes import operator
from sigmaquant.exported.shapes import count, length
from sigmaquant.operators.edge import Edge
from sigmaquant.operators.fixed_point import Factor, factor
from sigmaquant.operators.meaning import (
    Builder,
    Extent,
    Meaning,
    Pending,
    Value,
    code_range,
    constant_shape,
    declares,
    extent,
    in_float,
    is_codes,
    is_constant,
    is_live,
)
from sigmaquant.operators.movement import Returned, Step, Steps, moved
from sigmaquant.operators.node import Operator, Reference, centred, compute, written
from sigmaquant.operators.products import Operand, Product, dims, multiplies, nodes


@dataclass(frozen=True)
class MatMul(Operator):
    """``clamp(z + factor * sum_k (a[.., m, k] - z_a) * (b[.., k, n] - z_b), low, high)``.

    Both have as many axes; those before the last two broadcast.
    """

    factor: Factor
    low: int
    high: int


@compute.register
def _(operator: MatMul, reference: Reference, left: Tensor, right: Tensor) -> Tensor:
    # sums of products of 9-bit numbers are exact in float64
    kind = torch.int64 if reference.integer_kernels else torch.float64
    first, second = (
        centred(codes, reference.edges[name], kind) for name, codes in zip(operator.inputs, (left, right), strict=True)
    )
    sums = torch.matmul(first, second).to(torch.int64)
    return written(operator.factor.apply_(sums, 0), operator, reference)


@dataclass(frozen=True)
class Multiplied(Pending):
    """The matrix product of two edges, times a number."""

    edges: tuple[Edge, ...] = ()
    scale: float = 1.0

    def finish(self, edge: Edge, name: str) -> Operator:
        left, right = self.edges
        ratio = factor(self.scale * left.scale * right.scale / edge.scale, name)
        return MatMul(name, (left.name, right.name), edge.name, ratio, *code_range(self.clip, edge))


@dataclass(frozen=True)
class MatrixProduct(Meaning):
    """A matrix product of two edges after moves, whose result is moved again.

    Attributes:
        constant: the node of an operand that is a constant, and which one it is; None: both are edges.
        before: moves of each operand.
        product: shape of the product.
        after: moves of the product.
    """

    constant: tuple[int, fx.Node] | None = None
    before: tuple[tuple[Step, ...], tuple[Step, ...]] = ((), ())
    product: tuple[int, ...] = ()
    after: tuple[Step, ...] = ()

    producer: ClassVar[str] = "attention"
    scalable: ClassVar[bool] = True

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        from sigmaquant.operators.concatenation import constant_edge

        edges, given = [], list(values)
        if self.constant is not None:
            place, node = self.constant
            (live,) = values
            if not is_codes(live):
                return None
            number = to.constant(node)
            whole = number.reshape((1,) * (len(live.shape) + 1 - number.dim()) + tuple(number.shape))
            given.insert(place, constant_edge(whole[0], live, to))
        for value, steps in zip(given, self.before, strict=True):
            if not is_codes(value) or value.rows != self.rows:
                return None
            found = Steps(Extent(value.rows, value.shape))
            found.steps.extend(steps)
            edges.append(moved(value, found, to))
        result = Multiplied(edges=tuple(edges))
        return Returned(inner=result, shape=self.product, steps=self.after) if self.after else result


@declares("matmul", "bmm", "mm", producer="attention")
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    first = given["self"]
    second = given["other"] if operator(node) == "matmul" else given["mat2"]
    found, places = extent(node), [extent(operand) if is_live(operand) else None for operand in (first, second)]
    left, right = places
    if found is not None and (left is None) != (right is None):
        return _with_constant(found, (first, second), (left, right))
    if found is None or left is None or right is None or not left.rows == right.rows == found.rows:
        return None
    if not len(left.shape) == len(right.shape) == len(found.shape) >= 2:
        return None
    return MatrixProduct((first, second), found.rows, found.shape, product=found.shape)


def _with_constant(found: Extent, operands: tuple[Any, Any], places: tuple[Extent | None, ...]) -> Meaning | None:
    """A product of an edge and a constant that is no weight (attention of queries that are parameters)."""
    number = int(places[0] is not None)
    constant, live, place = operands[number], operands[1 - number], places[1 - number]
    if not isinstance(constant, fx.Node) or not is_constant(constant) or place is None or place.rows != found.rows:
        return None
    shape = constant_shape(constant, len(found.shape))
    if shape is None or not len(shape) == len(place.shape) == len(found.shape) >= 2 or found.rows != 1:
        return None
    return MatrixProduct((live,), found.rows, found.shape, (number, constant), product=found.shape)


@declares("einsum", producer="attention")
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    """Two operands, the batch first in both and in the result, each label once in an operand."""
    equation, tensors = str(given["equation"]).replace(" ", ""), tuple(given["tensors"])
    found = extent(node)
    if found is None or len(tensors) != 2 or "->" not in equation or "." in equation:
        return None
    inputs, output = equation.split("->")
    labels = inputs.split(",")
    places = [extent(tensor) if is_live(tensor) else None for tensor in tensors]
    if any(p is None or p.rows != found.rows for p in places) or len(labels) != 2:
        return None
    left, right = labels
    batch = output[:1]
    if (
        not batch
        or left[:1] != batch
        or right[:1] != batch
        or any(len(set(t)) != len(t) for t in (left, right, output))
    ):
        return None
    size = {
        label: place.shape[axis]
        for letters, place in zip(labels, places, strict=True)
        if place is not None
        for axis, label in enumerate(letters[1:])
    }
    shared = [c for c in output[1:] if c in left and c in right]
    summed = [c for c in left[1:] if c in right and c not in output]
    mine, theirs = ([c for c in letters[1:] if c not in shared + summed] for letters in (left, right))
    if not set(mine + theirs) <= set(output) or any(c not in left + right for c in output):
        return None

    def count(group: Sequence[str]) -> int:
        return math.prod(size[c] for c in group)

    lead = tuple(size[c] for c in shared)
    moves = []
    for letters, place, order, ends in (
        (left, places[0], [*shared, *mine, *summed], (count(mine), count(summed))),
        (right, places[1], [*shared, *summed, *theirs], (count(summed), count(theirs))),
    ):
        assert place is not None, "checked above"
        steps = Steps(place).permute([letters[1:].index(c) for c in order]).reshape((*lead, *ends))
        moves.append(tuple(steps.steps))
    product = (*lead, count(mine), count(theirs))
    after = Steps(Extent(found.rows, product)).reshape(tuple(size[c] for c in [*shared, *mine, *theirs]))
    after.permute([[*shared, *mine, *theirs].index(c) for c in output[1:]])
    return MatrixProduct(tensors, found.rows, found.shape, None, (moves[0], moves[1]), product, tuple(after.steps))


in_float("baddbmm", producer="attention")


# -- products --------------------------------------------------------------------------------------------------------

_MATMULS = {
    "matmul": ("self", "other", None), "mm": ("self", "mat2", None), "bmm": ("self", "mat2", None),
    "mv": ("self", "vec", None), "dot": ("self", "tensor", None), "addmm": ("mat1", "mat2", "self"),
    "baddbmm": ("batch1", "batch2", "self"), "addbmm": ("batch1", "batch2", "self"), "addmv": ("mat", "vec", "self"),
}  # fmt: skip
"""Names of both operands, and of what is added."""


@multiplies(*_MATMULS)
def _(node: fx.Node, bound: Mapping[str, Any]) -> tuple[Product, ...]:
    left_name, right_name, bias_name = _MATMULS[operator(node)]
    left, right = bound[left_name], bound[right_name]
    # a vector has one axis, which is summed over
    first = Operand(left, (dims(left) - 1,), max(dims(left) - 2, 0))
    second = Operand(right, (max(dims(right) - 2, 0),), dims(right) - 1)
    macs = count(node) * length(left, -1)
    if operator(node) == "addbmm":
        macs *= length(left, 0)
    bias = () if bias_name is None else nodes(bound[bias_name])
    return (Product(node, (left, right), (first, second), bias, macs),)


@multiplies("einsum")
def _(node: fx.Node, bound: Mapping[str, Any]) -> tuple[Product, ...]:
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
    return (Product(node, tensors, tuple(operands), macs=math.prod(sizes.values())),)


@multiplies("scaled_dot_product_attention")
def _(node: fx.Node, bound: Mapping[str, Any]) -> tuple[Product, ...]:
    query, value = bound["query"], bound["value"]
    # q [..., L, E] with k [..., S, E], then the [..., L, S] result with v [..., S, Ev]
    macs = count(query) * length(value, -2) + count(node) * length(value, -2)
    return (Product(node, (query, bound["key"], value), (), macs=macs),)
