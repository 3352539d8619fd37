"""The largest of windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from sigmaquant.export.litert.emission import emit, refusal
from sigmaquant.export.litert.form import Forming, formed
from sigmaquant.export.litert.geometry import lifted, padding_of, windows_of
from sigmaquant.export.litert.movement import padded
from sigmaquant.export.litert.values import LOWEST, Values
from sigmaquant.operators import MaxPool, Operator, Reshape, Take


@formed.register
def _(operator: MaxPool, to: Forming) -> Sequence[Operator]:
    """Dilated windows as plain ones of moved codes, those of volumes as ones of two dimensions, then of one."""
    if max(operator.dilation) > 1:
        return _gathered(operator, to)
    if len(operator.kernel) == 3:
        return _in_two(operator, to)
    return (operator,)


def _gathered(operator: MaxPool, to: Forming) -> list[Operator]:
    source, output = operator.inputs[0], to.edges[operator.output]
    found: list[Operator] = []
    geometry = zip(operator.kernel, operator.stride, operator.padding, operator.dilation, strict=True)
    for axis, (kernel, stride, padding, dilation) in enumerate(geometry, 1):
        size, shape = to.edges[source].shape[axis], list(to.edges[source].shape)
        indices: list[int] = []
        for place in range(output.shape[axis]):
            taps = [place * stride - padding + tap * dilation for tap in range(kernel)]
            inside = [tap for tap in taps if 0 <= tap < size]
            if not inside:
                raise refusal(operator, "a window lies in its padding alone", "Pad by less than the window reaches")
            indices += [tap if 0 <= tap < size else inside[0] for tap in taps]  # once more: a maximum does not mind
        shape[axis] = len(indices)
        moved = to.edge(source, "windows", shape)
        found.append(Take(to.name(operator, "windows"), (source,), moved, axis, tuple(indices)))
        source = moved
    ones, nothing = (1,) * len(operator.kernel), (0,) * len(operator.kernel)
    plain = replace(operator, inputs=(source,), stride=operator.kernel, padding=nothing, dilation=ones, ceil_mode=False)
    return [*found, *formed(plain, to)]


def _in_two(operator: MaxPool, to: Forming) -> list[Operator]:
    (name,) = operator.inputs
    channels, depth, *space = to.edges[name].shape
    _, places, *wanted = to.edges[operator.output].shape
    folded = to.edge(name, "slices", (channels * depth, *space))
    pooled = to.edge(name, "in_slices", (channels * depth, *wanted))
    lines = to.edge(name, "lines", (channels, depth, math.prod(wanted)))
    along = to.edge(name, "along_lines", (channels, places, math.prod(wanted)))

    def pool(what: str, source: str, output: str, slices: bool) -> MaxPool:
        def part(sizes: tuple[int, ...], nothing: int = 1) -> tuple[int, ...]:
            return sizes[1:] if slices else (sizes[0], nothing)

        kernel, stride, dilation = part(operator.kernel), part(operator.stride), part(operator.dilation)
        sides, ceiling = part(operator.padding, 0), operator.ceil_mode
        return MaxPool(to.name(operator, what), (source,), output, kernel, stride, sides, dilation, ceiling)

    return [
        Reshape(to.name(operator, "slices"), (name,), folded, to.edges[folded].shape),
        pool("in_slices", folded, pooled, slices=True),
        Reshape(to.name(operator, "lines"), (pooled,), lines, to.edges[lines].shape),
        pool("along_lines", lines, along, slices=False),
        Reshape(operator.name, (along,), operator.output, to.edges[operator.output].shape),
    ]


@emit.register
def _(operator: MaxPool, values: Values) -> None:
    graph, (name,) = values.graph, operator.inputs
    kernel, stride, before = lifted(operator.kernel, 1), lifted(operator.stride, 1), lifted(operator.padding, 0)
    source, target = values.image(name), values.new(operator.output, "image")
    windows = windows_of(graph.shape(source)[1:3], graph.shape(target)[1:3], kernel, stride, (1, 1), before)
    padding, sides = padding_of(windows)
    fields = {
        "padding": getattr(graph.schema.Padding, padding),
        "strideH": stride[0],
        "strideW": stride[1],
        "filterHeight": kernel[0],
        "filterWidth": kernel[1],
    }
    source = padded(values, name, source, sides, LOWEST)  # which no maximum takes
    graph.operator("MAX_POOL_2D", (source,), target, 2, "Pool2DOptions", **fields)
