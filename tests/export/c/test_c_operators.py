"""Every operator alone, many in one program, against the executor."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from c_cases import Net, exported_matches
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sigmaquant.lowering.fixed_point import factor
from sigmaquant.lowering.model import (
    Affine,
    Average,
    Concatenation,
    Convolution,
    Linear,
    Lookup,
    MaxPool,
    Move,
    Product,
    Sum,
)
from sigmaquant.plan import MIDRISE_LARGEST
from sigmaquant.quant.numerics import activation_range, weight_qmax

Draw = Any
CASES = 10


def numbers(draw: Draw) -> np.random.Generator:
    return np.random.default_rng(draw(st.integers(0, 2**16)))


def small(draw: Draw, low: int, high: int, count: int | None = None) -> Any:
    if count is None:
        return draw(st.integers(low, high))
    return tuple(draw(st.integers(low, high)) for _ in range(count))


def source(draw: Draw, net: Net, shape: tuple[int, ...]) -> str:
    """An input in either layout, its grid of any bitwidth."""
    bits = draw(st.sampled_from((8, 8, 4, 2)))
    name = net.input(shape, bits, small(draw, *activation_range(bits)))
    return net.channels_last(name) if draw(st.booleans()) else name


def grid(draw: Draw) -> dict[str, int]:
    """The output's bitwidth, zero-point, and clipping."""
    bits = draw(st.sampled_from((8, 8, 5, 3)))
    low, high = activation_range(bits)
    found = {"out_bits": bits, "zero_point": small(draw, low, high)}
    a, b = sorted(small(draw, low, high, 2))
    return found | ({"low": a, "high": b} if draw(st.booleans()) else {"low": low, "high": high})


def real_factor(draw: Draw, channels: int = 1) -> Any:
    """Factors from far below to above a quarter, where fixed-point arithmetic takes another way; also zero."""
    exponents = numbers(draw).uniform(-14, 3, channels)
    return factor(np.where(exponents > 2.8, 0.0, 2.0**exponents), "test")


