"""Averages, sums and maxima over windows or whole dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, fx

from sigmaquant.exported.nodes import operator
from sigmaquant.operators.edge import Edge
from sigmaquant.operators.extremum import extreme_of_two
from sigmaquant.operators.fixed_point import Factor, factor
from sigmaquant.operators.meaning import (
    PICKED,
    Builder,
    Extent,
    Meaning,
    Pending,
    Value,
    axes,
    code_range,
    declares,
    extent,
    in_float,
    is_codes,
    is_live,
    sizes,
)
from sigmaquant.operators.movement import Steps, moved
from sigmaquant.operators.node import Operator, Reference, centred, compute, written
from sigmaquant.operators.roles import Role, plays

# -- in integers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Average(Operator):
    """Means: ``clamp(z + factor * sum (x - z_x), low, high)``, `factor` holding the number of values.

    Attributes:
        factor: one; or one for each place of the output where windows hold different numbers of values, in the order
            of the places.
        dims: dimensions that are averaged away, without the batch dimension; empty for a window.
        keepdim: whether they stay with size one.
        windows: by dimension after the channels, the input indices ``(first, end)`` of each place of the output, which
            lie inside the input; empty for whole dimensions.
        kernel: size of the window by dimension, where all windows are those of a kernel that slides; else empty.
        stride: of the kernel.
        padding: zeros before the input, for the kernel; as many after it as its last place needs.
        low: smallest output code.
        high: largest output code.
    """

    factor: Factor
    dims: tuple[int, ...]
    keepdim: bool
    windows: tuple[tuple[tuple[int, int], ...], ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    low: int
    high: int

    @property
    def is_uniform(self) -> bool:
        """Whether one factor serves all places."""
        return len(self.factor.mantissa) == 1


@compute.register
def _(operator: Average, reference: Reference, codes: Tensor) -> Tensor:
    x = centred(codes, reference.edges[operator.inputs[0]], torch.int64)
    if not operator.windows:
        sums = x.sum([d + 1 for d in operator.dims], keepdim=operator.keepdim)
        return written(operator.factor.apply_(sums, 0), operator, reference)
    for axis, windows in enumerate(operator.windows, 2):  # sums over windows are differences of running sums
        running = F.pad(x.movedim(axis, -1).cumsum(-1), (1, 0))
        ends, firsts = torch.tensor([e for _, e in windows]), torch.tensor([f for f, _ in windows])
        x = (running[..., ends] - running[..., firsts]).movedim(-1, axis)
    x = x.contiguous()
    if operator.is_uniform:
        return written(operator.factor.apply_(x, 0), operator, reference)
    places = x.reshape(*x.shape[:2], -1)
    return written(operator.factor.apply_(places, 2).reshape(x.shape), operator, reference)


@dataclass(frozen=True)
class MaxPool(Operator):
    """Largest code of each window; padding never wins."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool


@compute.register
def _(operator: MaxPool, reference: Reference, codes: Tensor) -> Tensor:
    function: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(operator.kernel) - 1]
    shape = (operator.kernel, operator.stride, operator.padding, operator.dilation, operator.ceil_mode)
    result: Tensor = function(codes.float(), *shape).to(torch.int8)  # int8 is exact in float32
    return result


# -- while it waits --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mean(Pending):
    """Sum over whole dimensions or windows, divided by counts.

    Attributes:
        edge: what is averaged.
        form: dims, keepdim, windows, kernel, stride and padding, as in `Average`.
        counts: one, or one for each place.
    """

    edge: Edge | None = None
    form: Any = ()
    counts: NDArray[np.float64] = field(default_factory=lambda: np.ones(1))

    def finish(self, edge: Edge, name: str) -> Operator:
        source = self.edge
        assert source is not None, "only the default lacks an edge"
        scale = factor(source.scale / edge.scale / self.counts, name)
        form: tuple[Any, bool, Any, Any, Any, Any] = self.form
        return Average(name, (source.name,), edge.name, scale, *form, *code_range(self.clip, edge))


