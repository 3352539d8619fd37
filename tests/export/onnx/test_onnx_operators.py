"""Every operator of an integer model, alone, in ONNX Runtime against the reference."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_cases import Net, check

from sigmaquant.errors import ExportError
from sigmaquant.export.onnx import export_onnx
from sigmaquant.operators import (
    Affine,
    Average,
    Concatenation,
    Edge,
    Lookup,
    MaxPool,
    Operator,
    Pad,
    Permute,
    Product,
    Reshape,
    Slice,
    Sum,
    Take,
)
from sigmaquant.operators.fixed_point import common_multipliers, factor
from sigmaquant.plan import MIDRISE_LARGEST

GRIDS = [(bits, False) for bits in range(2, 9)] + [(bits, True) for bits in range(2, MIDRISE_LARGEST + 1)]
QUICK = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def span(edge: Edge) -> dict[str, int]:
    low, high = edge.range
    return {"low": low, "high": high}


@pytest.mark.parametrize("form", ["planes", "native"])
@pytest.mark.parametrize(("bits", "midrise"), GRIDS)
def test_weights_of_every_grid(bits: int, midrise: bool, form: str, tmp_path: Path) -> None:
    net = Net()
    source = net.input(5, 9, 9)
    net.layer(source, (7, 5, 3, 3), bits=bits, midrise=midrise, padding=((1, 1), (1, 1)))
    check(net.model(), tmp_path, form=form)


@st.composite
def convolutions(draw: Any) -> Net:
    """One to three dimensions, odd channels, groups, strides, dilations, uneven padding, clipping, narrow codes."""
    net = Net(np.random.default_rng(draw(st.integers(0, 2**16))))
    rank = draw(st.sampled_from((1, 2, 2, 3)))
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    inputs, outputs = groups * draw(st.integers(1, 5)), groups * draw(st.integers(1, 5))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    bits, midrise = draw(st.sampled_from(GRIDS))
    output_bits = draw(st.sampled_from((8, 8, 6, 3)))
    clip = None if draw(st.booleans()) else (-1, 2 ** (output_bits - 1) - 2)
    source = net.input(inputs, *[draw(st.integers(5, 9)) for _ in kernel], bits=draw(st.sampled_from((8, 8, 5))))
    net.layer(
        source,
        (outputs, inputs // groups, *kernel),
        bits=bits,
        midrise=midrise,
        fine=draw(st.booleans()),
        output_bits=output_bits,
        clip=clip,
        stride=tuple(draw(st.integers(1, 2)) for _ in kernel),
        dilation=tuple(draw(st.integers(1, 2)) for _ in kernel),
        padding=tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in kernel),
        groups=groups,
    )
    return net


@QUICK
@given(convolutions(), st.sampled_from(("planes", "native")))
def test_convolutions(net: Net, form: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(net.model(), Path(folder), form=form)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("bits", [3, 8])
def test_transposed_convolutions(rank: int, groups: int, bits: int, tmp_path: Path) -> None:
    net = Net()
    source = net.input(3 * groups, *[5] * rank)
    net.layer(
        source,
        (3 * groups, 2, *[3] * rank),
        bits=bits,
        stride=(2,) * rank,
        padding=((1, 1),) * rank,
        groups=groups,
        transposed=True,
        output_padding=(1,) * rank,
    )
    check(net.model(), tmp_path, count=20)


@pytest.mark.parametrize("shape", [(13,), (5, 13), (2, 5, 13)])
@pytest.mark.parametrize(("bits", "form"), [(2, "native"), (4, "native"), (6, "native"), (5, "planes"), (8, "planes")])
def test_linear(shape: tuple[int, ...], bits: int, form: str, tmp_path: Path) -> None:
    net = Net()
    net.layer(net.input(*shape), (7, 13), bits=bits)
    check(net.model(), tmp_path, form=form, count=40)


@pytest.mark.parametrize("midrise", [False, True])
def test_sums_do_not_saturate_on_any_processor(midrise: bool, tmp_path: Path) -> None:
    """Without VNNI, x86 sums pairs of uint8 times int8 products in int16."""
    net = Net()
    net.layer(net.input(32, 6, 6), (16, 32, 3, 3), bits=4 if midrise else 8, midrise=midrise, padding=((1, 1), (1, 1)))
    operator: Any = net.operators[0]
    operator.codes[...] = np.abs(operator.codes).max()
    operator.bias[...] = 0
    operator.scale[...] /= 9
    remade = factor(
        net.edges["e0"].scale * operator.scale.astype(np.float64) / operator.gain / net.edges["e1"].scale, ""
    )
    operator.factor.mantissa[...], operator.factor.shift[...] = remade.mantissa, remade.shift
    check(net.model(), tmp_path)


@pytest.mark.parametrize("shape", [(7,), (7, 9), (7, 6, 5)])
@pytest.mark.parametrize("bits", [8, 4])
def test_affine(shape: tuple[int, ...], bits: int, tmp_path: Path) -> None:
    net = Net()
    source, output = net.input(*shape), net.grid(bits)
    rows = [
        common_multipliers([a], b, 21, "test")
        for a, b in zip(net.random.normal(0, 0.5, 7), net.random.normal(0, 20, 7), strict=True)
    ]
    rows[3] = ([0], *rows[3][1:])  # a BatchNorm's factor may vanish
    multipliers, offsets, shifts = (
        np.array(column) for column in zip(*((m[0], b, s) for m, b, s in rows), strict=True)
    )
    view = (-1, *[1] * (len(shape) - 1))
    parameters = {
        "multiplier": multipliers.astype(np.int32).reshape(view),
        "offset": offsets.astype(np.int32).reshape(view),
        "shift": shifts.reshape(view),
    }
    net.add(Affine, source, grid=output, **parameters, **span(output))
    check(net.model(), tmp_path, count=30)


@pytest.mark.parametrize(
    ("factors", "offset", "exact"),
    [
        ([1.0], 0.0, True),
        ([-0.7], 3.3, True),
        ([0.91727, 0.70713], 0.0, False),  # no ratios of small integers, whose sums would be ties
        ([0.61803, -1.11317], 0.0, False),
        ([-0.31831, -0.51179], 4.4171, False),
        ([0.61803, 0.0], 0.0, False),
        ([0.41421, 0.31831, -0.51179], 1.7321, False),
    ],
)
@pytest.mark.parametrize("bits", [8, 3])
def test_sum(factors: list[float], offset: float, exact: bool, bits: int, tmp_path: Path) -> None:
    net = Net()
    sources = [net.input(7, 6, 5) for _ in factors]
    output = net.grid(bits)
    multipliers, shifted, shift = common_multipliers([f * 2.0 ** (bits - 8) for f in factors], offset, 20, "test")
    parameters = {"multipliers": tuple(multipliers), "offset": shifted, "shift": shift}
    net.add(Sum, *sources, grid=output, **parameters, **span(output))
    check(net.model(), tmp_path, exact=exact)


def test_a_rescaling_between_layers_keeps_both_scales(tmp_path: Path) -> None:
    """The runtime would merge two neighbouring pairs of QuantizeLinear and DequantizeLinear, and invent a scale."""
    net = Net()
    first = net.layer(net.input(4, 9, 9), (6, 4, 1, 1), bits=4)
    output = net.grid()
    second = net.add(Sum, first, grid=output, multipliers=(1789,), offset=0, shift=11, low=-60, high=127)
    net.layer(second, (6, 6, 1, 1), bits=4)
    check(net.model(), tmp_path, count=10)


def test_sum_of_an_edge_with_itself(tmp_path: Path) -> None:
    net = Net()
    source, output = net.input(40), net.grid()
    net.add(Sum, source, source, grid=output, multipliers=(300, 301), offset=0, shift=10, **span(output))
    check(net.model(), tmp_path)


@pytest.mark.parametrize("other", [(7, 6, 5), (7, 1, 1)])
def test_product(other: tuple[int, ...], tmp_path: Path) -> None:
    net = Net()
    left, right, output = net.input(7, 6, 5), net.input(*other), net.grid()
    net.add(Product, left, right, grid=output, factor=factor(0.00931, "test"), **span(output))
    check(net.model(), tmp_path)


@pytest.mark.parametrize("axis", [0, 2])
def test_concatenation(axis: int, tmp_path: Path) -> None:
    net = Net()
    shapes = ([3, 4, 5], [3, 4, 5])
    shapes[1][axis] += 2
    left, right = net.input(*shapes[0]), net.input(*shapes[1], bits=6)
    output = net.grid()
    parameters = {"multipliers": (2**14, 20_011), "shifts": (14, 15)}  # the first one on the same grid
    net.add(Concatenation, left, right, left, grid=output, axis=axis, multipliers=(*parameters["multipliers"], 77_777),
            shifts=(*parameters["shifts"], 16), **span(output))  # fmt: skip
    check(net.model(), tmp_path, count=10)


@pytest.mark.parametrize(
    ("shape", "dims", "keepdim"),
    [
        ((7, 6, 5), (1, 2), False),
        ((7, 6, 5), (1, 2), True),
        ((7, 9), (1,), False),
        ((9, 7), (0,), False),
        ((4, 7, 6), (0, 2), True),
        ((4, 7, 6), (2,), False),
        ((11,), (0,), True),
    ],
)
def test_average_over_dimensions(shape: tuple[int, ...], dims: tuple[int, ...], keepdim: bool, tmp_path: Path) -> None:
    net = Net()
    source, output = net.input(*shape), net.grid()
    scale = factor(1.37 / np.prod([shape[d] for d in dims]), "test")
    whole: dict[str, Any] = {"windows": (), "kernel": (), "stride": (), "padding": ()}
    net.add(Average, source, grid=output, factor=scale, dims=dims, keepdim=keepdim, **whole, **span(output))
    check(net.model(), tmp_path, count=30)


@pytest.mark.parametrize("steps", [2.0**-34, 127.9, 200.3, 300.7])
def test_averages_whose_grid_is_another_by_far(steps: float, tmp_path: Path) -> None:
    net = Net()
    source, output = net.input(3, 4, 5), net.grid()
    whole: dict[str, Any] = {"windows": (), "kernel": (), "stride": (), "padding": (), "keepdim": False}
    net.add(Average, source, grid=output, factor=factor(steps, "test"), dims=(1, 2), **whole, **span(output))
    check(net.model(), tmp_path, count=30)


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding", "divisor"),
    [
        ((7, 8, 7), (2, 2), (2, 2), (0, 0), 4),
        ((7, 8, 7), (3, 3), (2, 1), (1, 1), 9),
        ((7, 9), (4,), (3,), (2,), 3),
    ],
)
def test_average_over_windows(
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    divisor: int,
    tmp_path: Path,
) -> None:
    net = Net()
    source, output = net.input(*shape), net.grid()
    window: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": padding}
    places = zip(shape[1:], kernel, stride, padding, strict=True)
    window["windows"] = tuple(
        tuple((max(0, k), min(k + size, n)) for k in range(-before, n + before - size + 1, step))
        for n, size, step, before in places
    )
    scale = factor(0.911 / divisor, "test")
    net.add(Average, source, grid=output, factor=scale, dims=(), keepdim=False, **window, **span(output))
    check(net.model(), tmp_path, count=10)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding", "dilation", "ceil"),
    [
        ((3, 8, 8), (2, 2), (2, 2), (0, 0), (1, 1), False),
        ((3, 8, 7), (3, 3), (2, 1), (1, 1), (1, 1), False),
        ((3, 8, 7), (3, 3), (2, 2), (1, 1), (1, 1), True),
        ((3, 8, 8), (2, 2), (3, 3), (1, 1), (1, 1), True),
        ((3, 10, 9), (3, 2), (2, 3), (1, 0), (2, 2), True),
        ((3, 11), (3,), (2,), (1,), (1,), True),
    ],
)
def test_max_pool(
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    ceil: bool,
    bits: int,
    tmp_path: Path,
) -> None:
    net = Net()
    window = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    net.add(MaxPool, net.input(*shape, bits=bits), **window, ceil_mode=ceil)
    check(net.model(), tmp_path, exact=True)


@pytest.mark.parametrize("shape", [(6,), (3, 5), (3, 5, 4)])
def test_lookup(shape: tuple[int, ...], tmp_path: Path) -> None:
    net = Net()
    source, output = net.input(*shape), net.grid()
    table = net.random.integers(-128, 128, 256).astype(np.int8)
    net.add(Lookup, source, grid=output, function="any", table=table)
    check(net.model(), tmp_path, exact=True, count=60)


MOVES: dict[str, tuple[type, dict[str, Any]]] = {
    "reshape": (Reshape, {"shape": (2, 30)}),
    "slice": (Slice, {"axis": 1, "start": 1, "stop": 4, "step": 2}),
    "permute": (Permute, {"axes": (2, 0, 1)}),
    "pad": (Pad, {"before": (0, 2, 1), "after": (0, 1, 0)}),
    "nearest, twice": (Take, {"axis": 2, "indices": (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)}),
    "nearest, uneven": (Take, {"axis": 1, "indices": (0, 0, 1, 1, 2, 2, 3)}),
    "flip of rows": (Take, {"axis": 1, "indices": (3, 2, 1, 0)}),
    "flip of columns": (Take, {"axis": 2, "indices": (4, 3, 2, 1, 0)}),
    "backwards by two": (Take, {"axis": 2, "indices": (3, 1)}),
    "roll": (Take, {"axis": 2, "indices": (3, 4, 0, 1, 2)}),
    "reflect": (Take, {"axis": 2, "indices": (2, 1, 0, 1, 2, 3, 4, 3)}),
    "replicate": (Take, {"axis": 2, "indices": (0, 0, 0, 1, 2, 3, 4, 4)}),
    "any order": (Take, {"axis": 2, "indices": (4, 0, 0, 3, 3, 1, 2, 0, 4, 0, 1, 1, 0, 3, 4, 1, 3)}),
    "channels": (Take, {"axis": 0, "indices": (2, 0, 0, 1)}),
    "all one": (Take, {"axis": 1, "indices": (2, 2, 2)}),
}


@pytest.mark.parametrize("zero_point", [-128, 0, 41])
@pytest.mark.parametrize("kind", MOVES)
def test_moves(kind: str, zero_point: int, tmp_path: Path) -> None:
    net = Net()
    source = net.input(3, 4, 5)
    net.edges[source] = Edge(source, (3, 4, 5), 8, 0.03, zero_point)
    cls, fields = MOVES[kind]
    net.add(cls, source, **fields)
    check(net.model(), tmp_path, exact=True)


@pytest.mark.parametrize("axes", [(1, 2), (2, 1)])
@pytest.mark.parametrize("both", [False, True])
def test_images_twice_as_large_are_one_operator(axes: tuple[int, int], both: bool, tmp_path: Path) -> None:
    """Unless what is between the two steps is read elsewhere."""
    net = Net()
    source = net.input(2, 3, 3)
    first = net.add(Take, source, axis=axes[0], indices=(0, 0, 1, 1, 2, 2))
    second = net.add(Take, first, axis=axes[1], indices=(0, 0, 1, 1, 2, 2))
    model = net.model(second, first) if both else net.model(second)
    check(model, tmp_path, exact=True)
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert kinds.count("Resize") == (not both)


@pytest.mark.parametrize("shape", [(1, 5, 4), (3, 1, 4), (3, 5, 1), (1, 1, 1)])
def test_axes_of_size_one_are_repeated(shape: tuple[int, ...], tmp_path: Path) -> None:
    net = Net()
    source = net.input(*shape)
    for axis, size in enumerate(shape):
        if size == 1:
            source = net.add(Take, source, axis=axis, indices=(0,) * 4)
    check(net.model(), tmp_path, exact=True)


def test_an_unknown_operator_is_an_error(tmp_path: Path) -> None:
    net = Net()
    net.input(3)
    net.edges["e1"] = net.grid(shape=(3,))
    net.operators.append(Operator("strange", ("e0",), "e1"))
    with pytest.raises(ExportError, match=r"'strange'.*does not know Operator"):
        export_onnx(net.model("e0"), tmp_path / "model.onnx")