def weights(draw: Draw, shape: tuple[int, ...]) -> dict[str, Any]:
    bits = small(draw, 2, 8)
    midrise = bits <= MIDRISE_LARGEST and draw(st.booleans())
    qmax, random, outputs = weight_qmax(bits, midrise), numbers(draw), shape[0]
    codes = random.integers(0, qmax + 1, shape) * 2 - qmax if midrise else random.integers(-qmax, qmax + 1, shape)
    return {
        "layer": "layer",
        "codes": codes.astype(np.int8),
        "bits": bits,
        "midrise": midrise,
        "gain": 2 ** small(draw, 0, int(math.log2(127 // qmax))),
        "scale": np.ones(outputs, dtype=np.float32),
        "bias": random.integers(-3000, 3000, outputs).astype(np.int32),
        "factor": real_factor(draw, outputs),
    }


def convolution(draw: Draw, net: Net) -> str:
    rank = small(draw, 1, 2)
    kernel, stride, dilation = small(draw, 1, 4, rank), small(draw, 1, 3, rank), small(draw, 1, 2, rank)
    groups = small(draw, 1, 6)
    inputs, outputs = draw(st.sampled_from(((1, 1), (1, 2), (2, 3), (5, 1), (4, 8))))
    padding = tuple(small(draw, 0, 3, 2) for _ in range(rank))
    least = [max(1, d * (k - 1) + 1 - sum(p)) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = tuple(n + small(draw, 0, 5) for n in least)
    return net.add(
        Convolution, [source(draw, net, (groups * inputs, *size))],
        **weights(draw, (groups * outputs, inputs, *kernel)), **grid(draw),
        stride=stride, padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip


def stem(draw: Draw, net: Net) -> str:
    """3 x 3 taps of few channels, over several strips, blocks of whole fours and others."""
    inputs, outputs, stride = small(draw, 1, 4), small(draw, 3, 13), small(draw, 1, 2)
    side = small(draw, 0, 1)
    return net.add(
        Convolution, [source(draw, net, (inputs, small(draw, 3, 5), small(draw, 3, 40)))],
        **weights(draw, (outputs, inputs, 3, 3)), **grid(draw),
        stride=(stride, stride), padding=((side, 1), (1, side)), dilation=(1, 1), groups=1,
    )  # fmt: skip


def pointwise(draw: Draw, net: Net) -> str:
    """One tap: strips of positions that share nothing."""
    inputs, outputs, stride = small(draw, 1, 60), small(draw, 1, 9), small(draw, 1, 2)
    return net.add(
        Convolution, [source(draw, net, (inputs, small(draw, 1, 3), small(draw, 2, 19)))],
        **weights(draw, (outputs, inputs, 1, 1)), **grid(draw),
        stride=(stride, stride), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1,
    )  # fmt: skip


def depthwise(draw: Draw, net: Net) -> str:
    """3 x 3 taps on pictures that are large enough for strips, and some that are not."""
    channels, stride = small(draw, 2, 9), small(draw, 1, 2, 2)
    padding = tuple(small(draw, 0, 2, 2) for _ in range(2))
    return net.add(
        Convolution, [source(draw, net, (channels, small(draw, 3, 11), small(draw, 3, 40)))],
        **weights(draw, (channels, 1, 3, 3)), **grid(draw),
        stride=stride, padding=padding, dilation=(1, 1), groups=channels,
    )  # fmt: skip


def vector(draw: Draw, net: Net) -> str:
    """Rows of more than one piece."""
    inputs = small(draw, 100, 300)
    return net.add(Linear, [source(draw, net, (inputs,))], **weights(draw, (small(draw, 1, 9), inputs)), **grid(draw))


def linear(draw: Draw, net: Net) -> str:
    inputs = small(draw, 1, 19)
    shape = (*small(draw, 1, 4, small(draw, 0, 2)), inputs)
    return net.add(Linear, [source(draw, net, shape)], **weights(draw, (small(draw, 1, 9), inputs)), **grid(draw))


def any_shape(draw: Draw, low: int = 1, high: int = 4) -> tuple[int, ...]:
    return small(draw, 1, 5, small(draw, low, high))


def affine(draw: Draw, net: Net) -> str:
    shape = any_shape(draw)
    axis, random = small(draw, 0, len(shape) - 1), numbers(draw)
    channels, shift = shape[axis], random.integers(1, 31, shape[axis])
    return net.add(
        Affine, [source(draw, net, shape)], **grid(draw), axis=axis, shift=shift,
        multiplier=random.integers(-(2**21), 2**21, channels).astype(np.int32),
        offset=random.integers(-(2**29), 2**29, channels).astype(np.int32),
    )  # fmt: skip


def addition(draw: Draw, net: Net) -> str:
    shape, terms = any_shape(draw), small(draw, 1, 2)
    return net.add(
        Sum, [source(draw, net, shape) for _ in range(terms)], **grid(draw),
        multipliers=small(draw, -(2**20), 2**20, terms), offset=small(draw, -(2**29), 2**29),
        shift=small(draw, 1, 30),
    )  # fmt: skip


def product(draw: Draw, net: Net) -> str:
    shape = any_shape(draw)
    other = tuple(n if draw(st.booleans()) else 1 for n in shape)
    shapes = [shape, other] if draw(st.booleans()) else [other, shape]
    names = [source(draw, net, s) for s in shapes]
    return net.add(Product, names, **grid(draw), factor=real_factor(draw))


def concatenation(draw: Draw, net: Net) -> str:
    shape, parts = any_shape(draw), small(draw, 1, 3)
    axis, names, multipliers, shifts = small(draw, 0, len(shape) - 1), [], [], []
    out = grid(draw)
    for _ in range(parts):
        size = (*shape[:axis], small(draw, 1, 4), *shape[axis + 1 :])
        shifts.append(small(draw, 1, 20))
        if draw(st.booleans()):  # on the output's grid: a copy
            multipliers.append(1 << shifts[-1])
            name = net.input(size, out["out_bits"], out["zero_point"])
            names.append(net.channels_last(name) if draw(st.booleans()) else name)
        else:
            multipliers.append(small(draw, 0, 2**21))
            names.append(source(draw, net, size))
    return net.add(Concatenation, names, **out, axis=axis, multipliers=tuple(multipliers), shifts=tuple(shifts))


def mean(draw: Draw, net: Net) -> str:
    shape = any_shape(draw)
    dims = sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    return net.add(
        Average, [source(draw, net, shape)], **grid(draw), factor=real_factor(draw),
        dims=tuple(dims), keepdim=draw(st.booleans()), kernel=(), stride=(), padding=(),
    )  # fmt: skip


def window(draw: Draw, rank: int) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    """Kernel, stride, padding of at most half a kernel, and a size that holds a window."""
    kernel, stride = small(draw, 1, 4, rank), small(draw, 1, 3, rank)
    padding = tuple(small(draw, 0, k // 2) for k in kernel)
    size = tuple(k + small(draw, 0, 4) for k in kernel)
    return {"kernel": kernel, "stride": stride, "padding": padding}, size


def average_pool(draw: Draw, net: Net) -> str:
    shape, size = window(draw, small(draw, 1, 2))
    name = source(draw, net, (small(draw, 1, 5), *size))
    return net.add(Average, [name], **grid(draw), factor=real_factor(draw), dims=(), keepdim=False, **shape)


def max_pool(draw: Draw, net: Net) -> str:
    rank = small(draw, 1, 2)
    shape, size = window(draw, rank)
    dilation = small(draw, 1, 2, rank)
    size = tuple(n + k * (d - 1) for n, k, d in zip(size, shape["kernel"], dilation, strict=True))
    name = source(draw, net, (small(draw, 1, 5), *size))
    edge = net.edges[name]
    return net.add(
        MaxPool, [name], edge.bits, edge.zero_point, **shape, dilation=dilation, ceil_mode=draw(st.booleans())
    )


def lookup(draw: Draw, net: Net) -> str:
    table = numbers(draw).integers(-128, 128, 256).astype(np.int8)
    return net.add(Lookup, [source(draw, net, any_shape(draw))], function="any", table=table)


def moves(draw: Draw, net: Net) -> str:
    """Views of views, and what reads them."""
    name = source(draw, net, any_shape(draw))
    for _ in range(small(draw, 1, 4)):
        edge = net.edges[name]
        kind, parameters, apply = draw(st.sampled_from((reshape, permute, cut, pad)))(draw, edge.shape, edge.zero_point)
        name = net.add(Move, [name], edge.bits, edge.zero_point, kind=kind, parameters=parameters, apply=apply)
    if draw(st.booleans()):
        return net.channels_last(name)
    return name


def reshape(draw: Draw, shape: tuple[int, ...], zero: int) -> Any:
    count = math.prod(shape)
    first = draw(st.sampled_from([n for n in range(1, count + 1) if count % n == 0]))
    new = draw(st.sampled_from(((count,), (first, count // first), (first, 1, count // first))))
    return "reshape", {"shape": new}, lambda x: x.reshape(len(x), *new)


def permute(draw: Draw, shape: tuple[int, ...], zero: int) -> Any:
    axes = tuple(draw(st.permutations(range(len(shape)))))
    return "permute", {"axes": axes}, lambda x: x.permute(0, *(a + 1 for a in axes))


def cut(draw: Draw, shape: tuple[int, ...], zero: int) -> Any:
    axis, step = small(draw, 0, len(shape) - 1), small(draw, 1, 3)
    start = small(draw, 0, shape[axis] - 1)
    stop = small(draw, start + 1, shape[axis])
    parameters = {"axis": axis, "start": start, "stop": stop, "step": step}
    return "slice", parameters, lambda x: x.index_select(axis + 1, torch.arange(start, stop, step))


def pad(draw: Draw, shape: tuple[int, ...], zero: int) -> Any:
    before, after = small(draw, 0, 2, len(shape)), small(draw, 0, 2, len(shape))
    sides = [side for pair in zip(reversed(before), reversed(after), strict=True) for side in pair]
    apply = lambda x: torch.nn.functional.pad(x, sides, value=zero)  # noqa: E731
    return "pad", {"before": before, "after": after}, apply


KINDS = {
    "layers": (convolution, convolution, linear),
    "usual layers": (stem, pointwise, depthwise, depthwise, vector),
    "pools": (mean, average_pool, max_pool),
    "elementwise": (affine, addition, product, lookup),
    "places": (concatenation, moves),
}


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_operators_compute_what_the_executor_computes(kinds, objects):
    @settings(max_examples=5, deadline=None, phases=(Phase.generate,))  # every attempt to shrink would compile
    @given(st.data())
    def check(data: Any) -> None:
        net = Net()
        outputs = [data.draw(st.sampled_from(kinds))(data.draw, net) for _ in range(CASES)]
        with tempfile.TemporaryDirectory() as folder:
            exported_matches(net.model(outputs), Path(folder) / "model", objects)

    check()
