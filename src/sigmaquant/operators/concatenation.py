"""Concatenation and stacking, which bring their inputs to one grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, fx

from sigmaquant.exported.nodes import operator
from sigmaquant.exported.shapes import shape_at_one
from sigmaquant.operators.affine import Affine
from sigmaquant.operators.edge import Edge, encode
from sigmaquant.operators.fixed_point import common_multipliers
from sigmaquant.operators.meaning import (
    Builder,
    Extent,
    Meaning,
    Pending,
    Value,
    code_range,
    declares,
    extent,
    is_codes,
    is_constant,
    is_live,
)
from sigmaquant.operators.movement import Steps, moved
from sigmaquant.operators.node import Operator, Reference, centred, compute, rounded_shift_, written


@dataclass(frozen=True)
class Concatenation(Operator):
    """Inputs one after the other along `axis` (without the batch dimension), each brought to the output's grid.

    ``clamp(z + ((x - z_k) * multiplier_k + 2**(shift_k-1)) >> shift_k, low, high)``; on the same grid that is a copy.
    """

    axis: int
    multipliers: tuple[int, ...]
    shifts: tuple[int, ...]
    low: int
    high: int


@compute.register
def _(operator: Concatenation, reference: Reference, *inputs: Tensor) -> Tensor:
    parts = []
    for name, codes, multiplier, shift in zip(
        operator.inputs, inputs, operator.multipliers, operator.shifts, strict=True
    ):
        relative = centred(codes, reference.edges[name], torch.int32).mul_(multiplier)
        parts.append(written(rounded_shift_(relative, shift), operator, reference))
    return torch.cat(parts, operator.axis + 1)


@dataclass(frozen=True)
class Joined(Pending):
    """Edges one after the other."""

    edges: tuple[Edge, ...] = ()
    axis: int = 0

    def finish(self, edge: Edge, name: str) -> Operator:
        multipliers, shifts = [], []
        for source in self.edges:
            (multiplier,), _, shift = common_multipliers([source.scale / edge.scale], 0.0, 21, name)
            multipliers.append(multiplier)
            shifts.append(shift)
        names = tuple(source.name for source in self.edges)
        return Concatenation(
            name, names, edge.name, self.axis, tuple(multipliers), tuple(shifts), *code_range(self.clip, edge)
        )


@dataclass(frozen=True)
class Joining(Meaning):
    """Tensors one after the other, constants among them (a class token).

    Attributes:
        parts: the operands in order, each a node.
        axis: of an example.
        new_axis: whether the axis is a new one of the result (``stack``).
    """

    parts: tuple[fx.Node, ...] = ()
    axis: int = 0
    new_axis: bool = False

    producer: ClassVar[str] = "concatenation"
    clippable: ClassVar[bool] = True

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        known = dict(zip(self.sources, values, strict=True))
        if not all(is_codes(value) and value.rows == self.rows for value in values):
            return None
        live = next(value for value in values if isinstance(value, Edge))
        edges = []
        for part in self.parts:
            value = known.get(part)
            edge = value if isinstance(value, Edge) else constant_edge(to.constant(part)[0], live, to)
            if self.new_axis:
                steps = Steps(Extent(edge.rows, edge.shape))
                edge = moved(edge, steps.reshape((*edge.shape[: self.axis], 1, *edge.shape[self.axis :])), to)
            edges.append(edge)
        return Joined(edges=tuple(edges), axis=self.axis)


def constant_edge(example: Tensor, like: Edge, to: Builder) -> Edge:
    """A constant as an edge that depends on nothing: codes of another edge, times zero, plus its own.

    Args:
        example: of as many dimensions as an example of the other edge.
        like: the other edge.
        to: lowering.
    """
    example = example.detach().float().cpu()
    steps = Steps(Extent(like.rows, like.shape))
    for axis, (own, wanted) in enumerate(zip(like.shape, example.shape, strict=True)):
        if own != wanted:
            steps.take(axis, (0,) * wanted)
    source = moved(like, steps, to)
    low, high = min(0.0, float(example.min())), max(0.0, float(example.max()))
    scale = max(high - low, 1e-12) / 255
    edge = Edge(
        "", tuple(example.shape), 8, float(np.float32(scale)), max(-128, min(127, round(-128 - low / scale))), like.rows
    )
    codes = encode(example, edge).numpy().astype(np.int32) - edge.zero_point

    def make(name: str, output: Edge) -> Operator:
        nothing, shift = np.zeros_like(codes), np.full(codes.shape, 1, dtype=np.int64)
        return Affine(name, (source.name,), output.name, nothing, codes * 2, shift, -128, 127)

    return to.emit_on(make, edge, "constant")


@declares("cat", "concat", "concatenate", "hstack", "vstack", "dstack", "stack", producer="concatenation")
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    found, name = extent(node), operator(node)
    parts = tuple(given["tensors"])
    if found is None or not all(isinstance(part, fx.Node) for part in parts):
        return None
    rank = len(found.shape)
    # an empty part of one dimension counts as nothing in torch
    dim = {"hstack": 1, "vstack": 0, "dstack": 2}.get(name, given.get("dim", 0)) % (rank + 1)
    if dim == 0:
        return None
    live = tuple(part for part in parts if is_live(part))
    for part in parts:
        value = part.meta.get("val")
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return None
        if part in live:
            place = extent(part)
            if place is None or place.rows != found.rows or len(place.shape) != rank - (name == "stack"):
                return None
        elif not is_constant(part) or value.dim() != rank + 1 - (name == "stack") or shape_at_one(value)[0] != 1:
            return None
    if not live or (found.rows != 1 and len(live) != len(parts)):
        return None
    return Joining(live, found.rows, found.shape, parts, dim - 1, name == "stack")
