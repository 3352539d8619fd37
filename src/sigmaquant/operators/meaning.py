"""What a node of the graph means, and how it becomes an integer operator.

A family of operators declares, for each spelling, a function from the node to a `Meaning`, or to None where the
arguments ask for something that has no integer form: then the operator stays in float and is listed by name. A meaning
says whether the values stay on their grid, and builds the integer operator out of the values of its sources.

Values are edges, or arithmetic that waits for its quantizer (`Pending`): a chain such as convolution, BatchNorm, ReLU
is one integer operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, Protocol, Self, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from sigmaquant.exported.nodes import arguments, attribute_of, operator
from sigmaquant.exported.shapes import shape_at_one, size_at
from sigmaquant.numerics import quantize_activation
from sigmaquant.operators.edge import Edge
from sigmaquant.operators.node import Operator

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Clip:
    """The interval that a value is clipped to before it is quantized."""

    low: float = -math.inf
    high: float = math.inf

    @property
    def is_open(self) -> bool:
        """Whether nothing is clipped."""
        return self == Clip()

    def then(self, low: float, high: float) -> Clip:
        """A second clipping after this one; where its bounds cross, the upper one wins, as in torch."""
        return Clip(min(max(self.low, low), high), min(max(self.high, low), high))


@dataclass(frozen=True)
class Pending:
    """Arithmetic in real numbers that waits for the quantizer at its end.

    Attributes:
        clip: applied last.
    """

    clip: Clip = Clip()

    def clipped(self, low: float, high: float) -> Self:
        """With a clipping after it."""
        return replace(self, clip=self.clip.then(low, high))

    def moved(self, steps: Any) -> Pending | None:
        """After moves; None where it cannot wait for what follows them."""
        return None

    def finish(self, edge: Edge, name: str) -> Operator:
        """The integer operator that computes it on the grid of its output edge.

        Raises:
            LoweringError: scales or offsets that integers cannot hold.
        """
        raise NotImplementedError


Value = Edge | Pending | Tensor | None
"""What a node stands for: an edge, pending arithmetic, a constant, or nothing that has an integer form."""


def is_codes(value: object) -> TypeGuard[Edge]:
    """Whether a value is an edge of integers."""
    return isinstance(value, Edge) and value.has_grid


def code_range(clip: Clip, edge: Edge) -> tuple[int, int]:
    """A clipping in codes; the quantizer rounds after it clips, and rounding keeps the order."""
    qmin, qmax = edge.range

    def code(value: float, default: int) -> int:
        if math.isinf(value):
            return default if (value < 0) == (default == qmin) else (qmin if value < 0 else qmax)
        return int(quantize_activation(torch.tensor(value), torch.tensor(edge.scale), edge.zero_point, edge.bits))

    return code(clip.low, qmin), code(clip.high, qmax)


class Builder(Protocol):
    """What a meaning needs from lowering in order to build."""

    def emit(self, make: Callable[[str, Edge], Operator], source: Edge, what: str, **changes: Any) -> Edge:
        """Append an operator whose output has the source's grid; `changes` are those of the edge (shape, rows)."""
        ...

    def emit_on(self, make: Callable[[str, Edge], Operator], edge: Edge, what: str) -> Edge:
        """Append an operator whose output is a new edge like `edge`; names are made unique."""
        ...

    def constant(self, node: fx.Node) -> Tensor:
        """The value of a node that depends on parameters and buffers alone."""
        ...

    def module(self, node: fx.Node) -> nn.Module:
        """The module that a ``call_module`` node calls, as it is trained."""
        ...

    def weight(self, node: fx.Node) -> Any:
        """The integer codes of the weight of a layer, or of a module that yields one; None where it has none."""
        ...

    def shared(self, key: Any, make: Callable[[], Edge]) -> Edge:
        """An edge that several meanings want, made once."""
        ...

    @property
    def fine_bias(self) -> bool:
        """Whether biases have units as fine as with 8-bit weights."""
        ...


@dataclass(frozen=True)
class Meaning:
    """What a node computes.

    Attributes:
        sources: the nodes whose values it reads, in the order of its arithmetic; one that is read twice is here twice.
        rows: of the result, see `Edge.rows`.
        shape: of one row of the result.
    """

    sources: tuple[fx.Node, ...]
    rows: int
    shape: tuple[int, ...]

    passes: ClassVar[bool] = False
    """Values stay on their grid: the result needs no quantizer of its own."""
    view: ClassVar[bool] = False
    """Of what passes values on: needs no memory of its own on a device."""
    producer: ClassVar[str] = "activation"
    """`ActivationSpec.producer` of what produces new values."""
    integer: ClassVar[bool] = True
    """Whether it has an integer form."""
    clippable: ClassVar[bool] = False
    """Whether a clipping of the result merges into its requantization."""
    affine: ClassVar[bool] = False
    """Whether a further affine map merges into the arithmetic that ends here."""
    movable: ClassVar[bool] = False
    """Whether it waits for its reader past reshapes."""
    scalable: ClassVar[bool] = False
    """Whether a positive factor merges into its requantization."""

    @property
    def channel_axis(self) -> int | None:
        """The axis of a layer's output channels, whose factors and offsets it takes; None for what is no layer."""
        return None

    def extends(self, chain: Sequence[Meaning]) -> bool:
        """Whether it can merge into the arithmetic of the producers before it, which then wait for it.

        Args:
            chain: the meanings that wait, first one first; the last one is what this meaning reads.
        """
        return False

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        """The value of the node; None where these values allow no integer form.

        Args:
            values: of the sources.
            to: lowering.
        """
        raise NotImplementedError


