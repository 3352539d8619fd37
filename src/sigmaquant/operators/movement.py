"""Movement: codes that only change their place.

Every operator that moves, cuts, repeats or pads is a sequence of five steps, each of them plain data. So a pixel
shuffle is two reshapes around a permutation, a nearest resizing one `Take` for each axis, and no exporter needs to know
either.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from sigmaquant.exported.nodes import arguments, attribute_of, operator
from sigmaquant.exported.shapes import size_at_one
from sigmaquant.operators.edge import Edge
from sigmaquant.operators.meaning import (
    Builder,
    Extent,
    Meaning,
    Pending,
    Value,
    declares,
    extent,
    in_float,
    is_live,
    sizes,
)
from sigmaquant.operators.node import Operator, Reference, compute
from sigmaquant.operators.roles import Role, plays

# -- in integers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Move(Operator):
    """Codes that change their place. Axes and shapes are those of an example, without the batch dimension."""


@dataclass(frozen=True)
class Reshape(Move):
    """The same codes in the same order; rows may be folded into the batch dimension or come back from it.

    Attributes:
        shape: of one row of the output.
    """

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Permute(Move):
    """Axes in another order.

    Attributes:
        axes: output axis k is input axis ``axes[k]``.
    """

    axes: tuple[int, ...]


@dataclass(frozen=True)
class Slice(Move):
    """Every `step`-th index of an axis.

    Attributes:
        axis: which.
        start: first index.
        stop: first index that is out again.
        step: at least 1.
    """

    axis: int
    start: int
    stop: int
    step: int


@dataclass(frozen=True)
class Pad(Move):
    """Zeros around: their code is the zero-point.

    Attributes:
        before: how many, by axis.
        after: how many, by axis.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Take(Move):
    """Indices of an axis, in any order, any number of times: flips, rolls, repetitions, nearest resizing, reflections.

    Attributes:
        axis: which.
        indices: of the input, one for each index of the output.
    """

    axis: int
    indices: tuple[int, ...]


@compute.register
def _(operator: Reshape, reference: Reference, codes: Tensor) -> Tensor:
    source, target = reference.edges[operator.inputs[0]], reference.edges[operator.output]
    examples = len(codes) // source.rows
    return codes.reshape(examples * target.rows, *operator.shape)


@compute.register
def _(operator: Permute, reference: Reference, codes: Tensor) -> Tensor:
    return codes.permute(0, *(axis + 1 for axis in operator.axes))


@compute.register
def _(operator: Slice, reference: Reference, codes: Tensor) -> Tensor:
    index = [slice(None)] * codes.dim()
    index[operator.axis + 1] = slice(operator.start, operator.stop, operator.step)
    return codes[tuple(index)]


@compute.register
def _(operator: Pad, reference: Reference, codes: Tensor) -> Tensor:
    edge = reference.edges[operator.inputs[0]]
    sides = [side for pair in zip(reversed(operator.before), reversed(operator.after), strict=True) for side in pair]
    return F.pad(codes, sides, value=edge.zero_point)


@compute.register
def _(operator: Take, reference: Reference, codes: Tensor) -> Tensor:
    return codes.index_select(operator.axis + 1, torch.tensor(operator.indices))