# -- meanings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Averaging(Meaning):
    """A mean or sum.

    Attributes:
        form: dims, keepdim, windows, kernel, stride and padding, as in `Average`.
        counts: what sums are divided by: one number, or one for each place.
    """

    form: tuple[Any, ...] = ()
    counts: tuple[float, ...] = (1.0,)

    producer: ClassVar[str] = "pool"
    clippable: ClassVar[bool] = True

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        (edge,) = values
        return Mean(edge=edge, form=self.form, counts=np.array(self.counts)) if is_codes(edge) else None


plays(Role.MEASURES, "mean", "sum")


@declares("mean", "sum", producer="pool")
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source = given["self"]
    place, found = extent(source) if is_live(source) else None, extent(node)
    dim = given.get("dim")
    if place is None or found is None or place.rows != found.rows or dim in (None, []) or not _keeps_type(node, given):
        return None
    over = axes(dim, len(place.shape))
    if over is None:
        return None
    count = math.prod(place.shape[axis] for axis in over) if operator(node) == "mean" else 1
    form = (over, bool(given["keepdim"]), (), (), (), ())
    return Averaging((source,), found.rows, found.shape, form, (float(count),))


def _keeps_type(node: fx.Node, given: Mapping[str, Any]) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype == torch.float32 and given.get("dtype") in (None, torch.float32)