Parse = Callable[[fx.Node, Mapping[str, Any]], "Meaning | None"]
"""From a node and its arguments by name to its meaning."""
FUNCTIONS: dict[str, Parse] = {}
"""By name of the operator, without overload and in-place underscore."""
PICKED: dict[str, Parse] = {}
"""For operators with several results, the parser of the node that picks one; ``index_of_result`` says which."""


@dataclass(frozen=True)
class InFloat:
    """What is known of an operator where its arguments have no integer form, so that it is computed in float.

    Attributes:
        producer: `Meaning.producer` of its result, which is brought to a grid; empty where it has no grid.
        carries: whether the results are values of the first operand, or zeros: they stay on its grid.
        view: of what carries values, whether they also stay where they lie in memory.
        clips: whether it is a clipping.
    """

    producer: str = ""
    carries: bool = False
    view: bool = False
    clips: bool = False


IN_FLOAT: dict[str, InFloat] = {}
"""By name of the operator, without overload and in-place underscore."""


def in_float(*names: str, producer: str = "", carries: bool = False, view: bool = False, clips: bool = False) -> None:
    """Declare what is known of operators where they have no integer form; see `InFloat`."""
    for name in names:
        assert name not in IN_FLOAT, f"{name} is declared twice"
        IN_FLOAT[name] = InFloat(producer, carries, view, clips)


def known_in_float(node: fx.Node) -> InFloat:
    """What is known of a node's operator where it has no integer form; nothing where no family declares it."""
    return IN_FLOAT.get(operator(node).removesuffix("_"), InFloat())


def declares(
    *names: str, producer: str = "", carries: bool = False, view: bool = False, clips: bool = False
) -> Callable[[Parse], Parse]:
    """Register the parser of operators, by their names in ``torch.ops.aten``.

    Args:
        names: without overload and in-place underscore.
        producer: see `InFloat`: what holds where the parser finds no integer form.
        carries: likewise.
        view: likewise.
        clips: likewise.
    """
    if producer or carries:
        in_float(*names, producer=producer, carries=carries, view=view, clips=clips)

    def register(parse: Parse) -> Parse:
        for name in names:
            assert name not in FUNCTIONS, f"{name} is declared twice"
            FUNCTIONS[name] = parse
        return parse

    return register


@dataclass(frozen=True)
class Extent:
    """Shape of a floating-point tensor of which one axis is the batch, maybe with rows folded into it.

    Attributes:
        rows: the batch axis has ``N * rows`` entries.
        shape: all other axes, in order.
        batch_axis: which axis it is. Edges hold it first wherever it is.
    """

    rows: int
    shape: tuple[int, ...]
    batch_axis: int = 0

    def axis(self, dim: Any) -> int | None:
        """A dimension of the tensor as an axis of an example; None for the batch."""
        place = int(dim) % (len(self.shape) + 1)
        return None if place == self.batch_axis else place - (place > self.batch_axis)


def extent(node: object, anywhere: bool = False) -> Extent | None:
    """The extent of a node's value; None where it is no such tensor, or has an axis without any value.

    An axis is the batch where it is a multiple of the batch size, and no other depends on it.

    Args:
        node: any node.
        anywhere: whether the batch may be another axis than the first (sequences first).
    """
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return extent_of(value, anywhere) if isinstance(value, Tensor) and value.is_floating_point() else None


def extent_of(value: Tensor, anywhere: bool = False) -> Extent | None:
    """The same of a tensor of any type."""
    if value.dim() == 0:
        return None
    whole = _sizes(value)
    dynamic = [axis for axis, size in enumerate(whole) if not isinstance(size, int)]
    if len(dynamic) != 1 or 0 in whole or (dynamic[0] and not anywhere):
        return None
    size = whole[dynamic[0]]
    rows = size_at(size, 1)
    if rows < 1 or size_at(size, 2) != 2 * rows or size_at(size, 3) != 3 * rows:
        return None
    others = tuple(int(n) for axis, n in enumerate(whole) if axis != dynamic[0])
    return Extent(rows, others, dynamic[0])


