"""Convolutions and pools of files as PyTorch's, which pads both sides of a dimension alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sigmaquant.errors import ModelFileError
from sigmaquant.frontends.building import ModuleBuilder

Pads = Sequence[tuple[int, int]]
"""Values added before and after each spatial dimension."""

CONVOLUTIONS: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED: tuple[Any, ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS: tuple[Any, ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE_NORMS: tuple[Any, ...] = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
GLOBAL_POOLS: dict[str, tuple[Any, ...]] = {
    "max": (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
    "average": (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
}
_POOLS: dict[str, tuple[Any, ...]] = {
    "max": (F.max_pool1d, F.max_pool2d, F.max_pool3d),
    "average": (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
}


def same_pads(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], upper: bool = True
) -> list[tuple[int, int]]:
    """The padding that gives ``ceil(size / stride)`` values, the odd one at the end (`upper`) or at the beginning.

    Example:
        >>> same_pads([32, 33], [3, 3], [2, 2], [1, 1])
        [(0, 1), (1, 1)]
    """
    found = []
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        found.append((small, large) if upper else (large, small))
    return found


def pad(builder: ModuleBuilder, x: fx.Node, pads: Pads, value: float = 0.0) -> fx.Node:
    """The node's tensor with its last dimensions padded by a constant."""
    flat = [number for pair in reversed(pads) for number in pair]
    return builder.function(F.pad, x, flat, "constant", value) if any(flat) else x


def convolution(
    weight: Tensor, bias: Tensor | None, stride: Sequence[int], dilation: Sequence[int], groups: int, pads: Pads
) -> tuple[nn.Module, Pads]:
    """A convolution with these weights, and the padding that has to come before it.

    Args:
        weight: ``[out, in / groups, *kernel]``.
        bias: ``[out]``.
        stride, dilation, pads: of each spatial dimension.
        groups: of channels.
    """
    even = all(before == after for before, after in pads)
    out, inner, *kernel = weight.shape
    module = CONVOLUTIONS[len(kernel) - 1](
        inner * groups,
        out,
        tuple(kernel),
        stride=tuple(stride),
        padding=tuple(before for before, _ in pads) if even else 0,
        dilation=tuple(dilation),
        groups=groups,
        bias=bias is not None,
    )
    filled(module, weight=weight, bias=bias)
    return module, [(0, 0)] * len(kernel) if even else pads


def transposed_convolution(
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pads: Pads,
    extra: Sequence[int],
) -> tuple[nn.Module, list[int]]:
    """A transposed convolution with these weights, and how many values are too many at each dimension's end.

    Args:
        weight: ``[in, out / groups, *kernel]``.
        bias: ``[out]``.
        stride, dilation: of each spatial dimension.
        groups: of channels.
        pads: what is cut off before and after each dimension.
        extra: values added after each dimension.
    """
    inner, outer, *kernel = weight.shape
    before = [begin for begin, _ in pads]
    end = [more + begin - after for more, (begin, after) in zip(extra, pads, strict=True)]
    module = TRANSPOSED[len(kernel) - 1](
        inner,
        outer * groups,
        tuple(kernel),
        stride=tuple(stride),
        padding=tuple(before),
        output_padding=tuple(max(number, 0) for number in end),
        groups=groups,
        bias=bias is not None,
        dilation=tuple(dilation),
    )
    filled(module, weight=weight, bias=bias)
    return module, [max(-number, 0) for number in end]


def without_end(builder: ModuleBuilder, x: fx.Node, cut: Sequence[int]) -> fx.Node:
    """The node's tensor without the last values of its last dimensions."""
    rank, sizes = builder.rank(x), builder.shapes(x)[0]
    for position, number in enumerate(cut):
        axis = rank - len(cut) + position
        if number:
            x = builder.method("narrow", x, axis, 0, sizes[axis] - number)
    return x


