"""Every operator alone, many in one program, against the executor."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from c_cases import Net, exported_matches
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sigmaquant.numerics import activation_range, weight_qmax
from sigmaquant.operators import (
    Affine,
    Average,
    Concatenation,
    Convolution,
    Extremum,
    Linear,
    Lookup,
    MatMul,
    Matrix,
    MaxPool,
    Norm,
    Pad,
    Permute,
    Product,
    Recurrent,
    Reshape,
    Resize,
    Select,
    Slice,
    Slopes,
    Softmax,
    Sum,
    Take,
    UnitLength,
)
from sigmaquant.operators.fixed_point import factor
from sigmaquant.operators.recurrent import GATES
from sigmaquant.plan import MIDRISE_LARGEST

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


def volume(draw: Draw, net: Net) -> str:
    """Three dimensions."""
    kernel, stride, dilation = small(draw, 1, 3, 3), small(draw, 1, 2, 3), small(draw, 1, 2, 3)
    groups = small(draw, 1, 3)
    inputs, outputs = draw(st.sampled_from(((1, 1), (2, 3), (3, 1))))
    padding = tuple(small(draw, 0, 2, 2) for _ in range(3))
    least = [max(1, d * (k - 1) + 1 - sum(p)) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = tuple(n + small(draw, 0, 3) for n in least)
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
    """Constants along one axis, several, or all."""
    shape, random = any_shape(draw, 1, 5), numbers(draw)
    if draw(st.booleans()):
        axis = small(draw, 0, len(shape) - 1)
        varies = tuple(n if a == axis else 1 for a, n in enumerate(shape))
    else:
        varies = tuple(n if draw(st.booleans()) else 1 for n in shape)
    return net.add(
        Affine, [source(draw, net, shape)], **grid(draw), shift=random.integers(1, 31, varies),
        multiplier=random.integers(-(2**21), 2**21, varies).astype(np.int32),
        offset=random.integers(-(2**29), 2**29, varies).astype(np.int32),
    )  # fmt: skip


def sums(draw: Draw, terms: int) -> dict[str, Any]:
    return {
        "multipliers": small(draw, -(2**20), 2**20, terms),
        "offset": small(draw, -(2**29), 2**29),
        "shift": small(draw, 1, 30),
    }


def addition(draw: Draw, net: Net) -> str:
    shape, terms = any_shape(draw), small(draw, 1, 2)
    return net.add(Sum, [source(draw, net, shape) for _ in range(terms)], **grid(draw), **sums(draw, terms))


def doubling(draw: Draw, net: Net) -> str:
    return net.add(Sum, [source(draw, net, any_shape(draw))] * 2, **grid(draw), **sums(draw, 2))


def pair(draw: Draw, net: Net) -> list[str]:
    """Two inputs that broadcast against each other, in any layouts."""
    shape = any_shape(draw, 1, 5)
    both = [tuple(n if draw(st.integers(0, 2)) else 1 for n in shape) for _ in range(2)]
    if draw(st.booleans()):
        both[small(draw, 0, 1)] = shape
    return [source(draw, net, s) for s in both]


def broadcast_addition(draw: Draw, net: Net) -> str:
    return net.add(Sum, pair(draw, net), **grid(draw), **sums(draw, 2))


def product(draw: Draw, net: Net) -> str:
    return net.add(Product, pair(draw, net), **grid(draw), factor=real_factor(draw))


def extremum(draw: Draw, net: Net) -> str:
    return net.add(
        Extremum, pair(draw, net), **grid(draw), largest=draw(st.booleans()),
        multipliers=small(draw, -(2**21), 2**21, 2), shifts=small(draw, 1, 30, 2),
    )  # fmt: skip


def select(draw: Draw, net: Net) -> str:
    shape = any_shape(draw)
    names = [net.input(shape, 2, 0), source(draw, net, shape), source(draw, net, shape)]
    return net.add(
        Select, names, **grid(draw), multipliers=small(draw, -(2**21), 2**21, 2), shifts=small(draw, 1, 30, 2)
    )


def slopes(draw: Draw, net: Net) -> str:
    shape = any_shape(draw)
    return net.add(
        Slopes, [source(draw, net, shape)], **grid(draw), multiplier=small(draw, 0, 2**21),
        slopes=numbers(draw).integers(-(2**21), 2**21, shape[0]).astype(np.int32), shift=small(draw, 1, 30),
    )  # fmt: skip


def unit_length(draw: Draw, net: Net) -> str:
    return net.add(
        UnitLength, [source(draw, net, any_shape(draw, 1, 5))], **grid(draw),
        multiplier=2 ** small(draw, 4, 17) + small(draw, 0, 9), least=draw(st.sampled_from((1, 100, 10**6))),
    )  # fmt: skip


def resize(draw: Draw, net: Net) -> str:
    rank = small(draw, 1, 2)
    size, out, random = small(draw, 1, 6, rank), small(draw, 1, 9, rank), numbers(draw)
    lower = [np.sort(random.integers(0, n, m)) for n, m in zip(size, out, strict=True)]
    weights = [
        np.where(low < n - 1, random.integers(0, 2**11, len(low)), 0) for n, low in zip(size, lower, strict=True)
    ]
    return net.add(
        Resize, [source(draw, net, (small(draw, 1, 5), *size))], **grid(draw), factor=factor_below(draw, 11 * rank),
        lower=tuple(tuple(map(int, low)) for low in lower), weights=tuple(tuple(map(int, w)) for w in weights),
        scales=(1.0,) * rank, align_corners=False,
    )  # fmt: skip


def factor_below(draw: Draw, bits: int) -> Any:
    return factor(2.0 ** numbers(draw).uniform(-3 - bits, 2 - bits, 1), "test")


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
    shape = any_shape(draw, 1, 5)
    dims = sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    return net.add(
        Average, [source(draw, net, shape)], **grid(draw), factor=real_factor(draw),
        dims=tuple(dims), keepdim=draw(st.booleans()), windows=(), kernel=(), stride=(), padding=(),
    )  # fmt: skip


def window(draw: Draw, rank: int) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    """Kernel, stride, padding of at most half a kernel, and a size that holds a window."""
    kernel, stride = small(draw, 1, 4, rank), small(draw, 1, 3, rank)
    padding = tuple(small(draw, 0, k // 2) for k in kernel)
    size = tuple(k + small(draw, 0, 4) for k in kernel)
    return {"kernel": kernel, "stride": stride, "padding": padding}, size


def average_pool(draw: Draw, net: Net) -> str:
    shape, size = window(draw, small(draw, 1, 3))
    windows = []
    for n, k, s, p in zip(size, shape["kernel"], shape["stride"], shape["padding"], strict=True):
        starts = range(-p, n + p - k + 1, s)
        windows.append(tuple((max(0, a), min(n, a + k)) for a in starts))
    name = source(draw, net, (small(draw, 1, 5), *size))
    places = math.prod(map(len, windows)) if draw(st.booleans()) else 1
    return net.add(
        Average, [name], **grid(draw), factor=real_factor(draw, places), dims=(), keepdim=False,
        windows=tuple(windows), **shape,
    )  # fmt: skip


def uneven_average(draw: Draw, net: Net) -> str:
    size, windows = small(draw, 1, 6, small(draw, 1, 3)), []
    for n in size:
        firsts = small(draw, 0, n - 1, small(draw, 1, 4))
        windows.append(tuple((first, small(draw, first + 1, n)) for first in firsts))
    places = math.prod(map(len, windows)) if draw(st.booleans()) else 1
    return net.add(
        Average, [source(draw, net, (small(draw, 1, 5), *size))], **grid(draw), factor=real_factor(draw, places),
        dims=(), keepdim=False, windows=tuple(windows), kernel=(), stride=(), padding=(),
    )  # fmt: skip


def max_pool(draw: Draw, net: Net) -> str:
    rank = small(draw, 1, 3)
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
    name = source(draw, net, any_shape(draw, 1, 5))
    for _ in range(small(draw, 1, 4)):
        edge = net.edges[name]
        kind, fields = draw(st.sampled_from((reshape, permute, cut, pad, take, take)))(draw, edge.shape)
        name = net.add(kind, [name], edge.bits, edge.zero_point, **fields)
    if draw(st.booleans()):
        return net.channels_last(name)
    return name


def reshape(draw: Draw, shape: tuple[int, ...]) -> Any:
    count = math.prod(shape)
    first = draw(st.sampled_from([n for n in range(1, count + 1) if count % n == 0]))
    new = draw(st.sampled_from(((count,), (first, count // first), (first, 1, count // first))))
    return Reshape, {"shape": new}


def permute(draw: Draw, shape: tuple[int, ...]) -> Any:
    return Permute, {"axes": tuple(draw(st.permutations(range(len(shape)))))}


def cut(draw: Draw, shape: tuple[int, ...]) -> Any:
    axis, step = small(draw, 0, len(shape) - 1), small(draw, 1, 3)
    start = small(draw, 0, shape[axis] - 1)
    return Slice, {"axis": axis, "start": start, "stop": small(draw, start + 1, shape[axis]), "step": step}


def pad(draw: Draw, shape: tuple[int, ...]) -> Any:
    return Pad, {"before": small(draw, 0, 2, len(shape)), "after": small(draw, 0, 2, len(shape))}


def take(draw: Draw, shape: tuple[int, ...]) -> Any:
    """Flips, rolls, repetitions, reflections, and any indices."""
    axis = small(draw, 0, len(shape) - 1)
    n = shape[axis]
    line = list(range(n))
    indices = draw(
        st.sampled_from(
            (
                line[::-1],
                line[n // 2 :] + line[: n // 2],
                line * 2,
                [i for i in line for _ in range(3)],
                [0] * 3,
                [*line[1:3][::-1], *line, *line[-3:-1][::-1]],
            )
        )
    )
    if draw(st.booleans()):
        indices = small(draw, 0, n - 1, small(draw, 1, 7))
    return Take, {"axis": axis, "indices": tuple(indices)}


def matmul(draw: Draw, net: Net) -> str:
    """Leading axes broadcast; operands in any layout, also turned; more columns than are in scratch at a time."""
    lead = small(draw, 1, 3, small(draw, 0, 3))
    rows, columns, depth = small(draw, 1, 5), draw(st.sampled_from((1, 3, 4, 9, 21))), small(draw, 1, 19)
    if not draw(st.integers(0, 3)):
        columns, depth = small(draw, 40, 50), small(draw, 80, 99)
    names = []
    for shape in ((rows, depth), (depth, columns)):
        own = tuple(n if draw(st.integers(0, 2)) else 1 for n in lead)
        if draw(st.booleans()):
            name = source(draw, net, (*own, *shape[::-1]))
            edge, last = net.edges[name], len(own)
            axes = (*range(last), last + 1, last)
            names.append(net.add(Permute, [name], edge.bits, edge.zero_point, axes=axes))
        else:
            names.append(source(draw, net, (*own, *shape)))
    return net.add(MatMul, names, **grid(draw), factor=real_factor(draw))


def softmax(draw: Draw, net: Net) -> str:
    """With masks along any axes; some rows are empty."""
    shape, random = any_shape(draw, 1, 5), numbers(draw)
    if draw(st.booleans()):
        shape = (*shape[:-1], small(draw, 1, 70))
    mask = None
    if draw(st.integers(0, 2)):
        varies = tuple(n if draw(st.booleans()) else 1 for n in shape)
        mask = random.random(varies) < draw(st.sampled_from((0.1, 0.5, 0.9)))
    scale = 2.0 ** random.uniform(-8, 2)
    table = np.rint(2.0**20 * np.exp(-scale * np.arange(256))).astype(np.int32)
    multiplier = round(2.0 ** random.uniform(4, 17))
    return net.add(Softmax, [source(draw, net, shape)], **grid(draw), table=table, multiplier=multiplier, mask=mask)


def norm(draw: Draw, net: Net) -> str:
    """Over the last axes, centred or not; constants along any axes."""
    shape, random = any_shape(draw, 1, 5), numbers(draw)
    if draw(st.booleans()):
        shape = (*shape[:-1], small(draw, 1, 90))
    inner = small(draw, 1, len(shape))
    varies = tuple(n if draw(st.booleans()) else 1 for n in shape)
    return net.add(
        Norm, [source(draw, net, shape)], **grid(draw), axes=tuple(range(len(shape) - inner, len(shape))),
        centred=draw(st.booleans()), epsilon=draw(st.sampled_from((0, 1, 10**6))), root_bits=small(draw, 0, 6),
        multiplier=random.integers(-(2**16), 2**16, varies).astype(np.int32),
        offset=random.integers(-(2**24), 2**24, varies).astype(np.int32), shift=random.integers(12, 25, varies),
    )  # fmt: skip


def recurrent(draw: Draw, net: Net) -> str:
    """Of all kinds, with all ways of initial states; also states that reach far, and weights mid-rise."""
    random, kind = numbers(draw), draw(st.sampled_from(tuple(GATES)))
    steps, inputs, units = (small(draw, 1, most) for most in (4, 20, 9))
    if draw(st.integers(0, 3)) == 0:
        inputs = small(draw, 120, 300)
    given = draw(st.sampled_from(((), ("hidden",), ("hidden", "cell"), ("cell",))))
    given = tuple(name for name in given if name == "hidden" or kind == "lstm")
    result = "cell" if kind == "lstm" and draw(st.booleans()) else "sequence"
    carried = ("cell" if kind == "lstm" else "hidden") in given and kind in ("lstm", "gru")
    fraction = small(draw, 12, 20)
    bits = draw(st.sampled_from((8, 5, 3)))
    low, high = activation_range(bits)

    def matrix(name: str, columns: int) -> Matrix:
        shape = (GATES[kind] * units, columns)
        w = weights(draw, shape)
        reach = np.abs(w["codes"].astype(int)).sum(1).max(initial=1) * 255
        scale = np.exp2(random.uniform(-3, 8, shape[0])) / reach  # sums up to 256
        return Matrix(
            f"{name} {len(net.edges)}", f"{name} {len(net.edges)}", w["codes"], w["bits"], w["midrise"],
            scale.astype(np.float32), random.integers(-4 << fraction, 4 << fraction, shape[0]).astype(np.int32),
            factor(scale * 2.0**fraction, "test"),
        )  # fmt: skip

    names = [source(draw, net, (steps, inputs)), *(source(draw, net, (1, units)) for _ in given)]
    places = {"lstm": 30, "rnn_relu": fraction, "gru": 15}.get(kind, 15)
    return net.add(
        Recurrent, names, out_bits=8, zero_point=small(draw, -128, 127), kind=kind, result=result, given=given,
        input_matrix=matrix("input", inputs), hidden_matrix=matrix("hidden", units), fraction_bits=fraction,
        state_bits=small(draw, 3, 8), hidden=random.integers(low, high + 1, units).astype(np.int8),
        state=random.integers(-(2**15), 2**15, units).astype(np.int16),
        given_factor=real_factor(draw) if "hidden" in given else None,
        given_state_factor=factor(2.0 ** random.uniform(0, 10), "test") if carried else None,
        hidden_factor=factor(2.0 ** (random.uniform(2, 7) - places), "test"), zero=small(draw, low, high), low=low,
        high=high, cell_factor=factor(2.0 ** random.uniform(-12, -5), "test") if result == "cell" else None,
    )  # fmt: skip


KINDS = {
    "recurrent": (recurrent,),
    "layers": (convolution, convolution, linear),
    "usual layers": (stem, pointwise, depthwise, depthwise, vector),
    "volumes": (volume,),
    "pools": (mean, average_pool, uneven_average, max_pool, resize),
    "elementwise": (affine, addition, doubling, lookup, slopes, unit_length),
    "broadcast": (broadcast_addition, product, extremum, select, affine),
    "places": (concatenation, moves),
    "sequences": (matmul, softmax, norm),
}


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_operators_compute_what_the_executor_computes(kinds, objects):
    @settings(max_examples=5, deadline=None, phases=(Phase.generate,))  # every attempt to shrink would compile
    @given(st.data())
    def check(data: Any) -> None:
        net = Net(data.draw(st.sampled_from((1, 1, 3))))
        outputs = [data.draw(st.sampled_from(kinds))(data.draw, net) for _ in range(CASES)]
        with tempfile.TemporaryDirectory() as folder:
            exported_matches(net.model(outputs), Path(folder) / "model", objects)

    check()