def _sizes(value: Tensor) -> tuple[Any, ...]:
    """A shape whose sizes may be expressions of the batch size."""
    return tuple(value.shape)


def is_live(node: object) -> TypeGuard[fx.Node]:
    """Whether a node's value depends on the model's inputs, not on parameters, buffers and sizes alone."""
    return isinstance(node, fx.Node) and not is_constant(node)


def is_constant(node: fx.Node) -> bool:
    """Whether a node's tensor depends on parameters, buffers and sizes alone."""
    known = node.meta.get("constant")
    if known is None:
        known = _is_constant(node)
        node.meta["constant"] = known
    return bool(known)


def _is_constant(node: fx.Node) -> bool:
    if node.op == "get_attr":
        return True
    if node.op == "call_module":
        if not node.args:  # a layer's weight
            return False
    elif node.op != "call_function":
        return False
    if isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags:
        return False
    # the chain is walked without recursion: graphs are deeper than Python's stack
    # a layer of constants (embedded positions) is a constant
    stack, seen = [node], {node}
    while stack:
        current = stack.pop()
        if current.op == "placeholder" or current.op == "output":
            return False
        if current.op == "get_attr" or (current.op == "call_module" and not current.args):
            continue
        known = current.meta.get("constant")
        if known is False:
            return False
        for source in current.all_input_nodes:
            if source not in seen and isinstance(source.meta.get("val"), Tensor | list | tuple):
                seen.add(source)
                stack.append(source)
    return True


def constant_shape(node: object, rank: int, batch_axis: int = 0) -> tuple[int, ...] | None:
    """Shape of a constant operand against an example of `rank` dimensions; None where its batch axis is no single row.

    Numbers have the shape ``()``.
    """
    if isinstance(node, int | float):
        return ()
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    if not isinstance(value, Tensor):
        return None
    # one row that is repeated for each example (a class token) counts as that row
    if value.dim() and not isinstance(_sizes(value)[0], int) and extent_of(value) != Extent(1, shape_at_one(value)[1:]):
        return None
    own = shape_at_one(value)
    if prod(own) == 1:
        return ()
    shape = (1,) * (rank + 1 - value.dim()) + own
    if len(shape) != rank + 1 or shape[batch_axis] != 1 or 0 in shape:
        return None
    return shape[:batch_axis] + shape[batch_axis + 1 :]


def constant_value(node: fx.Node) -> Tensor | None:
    """The tensor of a constant of buffers and numbers, for a batch of one; None where parameters are in it.

    What training changes is no constant for what an operator means.
    """
    known: dict[fx.Node, Any] = {}
    stack = [node]
    while stack:
        current = stack[-1]
        if current in known:
            stack.pop()
            continue
        value = current.meta.get("val")
        if current.op == "get_attr":
            module = current.graph.owning_module
            held = None if module is None else attribute_of(module, str(current.target), None)
            if not isinstance(held, Tensor) or isinstance(held, nn.Parameter):
                return None
            known[current] = held.detach().cpu()
        elif isinstance(value, int | torch.SymInt):
            known[current] = size_at(value, 1)
        elif isinstance(value, torch.device):
            known[current] = torch.device("cpu")
        elif current.op != "call_function" or (isinstance(value, Tensor) and not is_constant(current)):
            return None
        elif missing := [source for source in current.all_input_nodes if source not in known]:
            stack.extend(missing)
        else:
            known[current] = evaluated(current, known)
    found = known[node]
    return found if isinstance(found, Tensor) else None


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number (a truth value counts as none)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def sizes(value: Any, rank: int) -> tuple[int, ...]:
    """A size for each dimension, from one for all or from a list."""
    items = tuple(int(v) for v in value) if isinstance(value, list | tuple) else (int(value),)
    return items * rank if len(items) == 1 else items


def axes(value: Any, rank: int) -> tuple[int, ...] | None:
    """Dimensions as axes of one example with `rank` dimensions, in order; None where the batch is among them."""
    given = value if isinstance(value, list | tuple) else [value]
    found = sorted({int(axis) % (rank + 1) for axis in given})
    return None if not found or 0 in found else tuple(axis - 1 for axis in found)


def evaluated(node: fx.Node, known: Mapping[fx.Node, Any]) -> Any:
    """The node's operator on known values of its sources."""
    assert callable(node.target)
    return node.target(
        *fx.node.map_arg(node.args, known.__getitem__), **fx.node.map_arg(node.kwargs, known.__getitem__)
    )


def parse_function(node: fx.Node) -> Meaning | None:
    """The meaning of a node that calls an operator; None where it has none that is known."""
    name = operator(node).removesuffix("_")
    parser = FUNCTIONS.get(name)
    return None if parser is None else parser(node, arguments(node))