def pool(
    builder: ModuleBuilder,
    x: fx.Node,
    kind: Literal["max", "average"],
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Pads,
    dilation: Sequence[int] | None = None,
    ceil: bool = False,
    count_pads: bool = False,
) -> fx.Node:
    """A pool over the last dimensions, padded as asked for.

    Padded values are never the largest, and count in an average only if `count_pads`. So all that the padding after a
    dimension decides is how many windows there are, which PyTorch's `ceil_mode` can decide as well.

    Raises:
        ModelFileError: an average with a dilation.
    """
    dilation = dilation or [1] * len(kernel)
    sizes = builder.shapes(x)[0][-len(kernel) :]
    function = _POOLS[kind][len(kernel) - 1]
    begin = [before for before, _ in pads]
    if count_pads and kind == "average" and any(before != after for before, after in pads):
        return pool(builder, pad(builder, x, pads), kind, kernel, stride, [(0, 0)] * len(pads), dilation, ceil, True)
    wanted = [
        _windows(size, k, s, before + after, d, ceil)
        for size, k, s, (before, after), d in zip(sizes, kernel, stride, pads, dilation, strict=True)
    ]
    options: dict[str, Any] = {} if kind == "average" else {"dilation": tuple(dilation)}
    if kind == "average" and any(begin):
        options["count_include_pad"] = count_pads
    if kind == "average" and any(d > 1 for d in dilation):
        raise ModelFileError("an average pool with a dilation has no form in PyTorch. Leave the dilation out.")
    for ceil_mode in (False, True):
        windows = [_torch_windows(*of, ceil_mode) for of in zip(sizes, kernel, stride, begin, dilation, strict=True)]
        if windows == wanted and all(2 * before <= k for before, k in zip(begin, kernel, strict=True)):
            if ceil_mode:
                options["ceil_mode"] = True
            return builder.function(function, x, tuple(kernel), tuple(stride), tuple(begin), **options)
    if kind == "average":
        return _weighted_average(builder, x, kernel, stride, pads, ceil)
    padded = pad(builder, x, pads, -math.inf)
    options["ceil_mode"] = ceil
    return builder.function(function, padded, tuple(kernel), tuple(stride), **options)


def _weighted_average(
    builder: ModuleBuilder, x: fx.Node, kernel: Sequence[int], stride: Sequence[int], pads: Pads, ceil: bool
) -> fx.Node:
    """An average that counts no padding, of windows that PyTorch cannot place: those at the border are scaled."""
    function = _POOLS["average"][len(kernel) - 1]
    flat = [number for pair in reversed(pads) for number in pair]
    ones = F.pad(torch.ones(1, 1, *builder.shapes(x)[0][-len(kernel) :]), flat)
    factors = function(ones, tuple(kernel), tuple(stride), 0, ceil).reciprocal()
    averages = builder.function(function, pad(builder, x, pads), tuple(kernel), tuple(stride), 0, ceil)
    return builder.function(torch.mul, averages, builder.tensor("border", factors, trained=False))


def _windows(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    left = size + padding - dilation * (kernel - 1) - 1
    return (-(-left // stride) if ceil else left // stride) + 1


def _torch_windows(size: int, kernel: int, stride: int, before: int, dilation: int, ceil: bool) -> int:
    found = _windows(size, kernel, stride, 2 * before, dilation, ceil)
    starts_beyond = ceil and (found - 1) * stride >= size + before  # PyTorch leaves such a window out
    return found - 1 if starts_beyond else found


def filled(module: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """The module with these values in its parameters and buffers of those names.

    Raises:
        ModelFileError: of another shape.
    """
    for name, values in tensors.items():
        if values is None:
            continue
        own = getattr(module, name)
        if own.shape != values.shape:
            raise ModelFileError(
                f"the {name} of a {type(module).__name__} has the shape {tuple(values.shape)}, not {tuple(own.shape)}."
            )
        own.data = values.detach().to(own.dtype).clone()
    return module
