"""Operators that broadcast, compare, choose, resize and normalize, alone, against the reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_cases import ROUNDINGS, Net, check

from sigmaquant.operators import (
    Affine,
    Average,
    Concatenation,
    Edge,
    Extremum,
    MaxPool,
    Product,
    Resize,
    Select,
    Slopes,
    Sum,
    UnitLength,
)
from sigmaquant.operators.fixed_point import Factor, common_multipliers, factor
from sigmaquant.operators.resize import places


def span(edge: Edge) -> dict[str, int]:
    low, high = edge.range
    return {"low": low, "high": high}


@pytest.mark.parametrize("varies", [(1, 1, 1), (3, 1, 1), (1, 4, 1), (1, 1, 5), (3, 1, 5), (1, 4, 5), (3, 4, 5)])
@pytest.mark.parametrize("bits", [8, 5])
def test_maps_differ_along_any_axes(varies: tuple[int, ...], bits: int, tmp_path: Path) -> None:
    net = Net()
    source, output = net.input(3, 4, 5), net.grid(bits)
    count = int(np.prod(varies))
    rows = [
        common_multipliers([a], b, 21, "test")
        for a, b in zip(net.random.normal(0, 0.5, count), net.random.normal(0, 20, count), strict=True)
    ]
    multiplier = np.array([m[0] for m, _, _ in rows], np.int32).reshape(varies)
    offset = np.array([b for _, b, _ in rows], np.int32).reshape(varies)
    shift = np.array([s for _, _, s in rows], np.int64).reshape(varies)
    net.add(Affine, source, grid=output, multiplier=multiplier, offset=offset, shift=shift, **span(output))
    check(net.model(), tmp_path, count=20)


def test_numbers_that_are_equal_along_an_axis_are_stored_once(tmp_path: Path) -> None:
    net = Net()
    source, output = net.input(3, 50, 50), net.grid()
    whole = np.array([300_000, -200_000, 0], np.int32)[:, None, None] * np.ones((3, 50, 50), np.int32)
    fields: dict[str, Any] = {"multiplier": whole, "offset": whole * 3, "shift": np.full(whole.shape, 19)}
    net.add(Affine, source, grid=output, **fields, **span(output))
    check(net.model(), tmp_path)
    assert (tmp_path / "model.onnx").stat().st_size < 2_500


def test_a_map_that_makes_halves_rounds_them_up(tmp_path: Path) -> None:
    net = Net()
    source, output = net.input(2, 300), net.grid()
    half = np.full((2, 1), 2**20, np.int32)
    net.add(Affine, source, grid=output, multiplier=half, offset=half * 0, shift=half.astype(np.int64) * 0 + 21,
            **span(output))  # fmt: skip
    check(net.model(), tmp_path, exact=True)


BROADCASTS = [((3, 4, 5), (3, 1, 1)), ((3, 1, 1), (3, 4, 5)), ((3, 1, 5), (1, 4, 5)), ((1, 1, 1), (3, 4, 5)),
              ((7,), (1,)), ((1, 5), (4, 1)), ((2, 3, 4, 5), (1, 3, 1, 5))]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), BROADCASTS)
def test_two_edges_broadcast(left: tuple[int, ...], right: tuple[int, ...], tmp_path: Path) -> None:
    net = Net()
    first, second, output = net.input(*left), net.input(*right, bits=6), net.grid(7)
    multipliers, offset, shift = common_multipliers([0.30902, -0.41421], 3.3, 20, "test")
    outputs = [net.add(Sum, first, second, grid=output, multipliers=tuple(multipliers), offset=offset, shift=shift,
                       **span(output))]  # fmt: skip
    grid = net.grid()
    outputs.append(net.add(Product, first, second, grid=grid, factor=factor(0.00931, "test"), **span(grid)))
    ratios: dict[str, Any] = {"multipliers": (40_503, 60_001), "shifts": (16, 15)}
    for largest in (True, False):
        grid = net.grid()
        outputs.append(net.add(Extremum, first, second, grid=grid, largest=largest, **ratios, **span(grid)))
    check(net.model(*outputs), tmp_path, count=10)


HALVES = {"multipliers": (2**19, 3 * 2**19), "shifts": (20, 20)}
"""A half and one and a half: one scale is twice the other."""


@pytest.mark.parametrize("kind", ["larger", "smaller", "chosen", "joined"])
def test_halves_are_rounded_up(kind: str, tmp_path: Path) -> None:
    net = Net()
    sources = [net.input(300), net.input(300)]
    if kind == "chosen":
        sources.insert(0, net.input(300))
        net.edges[sources[0]] = replace(net.edges[sources[0]], bits=2, scale=1.0, zero_point=0)
    output = net.grid(6)
    fields: dict[str, Any] = {**HALVES, **span(output)}
    if kind == "joined":
        net.add(Concatenation, *sources, grid=output, axis=0, **fields)
    elif kind == "chosen":
        net.add(Select, *sources, grid=output, **fields)
    else:
        net.add(Extremum, *sources, grid=output, largest=kind == "larger", **fields)
    check(net.model(), tmp_path, exact=True)


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4)])
def test_choices(shape: tuple[int, ...], tmp_path: Path) -> None:
    net = Net()
    flag, first, second = net.input(*shape), net.input(*shape), net.input(*shape, bits=5)
    net.edges[flag] = Edge(flag, shape, 2, 1.0, 0)  # codes of both signs: what is not zero is true
    output = net.grid()
    ratios: dict[str, Any] = {"multipliers": (40_503, 60_001), "shifts": (16, 15)}
    net.add(Select, flag, first, second, grid=output, **ratios, low=-100, high=90)
    check(net.model(), tmp_path, exact=True, count=20)


@pytest.mark.parametrize("multiplier", [30_011, 0])
@pytest.mark.parametrize("shape", [(4,), (4, 6), (4, 3, 5), (4, 2, 3, 2)])
def test_slopes(shape: tuple[int, ...], multiplier: int, tmp_path: Path) -> None:
    net = Net()
    source, output = net.input(*shape), net.grid()
    slopes = np.array([9001, -20_011, 0, 2**14], np.int32)
    net.add(Slopes, source, grid=output, multiplier=multiplier, slopes=slopes, shift=15, **span(output))
    check(net.model(), tmp_path, count=20)


def resized(net: Net, source: str, sizes: tuple[int, ...], corners: bool, ratio: float = 1.37) -> str:
    edge, output = net.edges[source], net.grid()
    rows = [places(a, b, corners, None) for a, b in zip(edge.shape[1:], sizes, strict=True)]
    lower, weights, steps = ([row[k] for row in rows] for k in range(3))
    form: dict[str, Any] = {"lower": tuple(map(tuple, lower)), "weights": tuple(map(tuple, weights))}
    scale = factor(ratio * 2.0 ** (-11 * len(sizes)), "test")
    return net.add(Resize, source, grid=output, **form, scales=tuple(steps), align_corners=corners, factor=scale,
                   **span(output))  # fmt: skip


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((3, 5, 6), (10, 24)),
        ((3, 5, 6), (8, 7)),
        ((3, 9, 8), (4, 8)),
        ((2, 1, 7), (5, 1)),
        ((1, 1, 1), (3, 3)),
        ((3, 11), (31,)),
        ((2, 5), (1,)),
    ],
)
def test_resizing(shape: tuple[int, ...], sizes: tuple[int, ...], corners: bool, tmp_path: Path) -> None:
    net = Net()
    resized(net, net.input(*shape), sizes, corners)
    check(net.model(), tmp_path, count=10)


@pytest.mark.parametrize(
    ("shape", "sizes", "ratio", "matrices"),
    [
        ((2, 6, 6), (12, 12), 9.0, 0),
        ((2, 6, 6), (9, 6), 1.0, 1),
        ((1, 66, 66), (67, 99), 9.0, 2),
        ((1, 99), (301,), 1.1, 0),
    ],
)
def test_the_runtimes_own_resizing_is_taken_where_it_is_near_enough(
    shape: tuple[int, ...], sizes: tuple[int, ...], ratio: float, matrices: int, tmp_path: Path
) -> None:
    net = Net()
    resized(net, net.input(*shape), sizes, False, ratio)
    model = net.model()
    # places of any ratio are at most one step off, but more often than where both compute the same number
    check(model, tmp_path, count=10, share=ROUNDINGS if matrices or shape[1] < 50 else 0.01)
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert (kinds.count("MatMul"), kinds.count("Resize")) == (matrices, not matrices)


@pytest.mark.parametrize("shape", [(5,), (1,), (4, 700), (2, 3, 16)])
@pytest.mark.parametrize("scale", [2 / 255, 0.01])
def test_unit_lengths(shape: tuple[int, ...], scale: float, tmp_path: Path) -> None:
    net = Net()
    source, output = net.input(*shape), replace(net.grid(), scale=float(np.float32(scale)), zero_point=0)
    multiplier = round(2**8 / output.scale)
    net.add(UnitLength, source, grid=output, multiplier=multiplier, least=5, **span(output))
    check(net.model(), tmp_path, count=30)


def averaged(
    net: Net, source: str, windows: Any, counts: Any, kernel: Any = (), stride: Any = (), before: Any = ()
) -> str:
    output = net.grid()
    form: dict[str, Any] = {"dims": (), "keepdim": False, "windows": windows, "kernel": kernel, "stride": stride}
    scale = factor(0.911 / np.array(counts, np.float64), "test")
    return net.add(Average, source, grid=output, factor=scale, **form, padding=before, **span(output))


@pytest.mark.parametrize("counts", ["values inside", "others"])
def test_windows_at_the_border_count_otherwise(counts: str, tmp_path: Path) -> None:
    """As without the padding counted, or with a part of it where sizes are rounded up."""
    net = Net()
    windows = (((0, 2), (1, 4), (3, 6), (5, 6)), ((0, 2), (1, 4), (3, 5)))
    inside = [(b - a) * (d - c) for a, b in windows[0] for c, d in windows[1]]
    given = inside if counts == "values inside" else [n + k % 3 for k, n in enumerate(inside)]
    averaged(net, net.input(3, 6, 5), windows, given, (3, 3), (2, 2), (1, 1))
    check(net.model(), tmp_path, count=10)
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert ("Mul" in kinds) == (counts == "others")


@pytest.mark.parametrize(
    ("shape", "windows"),
    [
        ((3, 7, 5), (((0, 3), (2, 5), (4, 7)), ((0, 3), (2, 5)))),
        ((3, 2, 3), (((0, 1), (0, 1), (1, 2)), ((0, 1), (0, 2), (1, 3), (2, 3)))),
        ((3, 7), (((0, 2), (1, 4), (3, 6), (5, 7)),)),
        ((2, 3, 4, 5), (((0, 2), (1, 3)), ((0, 4),), ((0, 3), (2, 5)))),
    ],
)
def test_uneven_windows(shape: tuple[int, ...], windows: Any, tmp_path: Path) -> None:
    net = Net()
    counts = np.ones(1)
    for axis in windows:
        counts = np.multiply.outer(counts, [end - first for first, end in axis])
    averaged(net, net.input(*shape), windows, np.unique(counts) if len(np.unique(counts)) == 1 else counts.reshape(-1))
    check(net.model(), tmp_path, count=10)


def test_a_factor_that_has_vanished(tmp_path: Path) -> None:
    net = Net()
    source, output = net.input(3, 6), net.grid()
    nothing = Factor(np.zeros(3, np.int64), np.ones(3, np.int64))
    form: dict[str, Any] = {"dims": (), "keepdim": False, "windows": (((0, 2), (1, 4), (3, 6)),), "kernel": (3,)}
    net.add(Average, source, grid=output, factor=nothing, **form, stride=(2,), padding=(1,), **span(output))
    check(net.model(), tmp_path, exact=True)


def test_the_largest_of_windows_that_reach_far_beyond_the_end(tmp_path: Path) -> None:
    net = Net()
    net.add(MaxPool, net.input(2, 16), kernel=(3,), stride=(4,), padding=(1,), dilation=(3,), ceil_mode=True)
    check(net.model(), tmp_path, exact=True)
    net = Net()
    net.add(MaxPool, net.input(2, 8), kernel=(3,), stride=(7,), padding=(0,), dilation=(4,), ceil_mode=True)
    check(net.model(), tmp_path, exact=True)
