"""Transposed convolutions with a stride as ordinary ones without: a channel for each of the stride's phases.

An output place ``q * stride + phase`` of a transposed convolution reads the inputs ``q - tap`` with the weights
``phase + stride * tap`` alone. So an ordinary convolution over the inputs gives all phases as channels, without a
product with a zero, and depth to space puts them side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from sigmaquant.lowering.model import IntegerModel
from sigmaquant.operators import Convolution, Edge, Move, Operator, Slice, compute
from sigmaquant.operators.fixed_point import Factor
from sigmaquant.operators.node import Reference, free_name


@dataclass(frozen=True)
class DepthToSpace(Move):
    """``[block * block * C, H, W]`` as ``[C, H * block, W * block]``; ``[block * C, L]`` as ``[C, L * block]``.

    Attributes:
        block: how many.
    """

    block: int


@compute.register
def _(operator: DepthToSpace, reference: Reference, codes: Tensor) -> Tensor:
    block, space = operator.block, codes.dim() - 2
    rows, channels, *sizes = codes.shape
    split = codes.reshape(rows, *[block] * space, channels // block**space, *sizes)
    order = [0, space + 1]
    for axis in range(space):
        order += [space + 2 + axis, 1 + axis]
    return split.permute(order).reshape(rows, channels // block**space, *(size * block for size in sizes))


def without_wide_strides(model: IntegerModel) -> IntegerModel:
    """The same network with ordinary convolutions for transposed ones that have a stride, one group and no dilation.

    Exactly the same codes come out.
    """
    edges, operators = dict(model.edges), list[Operator]()
    names = {operator.name for operator in model.operators}
    for operator in model.operators:
        if isinstance(operator, Convolution) and _has_phases(operator):
            operators += _by_phases(operator, edges, names)
        else:
            operators.append(operator)
    return replace(model, operators=tuple(operators), edges=edges)


def _has_phases(operator: Convolution) -> bool:
    stride = operator.stride[0]
    plain = operator.groups == 1 and set(operator.dilation) == {1} and set(operator.stride) == {stride}
    return operator.transposed and plain and stride > 1 and len(operator.stride) <= 2


def _by_phases(operator: Convolution, edges: dict[str, Edge], names: set[str]) -> list[Operator]:
    source, target, block = edges[operator.inputs[0]], edges[operator.output], operator.stride[0]
    space, channels = len(operator.stride), operator.codes.shape[1]
    found: list[Operator] = []

    def name(what: str) -> str:
        names.add(free := free_name(f"{operator.name}.{what}", names))
        return free

    def edge(like: Edge, what: str, shape: Sequence[int]) -> Edge:
        new = replace(like, name=free_name(f"{target.name}.{what}", edges), shape=tuple(shape))
        edges[new.name] = new
        return new

    def sliced(given: Edge, axis: int, start: int, stop: int, what: str, last: bool = False) -> Edge:
        shape = (*given.shape[:axis], stop - start, *given.shape[axis + 1 :])
        result = target if last else edge(given, what, shape)
        found.append(Slice(name(what), (given.name,), result.name, axis, start, stop, 1))
        return result

    codes, padding, counts, firsts = _phases(operator.codes, block), [], [], []
    for axis in range(1, space + 1):
        size, taps, before = source.shape[axis], codes.shape[axis + 1], operator.padding[axis - 1][0]
        first, last = before // block, (before + target.shape[axis] - 1) // block
        sides = (taps - 1 - first, last - (size - 1))
        if min(sides) < 0:
            source = sliced(source, axis, max(0, -sides[0]), size - max(0, -sides[1]), "cut")
        padding.append((max(0, sides[0]), max(0, sides[1])))
        counts.append(last - first + 1)
        firsts.append(before - first * block)
    wide = [count * block for count in counts]
    cuts = [axis for axis in range(1, space + 1) if wide[axis - 1] != target.shape[axis]]
    phased = edge(target, "phases", (channels * block**space, *counts))
    together = edge(target, "spread", (channels, *wide)) if cuts else target
    each: dict[str, Any] = {field: np.tile(getattr(operator, field), block**space) for field in ("scale", "bias")}
    given: dict[str, Any] = {
        "inputs": (source.name,),
        "output": phased.name,
        "codes": codes,
        "factor": Factor(*(np.tile(part, block**space) for part in (operator.factor.mantissa, operator.factor.shift))),
        "stride": (1,) * space,
        "padding": tuple(padding),
        "transposed": False,
        "output_padding": (),
        **each,
    }
    found += [
        replace(operator, **given),
        DepthToSpace(name("spread"), (phased.name,), together.name, block),
    ]
    for axis in cuts:
        start = firsts[axis - 1]
        together = sliced(together, axis, start, start + target.shape[axis], "trimmed", axis == cuts[-1])
    return found


def _phases(codes: Any, block: int) -> Any:
    """[in, out, *kernel] to [block * ... * out, in, *taps], the taps turned round; zeros fill the last ones up."""
    space = codes.ndim - 2
    taps = [-(-size // block) for size in codes.shape[2:]]
    filling = [(0, 0), (0, 0)] + [(0, t * block - size) for t, size in zip(taps, codes.shape[2:], strict=True)]
    whole = np.pad(codes, filling).reshape(*codes.shape[:2], *(n for t in taps for n in (t, block)))
    whole = np.flip(whole, axis=tuple(2 + 2 * axis for axis in range(space)))
    phases, places = [3 + 2 * axis for axis in range(space)], [2 + 2 * axis for axis in range(space)]
    ordered = whole.transpose(*phases, 1, 0, *places)
    return np.ascontiguousarray(ordered.reshape(-1, codes.shape[0], *taps))
