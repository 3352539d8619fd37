"""Functions of a single value: 256 codes, so a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from sigmaquant.exported.nodes import operator
from sigmaquant.numerics import quantize_activation
from sigmaquant.operators.edge import Edge
from sigmaquant.operators.meaning import (
    IN_FLOAT,
    Builder,
    Meaning,
    Pending,
    Value,
    evaluated,
    extent,
    in_float,
    is_codes,
    is_constant,
    is_live,
)
from sigmaquant.operators.node import Operator, Reference, compute
from sigmaquant.operators.roles import Role, plays

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Lookup(Operator):
    """Any function of one value: ``table[code + 128]``.

    Attributes:
        function: its name, such as ``"hardswish"``.
        table: int8 [256].
    """

    function: str
    table: NDArray[np.int8]


@compute.register
def _(operator: Lookup, reference: Reference, codes: Tensor) -> Tensor:
    return torch.from_numpy(operator.table)[codes.to(torch.int64) + 128]


def table_of(apply: Function, source: Edge, target: Edge, low: float, high: float) -> NDArray[np.int8]:
    """The function's codes for all 256 codes of an edge: int8 [256]."""
    codes = torch.arange(-128, 128)
    lowest, highest = source.range
    real = (codes.clamp(lowest, highest).float() - source.zero_point) * source.scale
    result = torch.nan_to_num(apply(real).float()).clamp(low, high)
    table: NDArray[np.int8] = quantize_activation(
        result, torch.tensor(target.scale), target.zero_point, target.bits
    ).numpy()
    return table


@dataclass(frozen=True)
class Unary(Pending):
    """A function of one edge's values, one by one."""

    edge: Edge | None = None
    function: str = ""
    apply: Function | None = None

    def then(self, function: str, apply: Function) -> Unary:
        """Another function after it."""
        first, clip = self.apply, self.clip
        assert first is not None
        return replace(
            self, clip=type(clip)(), function=function, apply=lambda x: apply(first(x).clamp(clip.low, clip.high))
        )

    def finish(self, edge: Edge, name: str) -> Operator:
        source, apply = self.edge, self.apply
        assert source is not None, "only the default lacks it"
        assert apply is not None, "only the default lacks it"
        table = table_of(apply, source, edge, self.clip.low, self.clip.high)
        return Lookup(name, (source.name,), edge.name, self.function, table)


@dataclass(frozen=True)
class Elementwise(Meaning):
    """A function of each value of the source.

    Attributes:
        function: its name.
        node: whose operator it is.
        inner: whether its result has no grid, so that the next function of it is part of the same table.
    """

    function: str = ""
    node: fx.Node = None  # type: ignore[assignment]
    inner: bool = False

    clippable: ClassVar[bool] = True
    affine: ClassVar[bool] = True

    @property
    def producer(self) -> str:  # type: ignore[override]
        return IN_FLOAT[self.function].producer if self.function in IN_FLOAT else "activation"

    def extends(self, chain: Sequence[Meaning]) -> bool:
        return all(isinstance(link, Elementwise) and link.inner for link in chain)

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        (value,) = values
        apply = function_of(self.node, self.sources[0], to)
        if isinstance(value, Unary):
            return value.then(self.function, apply)
        return Unary(edge=value, function=self.function, apply=apply) if is_codes(value) else None


def function_of(node: fx.Node, source: fx.Node, to: Builder) -> Function:
    """The node's value as a function of its one source, past conditions on that source."""

    def apply(x: Tensor) -> Tensor:
        known: dict[fx.Node, Any] = {source: x}

        def value(at: fx.Node) -> Any:
            if at not in known:
                constant = is_constant(at) and at.op != "call_module"
                known[at] = to.constant(at) if constant else evaluated(at, {a: value(a) for a in at.all_input_nodes})
            return known[at]

        result: Tensor = value(node)
        return result

    return apply


def judged_by(condition: fx.Node) -> fx.Node | None:
    """The one activation whose single values decide a condition; None where there are several or other operators."""
    found: set[fx.Node] = set()
    stack = [condition]
    while stack:
        node = stack.pop()
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return None
        if value.is_floating_point() and is_live(node):
            found.add(node)
            continue
        if is_constant(node):
            if value.numel() != 1:
                return None
            continue
        target = node.target
        if not isinstance(target, torch._ops.OpOverload) or torch.Tag.pointwise not in target.tags:
            return None
        stack.extend(node.all_input_nodes)
    return found.pop() if len(found) == 1 else None


def parse_elementwise(node: fx.Node) -> Meaning | None:
    """The meaning of an operator that computes each value from the value at the same place of one tensor.

    torch marks these operators (``torch.Tag.pointwise``); all other operands must be numbers or constants with one
    element, or be the same tensor again.
    """
    target, found = node.target, extent(node, anywhere=True)
    if not isinstance(target, torch._ops.OpOverload) or found is None or target._schema.is_mutable:
        return None
    tags = target.tags
    if torch.Tag.nondeterministic_seeded in tags or (
        torch.Tag.pointwise not in tags and operator(node).removesuffix("_") not in _UNTAGGED
    ):
        return None
    sources: list[fx.Node] = []
    for argument in node.all_input_nodes:
        value = argument.meta.get("val")
        if is_live(argument):
            judged = judged_by(argument)  # itself, or what a condition looks at
            if judged is None or (isinstance(value, Tensor) and value.shape != node.meta["val"].shape):
                return None
            sources.append(judged)
        elif not isinstance(value, Tensor) or value.numel() != 1:
            return None
    if len(set(sources)) != 1 or extent(sources[0], anywhere=True) != found or not _same_type(node, sources[0]):
        return None
    return Elementwise((sources[0],), found.rows, found.shape, operator(node).removesuffix("_"), node)


_UNTAGGED = {"hardswish", "log_sigmoid", "prelu", "floor_divide", "where", "masked_fill", "special_expit"}
"""What torch does not mark although it is one."""


def _same_type(node: fx.Node, source: fx.Node) -> bool:
    before, after = source.meta.get("val"), node.meta.get("val")
    return isinstance(before, Tensor) and isinstance(after, Tensor) and before.dtype == after.dtype == torch.float32


in_float("pow", "square", producer="multiply")
plays(Role.MEASURES, "pow", "square", "abs", "sqrt", "exp", "rsqrt")
plays(Role.STEEP, "rsqrt", "log", "log2", "log10", "log1p", "reciprocal")