# -- steps -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One move of a movement.

    Attributes:
        kind: of the operator.
        fields: its own fields.
        shape: of one row of the result.
        rows: of the result.
    """

    kind: type[Move]
    fields: tuple[Any, ...]
    shape: tuple[int, ...]
    rows: int


class Steps:
    """Moves one after the other.

    Args:
        start: the extent that is moved.

    Attributes:
        rows: now.
        shape: now.
        steps: so far; what moves nothing is left out.
    """

    def __init__(self, start: Extent) -> None:
        self.rows, self.shape = start.rows, start.shape
        self.steps: list[Step] = []

    def _add(self, kind: type[Move], fields: tuple[Any, ...], shape: tuple[int, ...]) -> Steps:
        self.shape = shape
        self.steps.append(Step(kind, fields, shape, self.rows))
        return self

    def reshape(self, shape: Sequence[int], rows: int | None = None) -> Steps:
        """To another shape; `rows` where examples have another number of rows then."""
        target, count = tuple(shape), self.rows if rows is None else rows
        if (target, count) == (self.shape, self.rows):
            return self
        self.rows = count
        if self.steps and self.steps[-1].kind is Reshape:  # two reshapes are one
            self.steps.pop()
        return self._add(Reshape, (target,), target)

    def permute(self, order: Sequence[int]) -> Steps:
        """Axes in another order."""
        if list(order) == sorted(order):
            return self
        return self._add(Permute, (tuple(order),), tuple(self.shape[axis] for axis in order))

    def slice(self, axis: int, start: int, stop: int, step: int = 1) -> Steps:
        """A part of an axis."""
        length = len(range(start, stop, step))
        if (start, length, step) == (0, self.shape[axis], 1):
            return self
        return self._add(Slice, (axis, start, stop, step), self._with(axis, length))

    def pad(self, before: Sequence[int], after: Sequence[int]) -> Steps:
        """Zeros around; negative numbers cut."""
        for axis, (first, last) in enumerate(zip(before, after, strict=True)):
            if first < 0 or last < 0:
                self.slice(axis, max(0, -first), self.shape[axis] - max(0, -last))
        before, after = [max(0, n) for n in before], [max(0, n) for n in after]
        if not any(before) and not any(after):
            return self
        shape = tuple(n + b + a for n, b, a in zip(self.shape, before, after, strict=True))
        return self._add(Pad, (tuple(before), tuple(after)), shape)

    def take(self, axis: int, indices: Sequence[int]) -> Steps:
        """Indices of an axis."""
        found = tuple(int(index) for index in indices)
        if found == tuple(range(self.shape[axis])):
            return self
        steps = {b - a for a, b in itertools.pairwise(found)}
        if len(found) == 1 or (len(steps) == 1 and min(steps) > 0):  # an even selection is a slice
            step = min(steps, default=1)
            return self.slice(axis, found[0], found[-1] + 1, step)
        return self._add(Take, (axis, found), self._with(axis, len(found)))

    def _with(self, axis: int, size: int) -> tuple[int, ...]:
        return (*self.shape[:axis], size, *self.shape[axis + 1 :])


@dataclass(frozen=True)
class Movement(Meaning):
    """Values of the source at other places.

    Attributes:
        steps: in order; none where nothing moves.
    """

    steps: tuple[Step, ...] = ()

    passes: ClassVar[bool] = True

    @property
    def view(self) -> bool:  # type: ignore[override]
        """Whether memory stays as it is: nothing but reshapes, and repetitions along axes of size one."""
        return all(step.kind is Reshape or (step.kind is Take and not any(step.fields[1])) for step in self.steps)

    def extends(self, chain: Sequence[Meaning]) -> bool:
        return chain[0].movable and all(step.kind is Reshape for step in self.steps)

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        (edge,) = values
        if isinstance(edge, Pending):
            return edge.moved(self.steps)
        if not isinstance(edge, Edge) or edge.integers:
            return None
        for step in self.steps:
            edge = _moved(edge, step, to)
        return edge


def _moved(edge: Edge, step: Step, to: Builder) -> Edge:
    def make(name: str, output: Edge, source: Edge = edge) -> Operator:
        return step.kind(name, (source.name,), output.name, *step.fields)

    return to.emit(make, edge, step.kind.__name__.lower(), shape=step.shape, rows=step.rows)


def moved(edge: Edge, steps: Steps, to: Builder) -> Edge:
    """An edge after moves."""
    for step in steps.steps:
        edge = _moved(edge, step, to)
    return edge


def aligned(edge: Edge, rank: int, to: Builder) -> Edge:
    """An edge with axes of size one before its own, up to `rank`, so that it broadcasts as in torch."""
    missing = rank - len(edge.shape)
    return (
        edge
        if missing <= 0
        else moved(edge, Steps(Extent(edge.rows, edge.shape)).reshape((1,) * missing + edge.shape), to)
    )


def broadcasting(values: Sequence[Value], rows: int, rank: int, to: Builder) -> tuple[Edge, ...] | None:
    """Operands as edges that broadcast to `rank` axes; None where one has no codes or another number of rows."""
    edges = []
    for value in values:
        if not isinstance(value, Edge) or not value.has_grid or value.rows != rows:
            return None
        edges.append(aligned(value, rank, to))
    return tuple(edges)


def expanded(edge: Edge, shape: tuple[int, ...], to: Builder) -> Edge:
    """An edge repeated along its axes of size one, up to `shape`."""
    edge = aligned(edge, len(shape), to)
    steps = Steps(Extent(edge.rows, edge.shape))
    for axis, (own, wanted) in enumerate(zip(edge.shape, shape, strict=True)):
        if own != wanted:
            steps.take(axis, (0,) * wanted)
    return moved(edge, steps, to)


@dataclass(frozen=True)
class Returned(Pending):
    """Arithmetic whose result moves after it is quantized.

    Attributes:
        inner: the arithmetic.
        shape: of its result.
        steps: the moves.
        rows: of its result; None: those behind the moves.
    """

    inner: Pending | None = None
    shape: tuple[int, ...] = ()
    steps: tuple[Step, ...] = ()
    rows: int | None = None


# -- meanings --------------------------------------------------------------------------------------------------------


def movement(node: fx.Node, source: fx.Node, steps: Steps | None) -> Movement | None:
    """The meaning of a node that moves; None where the steps do not end at what the node yields."""
    found = extent(node, anywhere=True)
    if steps is None or found is None or (steps.rows, steps.shape) != (found.rows, found.shape):
        return None
    return Movement((source,), found.rows, found.shape, tuple(steps.steps))


def _starts(source: object, anywhere: bool = False) -> Steps | None:
    place = extent(source, anywhere) if is_live(source) else None
    return None if place is None else Steps(place)


def _axis(source: object, dim: Any) -> int | None:
    """A dimension of a node's value as an axis of an example; None for the batch."""
    place = extent(source, anywhere=True)
    return None if place is None else place.axis(dim)


