"""Products of two edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sigmaquant.operators.edge import Edge
from sigmaquant.operators.fixed_point import Factor, factor
from sigmaquant.operators.meaning import Builder, Meaning, Pending, Value, code_range, in_float
from sigmaquant.operators.movement import broadcasting
from sigmaquant.operators.node import Operator, Reference, centred, compute, written


@dataclass(frozen=True)
class Product(Operator):
    """``clamp(z + factor * ((a - z_a) * (b - z_b)), low, high)``; both have as many dimensions, and broadcast."""

    factor: Factor
    low: int
    high: int


@compute.register
def _(operator: Product, reference: Reference, left: Tensor, right: Tensor) -> Tensor:
    first, second = (reference.edges[name] for name in operator.inputs)
    product = centred(left, first, torch.int64) * centred(right, second, torch.int64)
    return written(operator.factor.apply_(product, 0), operator, reference)


@dataclass(frozen=True)
class Times(Pending):
    """The product of two edges."""

    edges: tuple[Edge, ...] = ()

    def finish(self, edge: Edge, name: str) -> Operator:
        left, right = self.edges
        scale = factor(left.scale * right.scale / edge.scale, name)
        return Product(name, (left.name, right.name), edge.name, scale, *code_range(self.clip, edge))


@dataclass(frozen=True)
class Multiplication(Meaning):
    """``a * b`` of two edges that broadcast."""

    producer: ClassVar[str] = "multiply"
    clippable: ClassVar[bool] = True

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        edges = broadcasting(values, self.rows, len(self.shape), to)
        return None if edges is None else Times(edges=edges)


in_float("glu", producer="activation")
