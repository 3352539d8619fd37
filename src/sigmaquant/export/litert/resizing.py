"""Linear resizing: the runtime's own kernel where it takes the same places with the same weights, else in 32 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sigmaquant.export.litert.emission import emit
from sigmaquant.export.litert.form import Forming, formed
from sigmaquant.export.litert.values import Values
from sigmaquant.export.litert.wide import Wide
from sigmaquant.operators import Operator, Resize, compute
from sigmaquant.operators.node import Reference, centred
from sigmaquant.operators.resize import WEIGHT_BITS, places


@dataclass(frozen=True)
class Bilinear(Operator):
    """Linear interpolation on the input's grid, rounded half up.

    Attributes:
        lower: as of a `Resize`.
        weights: as of a `Resize`.
        align_corners: as of a `Resize`.
    """

    lower: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[int, ...], ...]
    align_corners: bool


@compute.register
def _(operator: Bilinear, reference: Reference, codes: Tensor) -> Tensor:
    edge = reference.edges[operator.output]
    x = centred(codes, edge, torch.int64)
    for axis, (lower, weights) in enumerate(zip(operator.lower, operator.weights, strict=True), 2):
        first = torch.tensor(lower)
        second = (first + 1).clamp_max(x.shape[axis] - 1)
        weight = torch.tensor(weights).view(-1, *[1] * (x.dim() - axis - 1))
        x = x.index_select(axis, first) * ((1 << WEIGHT_BITS) - weight) + x.index_select(axis, second) * weight
    bits = WEIGHT_BITS * len(operator.lower)
    return x.add_(1 << (bits - 1)).bitwise_right_shift_(bits).add_(edge.zero_point).to(torch.int8)


@formed.register
def _(operator: Resize, to: Forming) -> Sequence[Operator]:
    source, output = to.edges[operator.inputs[0]], to.edges[operator.output]
    resized = to.edge(source.name, "resized", output.shape)
    given = (operator.lower, operator.weights, operator.align_corners)
    kernel = Bilinear(to.name(operator, "resized"), operator.inputs, resized, *given)
    ends = (operator.low, operator.high)
    return (kernel, to.regridded(resized, output.name, ends, operator.name))


@emit.register
def _(operator: Bilinear, values: Values) -> None:
    edges, corners = values.model.edges, operator.align_corners
    source, output = edges[operator.inputs[0]], edges[operator.output]
    sizes = zip(source.shape[1:], output.shape[1:], strict=True)
    own = [places(size, wanted, corners, None) for size, wanted in sizes]
    wanted = zip(operator.lower, operator.weights, strict=True)
    if any((tuple(p[0]), tuple(p[1])) != found for p, found in zip(own, wanted, strict=True)):
        _exactly(operator, values)  # a scale that is not the ratio of the sizes
        return
    graph, target = values.graph, values.new(operator.output, "image")
    inputs = (values.image(operator.inputs[0]), graph.integers("size", graph.shape(target)[1:3]))
    fields = {"alignCorners": corners, "halfPixelCenters": not corners}
    graph.operator("RESIZE_BILINEAR", inputs, target, 2 if corners else 3, "ResizeBilinearOptions", **fields)


def _exactly(operator: Bilinear, values: Values) -> None:
    (name,) = operator.inputs
    layout, edge = values.layout(name), values.model.edges[name]
    wide, bits, rank = Wide(values, operator.name), 0, len(edge.shape)
    x = wide.relative(name, layout)
    for axis, (lower, weights) in enumerate(zip(operator.lower, operator.weights, strict=True), 1):
        place, last = values.axis(layout, rank, axis), edge.shape[axis] - 1
        view = [1] * len(values.graph.shape(x))
        view[place] = -1
        weight = np.array(weights, dtype=np.int32).reshape(view)
        first = wide("MUL", wide.taken(x, place, lower), (1 << WEIGHT_BITS) - weight)
        second = wide("MUL", wide.taken(x, place, [min(low + 1, last) for low in lower]), weight)
        x, bits = wide("ADD", first, second, tensor=True), bits + WEIGHT_BITS
    wide.write(wide.shifted(x, bits), operator.output, values.model.edges[operator.output].range, layout)