def _inner(axis: Any, rank: int) -> int | None:
    """A dimension as an axis of an example with `rank` dimensions; None for the batch."""
    place = int(axis) % (rank + 1)
    return place - 1 if place else None


@declares(
    "view", "_unsafe_view", "reshape", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze", "view_as", "reshape_as",
    carries=True, view=True,
)  # fmt: skip
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source = given["self"]
    place, found = extent(source, anywhere=True) if is_live(source) else None, extent(node, anywhere=True)
    if place is None or found is None or "dtype" in given:
        return None
    steps = reshaped(place, found)
    return None if steps is None else Movement((source,), found.rows, found.shape, tuple(steps.steps))


def reshaped(place: Extent, found: Extent) -> Steps | None:
    """The moves of a reshape; None where it would mix examples.

    What stands before the batch axis stays before it: with ``[before, N * rows, after]`` and the same count before,
    rows can pass to the axes after the batch and back.
    """
    before, after = (math.prod(e.shape[: e.batch_axis]) for e in (place, found))
    if before != after or place.rows * math.prod(place.shape) != found.rows * math.prod(found.shape):
        return None
    steps = Steps(place)
    if place.batch_axis == found.batch_axis == 0 or place.rows == found.rows == 1:
        return steps.reshape(found.shape, found.rows)
    # [rows][before, after] as [before, rows * after], in two axes
    steps.reshape((place.rows, before, math.prod(place.shape[place.batch_axis :])), 1).permute((1, 0, 2))
    steps.reshape((before, found.rows, math.prod(found.shape[found.batch_axis :])), 1).permute((1, 0, 2))
    return steps.reshape(found.shape, found.rows)


