"""What is computed in float: operators whose results lie on a grid but which have no integer form yet.

And functions that may stand in float behind the last integer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from sigmaquant.exported.nodes import arguments, operator
from sigmaquant.operators.meaning import Builder, Meaning, Value, extent, is_live, known_in_float
from sigmaquant.operators.node import Operator, Reference, compute


@dataclass(frozen=True)
class FloatFunction(Operator):
    """A function of float values, behind the last integer of a network.

    Attributes:
        function: ``"softmax"``, ``"log_softmax"`` or ``"sigmoid"``.
        axis: of a softmax, without the batch dimension.
    """

    function: str
    axis: int = -1


@compute.register
def _(operator: FloatFunction, reference: Reference, x: Tensor) -> Tensor:
    if operator.function == "sigmoid":
        return torch.sigmoid(x)
    result: Tensor = getattr(torch, operator.function)(x, operator.axis + 1)
    return result


@dataclass(frozen=True)
class Ending(Meaning):
    """A softmax, log-softmax or sigmoid whose result the network returns.

    Attributes:
        function: its name.
        axis: of a softmax.
    """

    function: str = "sigmoid"
    axis: int = -1

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        raise NotImplementedError("lowering builds what stands in float")


def ending(node: fx.Node) -> Ending | None:
    """The meaning of a node that may stay in float behind the last integer; None for any other.

    All that reads it must be the network's output.
    """
    name, found = operator(node), extent(node, anywhere=True)
    if found is None or not all(user.op == "output" for user in node.users):
        return None
    if name not in ("softmax", "log_softmax", "sigmoid"):
        return None
    bound = arguments(node)
    source = bound.get("self")
    if not is_live(source) or extent(source, anywhere=True) != found or bound.get("dtype") not in (None, torch.float32):
        return None
    if name == "sigmoid":
        return Ending((source,), found.rows, found.shape, name)
    axis = found.axis(bound["dim"])
    return None if axis is None else Ending((source,), found.rows, found.shape, name, axis)


@dataclass(frozen=True)
class Carried(Meaning):
    """Values that stay on their grid, although nothing here says where they go (a sorting, a batch that moves).

    Attributes:
        reshapes: whether memory stays as it is.
    """

    reshapes: bool = False

    passes: ClassVar[bool] = True
    integer: ClassVar[bool] = False

    @property
    def view(self) -> bool:  # type: ignore[override]
        return self.reshapes

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        return None


def carried(node: fx.Node, picked: fx.Node) -> Carried | None:
    """The meaning of an operator whose results are values of its first operand; None for any other.

    Args:
        node: yields the values.
        picked: the operator itself, where the node picks one of its results.
    """
    known, bound, value = known_in_float(picked), arguments(picked), node.meta.get("val")
    source = bound.get("self", bound.get("input", picked.args[0] if picked.args else None))
    if not known.carries or not is_live(source) or not isinstance(value, Tensor):
        return None
    before = source.meta.get("val")
    if isinstance(before, list | tuple) and picked is not node:
        return carried(node, source)
    if not isinstance(before, Tensor) or before.dtype != value.dtype:
        return None
    fills = bound.get("value") not in (None, 0)  # what is filled in must be on every grid
    return None if fills or is_live(bound.get("other")) else Carried((source,), 1, (), known.view)


@dataclass(frozen=True)
class FloatProducer(Meaning):
    """An operator that is computed in float and whose result is brought to a grid.

    Attributes:
        kind: `ActivationSpec.producer`.
        clips: whether it is a clipping.
    """

    kind: str = "activation"
    clips: bool = False

    integer: ClassVar[bool] = False

    @property
    def clippable(self) -> bool:  # type: ignore[override]
        return self.kind not in ("activation", "attention", "recurrent")

    @property
    def producer(self) -> str:  # type: ignore[override]
        return self.kind

    def extends(self, chain: Sequence[Meaning]) -> bool:
        return self.clips and chain[-1].clippable

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        return None


def float_producer(node: fx.Node, picked: fx.Node) -> FloatProducer | None:
    """The meaning of an operator that stays in float, if its result belongs on a grid: also any function of values.

    Args:
        node: yields the values.
        picked: the operator itself, where the node picks one of its results.
    """
    known = known_in_float(picked)
    value, target = node.meta.get("val"), node.target
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() == 0:
        return None
    sources = tuple(source for source in node.all_input_nodes if is_live(source))
    pointwise = isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags
    floats = [source.meta.get("val") for source in sources]
    if not known.producer and not (pointwise and any(isinstance(v, Tensor) and v.dtype == value.dtype for v in floats)):
        return None
    return FloatProducer(sources, 1, (), known.producer or "activation", known.clips)