def _avg_pool(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source = given["self"]
    place, found = extent(source) if is_live(source) else None, extent(node)
    if place is None or found is None or len(place.shape) < 2:
        return None
    space = int(operator(node)[len("avg_pool")])
    if len(place.shape) != space + 1:
        return None
    kernel, padding = sizes(given["kernel_size"], space), sizes(given["padding"], space)
    stride = sizes(given["stride"] or kernel, space)
    windows, spans = [], []
    for axis in range(space):
        size, count = place.shape[axis + 1], found.shape[axis + 1]
        starts = [k * stride[axis] - padding[axis] for k in range(count)]
        # with padding counted, a window ends at the padding after the input at the latest (ceil_mode)
        counted = [min(s + kernel[axis], size + padding[axis]) - s for s in starts]
        inside = [(max(s, 0), min(s + kernel[axis], size)) for s in starts]
        if any(end <= first for first, end in inside):
            return None
        windows.append(tuple(inside))
        spans.append(counted if given["count_include_pad"] else [end - first for first, end in inside])
    divisor = given.get("divisor_override")
    counts = [float(divisor)] if divisor else _products(spans)
    form = ((), False, tuple(windows), kernel, stride, padding)
    return Averaging((source,), found.rows, found.shape, form, tuple(counts))


def _products(spans: Sequence[Sequence[int]]) -> list[float]:
    """The number of values in each window, in the order of the places; one number where all are alike."""
    grid = spans[0]
    for span in spans[1:]:
        grid = [a * b for a in grid for b in span]
    return [float(grid[0])] if len(set(grid)) == 1 else [float(n) for n in grid]


def _adaptive_windows(size: int, places: int) -> tuple[tuple[int, int], ...]:
    return tuple((k * size // places, -(-(k + 1) * size // places)) for k in range(places))


def _adaptive_avg_pool(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source = given["self"]
    place, found = extent(source) if is_live(source) else None, extent(node)
    space = int(operator(node)[len("adaptive_avg_pool")])
    if place is None or found is None or len(place.shape) != space + 1:
        return None
    if all(size == 1 for size in found.shape[1:]):
        over = tuple(range(1, space + 1))
        form: tuple[Any, ...] = (over, True, (), (), (), ())
        return Averaging((source,), found.rows, found.shape, form, (float(math.prod(place.shape[1:])),))
    windows = tuple(_adaptive_windows(a, b) for a, b in zip(place.shape[1:], found.shape[1:], strict=True))
    even = all(a % b == 0 for a, b in zip(place.shape[1:], found.shape[1:], strict=True))
    kernel = tuple(a // b for a, b in zip(place.shape[1:], found.shape[1:], strict=True)) if even else ()
    counts = _products([[end - first for first, end in axis] for axis in windows])
    form = ((), False, windows, kernel, kernel, (0,) * len(kernel))
    return Averaging((source,), found.rows, found.shape, form, tuple(counts))


for _rank in (1, 2, 3):
    declares(f"avg_pool{_rank}d", producer="pool")(_avg_pool)
    declares(f"adaptive_avg_pool{_rank}d", producer="pool")(_adaptive_avg_pool)


@dataclass(frozen=True)
class Largest(Meaning):
    """The largest value of each window, or of whole dimensions: moves, a sliding maximum, and a reshape.

    Attributes:
        before: moves that bring the values of each window together.
        pool: kernel, stride, padding, dilation and ceil_mode; empty where there is nothing to compare.
        pooled: shape after the maximum.
    """

    before: tuple[Any, ...] = ()
    pool: tuple[Any, ...] = ()
    pooled: tuple[int, ...] = ()

    passes: ClassVar[bool] = True

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        (edge,) = values
        if not is_codes(edge):
            return None
        steps = Steps(Extent(edge.rows, edge.shape))
        steps.steps.extend(self.before)
        edge = moved(edge, steps, to)
        if self.pool:

            def make(name: str, output: Edge, source: Edge = edge) -> Operator:
                return MaxPool(name, (source.name,), output.name, *self.pool)

            edge = to.emit(make, edge, "", shape=self.pooled)
        return moved(edge, Steps(Extent(edge.rows, edge.shape)).reshape(self.shape), to)


def _max_pool(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source = given["self"]
    place, found = extent(source) if is_live(source) else None, extent(node)
    if place is None or found is None:
        return None
    space = len(place.shape) - 1
    kernel = sizes(given["kernel_size"], space)
    given_sizes = (given["stride"] or kernel, given["padding"], given["dilation"])
    stride, padding, dilation = (sizes(value, space) for value in given_sizes)
    pool = (kernel, stride, padding, dilation, bool(given["ceil_mode"]))
    return Largest((source,), found.rows, found.shape, (), pool, found.shape)


def _adaptive_max_pool(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source = given["self"]
    place, found = extent(source) if is_live(source) else None, extent(node)
    if place is None or found is None:
        return None
    steps, longest = Steps(place), list[int]()
    for axis, (size, places) in enumerate(zip(place.shape[1:], found.shape[1:], strict=True), 1):
        windows = _adaptive_windows(size, places)
        reach = max(end - first for first, end in windows)
        # shorter windows name their last index again: a maximum does not mind
        steps.take(axis, [min(first + k, end - 1) for first, end in windows for k in range(reach)])
        longest.append(reach)
    kernel = tuple(longest)
    pool = (kernel, kernel, (0,) * len(kernel), (1,) * len(kernel), False)
    return Largest((source,), found.rows, found.shape, tuple(steps.steps), pool, found.shape)


def _first(parse: Any) -> Any:
    """Of an operator with values and their places, the values."""
    return lambda node, given: parse(node, given) if given["index_of_result"] == 0 else None


for _rank in (1, 2, 3):
    declares(f"max_pool{_rank}d", carries=True)(_max_pool)
    in_float(f"max_pool{_rank}d_with_indices", f"adaptive_max_pool{_rank}d", carries=True)
    PICKED[f"max_pool{_rank}d_with_indices"] = _first(_max_pool)
    PICKED[f"adaptive_max_pool{_rank}d"] = _first(_adaptive_max_pool)


def _over_dims(node: fx.Node, source: object, dim: Any) -> Meaning | None:
    place, found = extent(source) if is_live(source) else None, extent(node)
    if place is None or found is None or place.rows != found.rows or dim in (None, []):
        return None
    over = axes(dim, len(place.shape))
    if over is None:
        return None
    kept = [axis for axis in range(len(place.shape)) if axis not in over]
    many, count = math.prod(place.shape[axis] for axis in kept), math.prod(place.shape[axis] for axis in over)
    steps = Steps(place).permute([*kept, *over]).reshape((many, count))
    pool = ((count,), (count,), (0,), (1,), False)
    return Largest((source,), found.rows, found.shape, tuple(steps.steps), pool, (many, 1))  # type: ignore[arg-type]


@declares("amax", carries=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    return _over_dims(node, given["self"], given["dim"])


@declares("max", "min", carries=True)
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    return extreme_of_two(node, given["self"], given["other"], operator(node) == "max") if "other" in given else None


PICKED["max"] = _first(lambda node, given: _over_dims(node, given["self"], given.get("dim")))