@declares("contiguous", "clone", "alias", "detach", "lift_fresh_copy", "identity", "positive", carries=True, view=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    return movement(node, given["self"], _starts(given["self"], anywhere=True))


@dataclass(frozen=True)
class IntegerInput(Meaning):
    """An input of integers as float values: its codes are the integers themselves.

    Attributes:
        low: smallest value of its type.
        high: largest value of its type.
    """

    low: int = 0
    high: int = 255

    producer: ClassVar[str] = "input"


def integer_input(node: fx.Node, source: object) -> IntegerInput | None:
    """The meaning of the one conversion to float32 of an input of 8-bit integers; None for any other."""
    if not isinstance(source, fx.Node) or source.op != "placeholder" or len(source.users) != 1:
        return None
    before, found = source.meta.get("val"), extent(node)
    if not isinstance(before, Tensor) or before.dtype not in (torch.uint8, torch.int8) or found is None:
        return None
    limits = torch.iinfo(before.dtype)
    return IntegerInput((), found.rows, found.shape, limits.min, limits.max)


@declares("to", "_to_copy", "type_as", "float", "type")
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    """A conversion from float32 to float32, or of an input of 8-bit integers; others change values."""
    source, value = given["self"], node.meta.get("val")
    if (pixels := integer_input(node, source)) is not None:
        return pixels
    before = source.meta.get("val") if isinstance(source, fx.Node) else None
    if (
        not isinstance(before, Tensor)
        or not isinstance(value, Tensor)
        or {before.dtype, value.dtype} != {torch.float32}
    ):
        return None
    return movement(node, source, _starts(source, anywhere=True))


@declares("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    return (
        None
        if given.get("train", True) and given.get("p") != 0
        else movement(node, given["input"], _starts(given["input"]))
    )


@declares(
    "permute",
    "transpose",
    "t",
    "swapaxes",
    "swapdims",
    "movedim",
    "moveaxis",
    "numpy_T",
    "mT",
    "matrix_H",
    carries=True,
)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    """The operator itself says where the axes go: it moves a tensor whose sizes name its axes."""
    source = given["self"]
    place = extent(source, anywhere=True) if is_live(source) else None
    if place is None:
        return None
    rank = len(place.shape) + 1
    names = torch.empty(tuple(range(2, 2 + rank)), device="meta")
    order = [int(size) - 2 for size in _on(node, source, names).shape]
    inner = [axis - (axis > place.batch_axis) for axis in order if axis != place.batch_axis]
    return movement(node, source, Steps(place).permute(inner))


def _on(node: fx.Node, source: fx.Node, value: Tensor) -> Tensor:
    """The node's operator on another tensor."""
    assert callable(node.target)
    swap = {source: value}
    args = fx.node.map_arg(node.args, lambda a: swap.get(a, a))
    result: Tensor = node.target(*args, **fx.node.map_arg(node.kwargs, lambda a: swap.get(a, a)))
    return result


def _plain(value: Any) -> Any:
    """A size as a number, at batch size one; None stays."""
    if isinstance(value, fx.Node):
        value = value.meta.get("val")
    return size_at_one(value) if isinstance(value, torch.SymInt) else value


@declares("slice", "narrow", "select", carries=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source = given["self"]
    start = _starts(source, anywhere=True)
    axis = None if start is None else _axis(source, given["dim"])
    if start is None:
        return None
    if axis is None:
        return _whole_batch(node, source, start, given)
    size, name = start.shape[axis], operator(node)
    if name == "select":
        index = _plain(given["index"])
        if not isinstance(index, int):
            return None
        index %= size
        start.slice(axis, index, index + 1)
        return movement(node, source, start.reshape((*start.shape[:axis], *start.shape[axis + 1 :])))
    if name == "narrow":
        first, length = _plain(given["start"]), _plain(given["length"])
        if not isinstance(first, int) or not isinstance(length, int):
            return None
        first %= size
        return movement(node, source, start.slice(axis, first, first + length))
    window = [_plain(given[key]) for key in ("start", "end", "step")]
    if not all(value is None or isinstance(value, int) for value in window):
        return None
    return movement(node, source, start.slice(axis, *slice(*window).indices(size)))


def _whole_batch(node: fx.Node, source: fx.Node, start: Steps, given: Mapping[str, Any]) -> Meaning | None:
    """``x[:]``: a slice of the batch that leaves all of it."""
    open_end = operator(node) == "slice" and given["start"] in (None, 0) and given["step"] == 1
    return movement(node, source, start) if open_end and given["end"] in (None, 2**63 - 1) else None


_PARTS = {
    "chunk",
    "split",
    "split_with_sizes",
    "tensor_split",
    "unsafe_split",
    "unsafe_chunk",
    "unsafe_split_with_sizes",
    "unbind",
}


@declares("getitem", carries=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    """One of the parts that an operator cuts a tensor into."""
    parts, index = node.args
    if not isinstance(parts, fx.Node) or not isinstance(index, int):
        return None
    name, bound = operator(parts), arguments(parts)
    if name not in _PARTS:
        return parse_picked(node, parts, index)
    source = bound["self"]
    start = _starts(source, anywhere=True)
    axis = None if start is None else _axis(source, bound["dim"])
    values = parts.meta.get("val")
    if start is None or axis is None or not isinstance(values, list | tuple):
        return None
    index %= len(values)
    dim = int(bound["dim"])
    if name == "unbind":
        start.slice(axis, index, index + 1)
        return movement(node, source, start.reshape((*start.shape[:axis], *start.shape[axis + 1 :])))
    lengths = [_length(part, dim) for part in values]
    first = sum(lengths[:index])
    return movement(node, source, start.slice(axis, first, first + lengths[index]))


def _length(part: Tensor, dim: int) -> int:
    return int(part.shape[dim])


def parse_picked(node: fx.Node, operation: fx.Node, index: int) -> Meaning | None:
    """One result of an operator that yields several (the maximum and its place)."""
    from sigmaquant.operators.meaning import PICKED

    parser = PICKED.get(operator(operation))
    return parser(node, {**arguments(operation), "index_of_result": index}) if parser else None


@declares("expand", "expand_as", "broadcast_to", carries=True, view=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source = given["self"]
    start, found = _starts(source), extent(node)
    if start is None or found is None or start.rows != found.rows or len(start.shape) > len(found.shape):
        return None
    if len(start.shape) != len(found.shape):  # the batch would be another dimension
        return None
    for axis, (own, wanted) in enumerate(zip(start.shape, found.shape, strict=True)):
        if own != wanted:
            start.take(axis, (0,) * wanted)
    return movement(node, source, start)


@declares("repeat", "tile", carries=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source = given["self"]
    start = _starts(source)
    counts = [_plain(n) for n in given.get("repeats", given.get("dims"))]
    if start is None or not all(isinstance(n, int) for n in counts):
        return None
    counts = [1] * (len(start.shape) + 1 - len(counts)) + counts
    if len(counts) != len(start.shape) + 1 or counts[0] != 1:
        return None
    for axis, count in enumerate(counts[1:]):
        start.take(axis, tuple(range(start.shape[axis])) * count)
    return movement(node, source, start)


@declares("repeat_interleave", carries=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source, count = given["self"], given["repeats"]
    start = _starts(source)
    axis = None if start is None or given["dim"] is None else _inner(given["dim"], len(start.shape))
    if start is None or axis is None or not isinstance(count, int):
        return None
    return movement(node, source, start.take(axis, [k for k in range(start.shape[axis]) for _ in range(count)]))


@declares("flip", "fliplr", "flipud", carries=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source = given["self"]
    start = _starts(source)
    name = operator(node)
    dims = given.get("dims", (1,) if name == "fliplr" else (0,))
    if start is None:
        return None
    for dim in dims:
        axis = _inner(dim, len(start.shape))
        if axis is None:
            return None
        start.take(axis, range(start.shape[axis] - 1, -1, -1))
    return movement(node, source, start)


@declares("roll", carries=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source, shifts, dims = given["self"], given["shifts"], given["dims"]
    start = _starts(source)
    shifts, dims = ([v] if isinstance(v, int) else list(v) for v in (shifts, dims))
    if start is None or len(shifts) != len(dims) or not all(isinstance(n, int) for n in shifts):
        return None
    for shift, dim in zip(shifts, dims, strict=True):
        axis = _inner(dim, len(start.shape))
        if axis is None:
            return None
        size = start.shape[axis]
        start.take(axis, [(k - shift) % size for k in range(size)])
    return movement(node, source, start)


@declares("rot90", carries=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source, turns = given["self"], int(given["k"]) % 4
    start = _starts(source)
    if start is None:
        return None
    first, second = (_inner(dim, len(start.shape)) for dim in given["dims"])
    if first is None or second is None:
        return None
    order = list(range(len(start.shape)))
    order[first], order[second] = order[second], order[first]
    if turns in (1, 2):
        start.take(second, range(start.shape[second] - 1, -1, -1))
    if turns == 2:
        start.take(first, range(start.shape[first] - 1, -1, -1))
    if turns in (1, 3):
        start.permute(order)
    if turns == 3:
        start.take(second, range(start.shape[second] - 1, -1, -1))
    return movement(node, source, start)


@declares("index_select", "index", carries=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    """Constant indices along one axis."""
    source, name = given["self"], operator(node)
    start = _starts(source)
    if start is None:
        return None
    if name == "index_select":
        place, index = int(given["dim"]) % (len(start.shape) + 1), given["index"]
    else:
        used = [(k, item) for k, item in enumerate(given["indices"]) if item is not None]
        if len(used) != 1:
            return None
        place, index = used[0]
    values = constant_indices(index)
    if values is None or values.dim() != 1 or place == 0:
        return None
    size = start.shape[place - 1]
    return movement(node, source, start.take(place - 1, [int(k) % size for k in values.tolist()]))


def constant_indices(node: object) -> Tensor | None:
    """The integers of a buffer that no training changes, or of a list in the code; None for any other."""
    while isinstance(node, fx.Node) and operator(node) == "lift_fresh_copy":
        node = node.args[0]
    if not isinstance(node, fx.Node) or node.op != "get_attr" or node.graph.owning_module is None:
        return None
    value = attribute_of(node.graph.owning_module, str(node.target))
    return value.cpu() if isinstance(value, Tensor) and value.dtype in (torch.int64, torch.int32) else None


def _pad_pairs(pads: Sequence[Any], rank: int) -> list[tuple[int, int]] | None:
    """Sides by axis of an example; None where the batch is padded or a size is no number."""
    numbers = [_plain(p) for p in pads]
    if not all(isinstance(p, int) for p in numbers):
        return None
    pairs = [(numbers[i], numbers[i + 1]) for i in range(0, len(numbers), 2)][::-1]
    pairs = [(0, 0)] * (rank - len(pairs)) + pairs
    if len(pairs) == rank + 1 and pairs[0] == (0, 0):
        pairs = pairs[1:]
    return pairs if len(pairs) == rank else None


def padded(steps: Steps, pairs: Sequence[tuple[int, int]], mode: str) -> Steps | None:
    """A padding of zeros (``constant``) or of copies (``reflect``, ``replicate``, ``circular``)."""
    if mode == "constant":
        return steps.pad([b for b, _ in pairs], [a for _, a in pairs])
    for axis, (before, after) in enumerate(pairs):
        if before < 0 or after < 0:
            return None
        size, places = steps.shape[axis], range(-before, steps.shape[axis] + after)
        if mode == "reflect":
            period = max(1, 2 * (size - 1))
            indices = [min(k % period, (-k) % period) for k in places]
        elif mode == "replicate":
            indices = [min(max(k, 0), size - 1) for k in places]
        elif mode == "circular":
            indices = [k % size for k in places]
        else:
            return None
        steps.take(axis, indices)
    return steps


@declares("pad", "constant_pad_nd", carries=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source, mode = given["self"], given.get("mode", "constant")
    start = _starts(source)
    pairs = None if start is None else _pad_pairs(given["pad"], len(start.shape))
    if start is None or pairs is None or (mode == "constant" and given["value"] not in (None, 0)):
        return None  # what is filled in must be on every grid
    return movement(node, source, padded(start, pairs, mode))


def _copies(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source = given["self"]
    start = _starts(source)
    pairs = None if start is None else _pad_pairs(given["padding"], len(start.shape))
    mode = "reflect" if operator(node).startswith("reflection") else "replicate"
    return None if start is None or pairs is None else movement(node, source, padded(start, pairs, mode))


for _rank in (1, 2, 3):
    declares(f"reflection_pad{_rank}d", f"replication_pad{_rank}d", carries=True)(_copies)


@declares("pixel_shuffle", "pixel_unshuffle", carries=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source = given["self"]
    start = _starts(source)
    if start is None or len(start.shape) != 3:
        return None
    channels, height, width = start.shape
    if operator(node) == "pixel_shuffle":
        factor = int(given["upscale_factor"])
        start.reshape((channels // factor**2, factor, factor, height, width)).permute((0, 3, 1, 4, 2))
        return movement(node, source, start.reshape((channels // factor**2, height * factor, width * factor)))
    factor = int(given["downscale_factor"])
    start.reshape((channels, height // factor, factor, width // factor, factor)).permute((0, 2, 4, 1, 3))
    return movement(node, source, start.reshape((channels * factor**2, height // factor, width // factor)))


@declares("channel_shuffle", "native_channel_shuffle", carries=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source, groups = given["self"], int(given["groups"])
    start = _starts(source)
    if start is None:
        return None
    channels, *space = start.shape
    start.reshape((groups, channels // groups, *space)).permute((1, 0, *range(2, 2 + len(space))))
    return movement(node, source, start.reshape((channels, *space)))


@declares("unfold", "im2col", carries=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source = given["self"]
    start = _starts(source)
    if start is None:
        return None
    if "dimension" in given:  # windows along one axis, as a new last one
        axis, size, step = _inner(given["dimension"], len(start.shape)), int(given["size"]), int(given["step"])
        if axis is None:
            return None
        windows = (start.shape[axis] - size) // step + 1
        start.take(axis, [k * step + tap for k in range(windows) for tap in range(size)])
        shape = start.shape
        start.reshape((*shape[:axis], windows, size, *shape[axis + 1 :]))
        order = [a for a in range(len(shape) + 1) if a != axis + 1] + [axis + 1]
        return movement(node, source, start.permute(order))
    if len(start.shape) != 3:
        return None
    kernel, dilation, padding, stride = (sizes(given[k], 2) for k in ("kernel_size", "dilation", "padding", "stride"))
    channels = start.shape[0]
    start.pad((0, *padding), (0, *padding))
    counts = []
    for axis in (1, 2):
        k, d, s = kernel[axis - 1], dilation[axis - 1], stride[axis - 1]
        count = (start.shape[2 * axis - 1] - d * (k - 1) - 1) // s + 1
        counts.append(count)
        start.take(2 * axis - 1, [place * s + tap * d for tap in range(k) for place in range(count)])
        shape = start.shape
        start.reshape((*shape[: 2 * axis - 1], k, count, *shape[2 * axis :]))
    # [C, kh, oh, kw, ow] -> [C, kh, kw, oh, ow]
    start.permute((0, 1, 3, 2, 4))
    return movement(node, source, start.reshape((channels * math.prod(kernel), math.prod(counts))))


def _nearest(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    """Nearest resizing: the operator itself says which index it takes, along one axis after the other."""
    source = given.get("self", given.get("input"))
    start, found = _starts(source), extent(node)
    if start is None or found is None:
        return None
    exact = "exact" in operator(node)
    factors = given.get("scale_factors")
    scales = [given.get(key) for key in ("scales", "scales_d", "scales_h", "scales_w")]
    known = (
        [s for s in (factors if factors is not None else scales) if s is not None]
        if (factors is not None or any(scales))
        else []
    )
    space = len(start.shape) - 1
    for axis in range(space):
        size, wanted = start.shape[axis + 1], found.shape[axis + 1]
        scale = float(known[axis]) if len(known) == space else None
        start.take(axis + 1, nearest_indices(size, wanted, scale, exact))
    return movement(node, source, start)


def nearest_indices(size: int, wanted: int, scale: float | None, exact: bool) -> list[int]:
    """The input index of each output index, as torch's own kernel takes it."""
    places = torch.arange(size, dtype=torch.float32).reshape(1, 1, -1)
    kernel = torch.ops.aten._upsample_nearest_exact1d if exact else torch.ops.aten.upsample_nearest1d
    indices: list[int] = kernel.default(places, [wanted], scale).reshape(-1).long().tolist()
    return indices


for _rank in (1, 2, 3):
    declares(f"upsample_nearest{_rank}d", f"_upsample_nearest_exact{_rank}d", carries=True)(_nearest)


in_float(*_PARTS, carries=True)
plays(
    Role.MOVES_WEIGHTS,
    *("view", "_unsafe_view", "reshape", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze", "view_as"),
    *("reshape_as", "contiguous", "clone", "alias", "detach", "lift_fresh_copy", "to", "_to_copy"),
    *("permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "moveaxis", "numpy_T", "mT"),
    *("slice", "narrow", "select", "getitem", "expand", "expand_as", "broadcast_to", *_PARTS),
)
plays(Role.MEASURES, "expand", "expand_as", "unsqueeze", "view", "reshape", "getitem")
in_float("gather", "take_along_dim", "sort", "topk", "tril", "triu", "diagonal", carries=True)
