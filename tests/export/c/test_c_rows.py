"""Packing here and unpacking there."""

from __future__ import annotations

import ctypes
import math
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmaquant.export.c.rows import pack_rows
from sigmaquant.numerics import weight_qmax
from sigmaquant.plan import MIDRISE_LARGEST

GRIDS = [(bits, midrise) for midrise in (False, True) for bits in range(2, (MIDRISE_LARGEST if midrise else 8) + 1)]


@pytest.fixture(scope="module")
def kernels(objects, tmp_path_factory) -> ctypes.CDLL:
    """The kernels as a shared library."""
    path = tmp_path_factory.mktemp("library") / "kernels.so"
    sources = [str(item) for item in kernel_sources()]
    subprocess.run(["gcc", "-std=c99", "-O1", "-fPIC", "-shared", "-o", str(path), *sources], check=True)
    return ctypes.CDLL(str(path))


def kernel_sources():
    from importlib import resources

    folder = resources.files("sigmaquant.export.c").joinpath("kernels")
    return sorted(
        (item for item in folder.iterdir() if item.name in ("sq_unpack.c", "sq_float.c", "sq_fixed.c")), key=str
    )


@pytest.mark.parametrize(("bits", "midrise"), GRIDS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_rows_come_back(kernels, bits, midrise, data):
    qmax = weight_qmax(bits, midrise)
    grid = range(-qmax, qmax + 1, 2 if midrise else 1)
    length = data.draw(st.integers(1, 40))
    rows = data.draw(
        st.lists(st.lists(st.sampled_from(grid), min_size=length, max_size=length), min_size=1, max_size=3)
    )
    codes = np.array(rows, dtype=np.int8)
    packed = pack_rows(codes, bits, midrise)
    assert packed.shape == (len(codes), math.ceil(length * bits / 8))
    unpack = getattr(kernels, f"sq_unpack_{'odd_' if midrise else ''}{bits}")
    for row, expected in zip(packed, codes, strict=True):
        found = np.full(8 * (length // 2 + 1), 999, dtype=np.int16)
        unpack(None, row.tobytes(), found.ctypes.data_as(ctypes.c_void_p), ctypes.c_int32(length))
        pairs = found.reshape(-1, 4, 2)  # of four interleaved rows
        own, others = pairs[:, 0].reshape(-1), pairs[:, 1:]
        assert own.tolist() == [*expected.tolist(), *[999] * (len(own) - length)]  # and nothing behind the end
        assert (others == 999).all()


def test_the_stream_begins_at_the_lowest_bit():
    assert pack_rows(np.array([[1, -2, 3]], dtype=np.int8), 4, False).tolist() == [[0xE1, 0x03]]
    assert pack_rows(np.array([[-3, 3, 1]], dtype=np.int8), 2, True).tolist() == [[0b101100]]


class Grid(ctypes.Structure):
    _fields_ = [
        ("count", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("zero", ctypes.c_int32),
        ("low", ctypes.c_int32),
        ("high", ctypes.c_int32),
    ]


@settings(deadline=None)
@given(
    st.lists(st.floats(width=32) | st.integers(-300, 300).map(lambda n: n * 0.125), min_size=1, max_size=20),
    st.sampled_from((0.25, 0.0371, 1e-12, 3e10)),
    st.integers(-128, 127),
    st.sampled_from((8, 8, 3)),
)
def test_float_helpers_agree_with_the_quantizer(kernels, values, scale, zero, bits):
    import torch

    from sigmaquant.operators import Edge, decode, encode

    edge = Edge(
        "x", (len(values),), bits, float(np.float32(scale)), max(edge_low(bits), min(-edge_low(bits) - 1, zero))
    )
    x = np.array([0.0 if math.isnan(v) else v for v in values], dtype=np.float32)
    codes, back = np.zeros(len(x), dtype=np.int8), np.zeros(len(x), dtype=np.float32)
    grid = Grid(len(x), edge.scale, edge.zero_point, *edge.range)
    kernels.sq_quantize(ctypes.byref(grid), x.ctypes.data_as(ctypes.c_void_p), codes.ctypes.data_as(ctypes.c_void_p))
    assert codes.tolist() == encode(torch.from_numpy(x), edge).tolist()
    kernels.sq_dequantize(
        ctypes.byref(grid), codes.ctypes.data_as(ctypes.c_void_p), back.ctypes.data_as(ctypes.c_void_p)
    )
    assert back.tolist() == decode(torch.from_numpy(codes), edge).tolist()


def edge_low(bits: int) -> int:
    return -(2 ** (bits - 1))


def test_what_is_no_number_becomes_zero(kernels):
    x, codes = np.array([np.nan, np.inf, -np.inf], dtype=np.float32), np.zeros(3, dtype=np.int8)
    grid = Grid(3, 0.5, 7, -128, 127)
    kernels.sq_quantize(ctypes.byref(grid), x.ctypes.data_as(ctypes.c_void_p), codes.ctypes.data_as(ctypes.c_void_p))
    assert codes.tolist() == [7, 127, -128]


@settings(deadline=None)
@given(st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**31 - 1), st.integers(1, 32))
def test_large_factors_round_half_up_or_saturate(kernels, value, mantissa, shift):
    kernels.sq_scale_up.restype = ctypes.c_int32
    exact = (value * mantissa + (1 << (shift - 1))) >> shift
    found = kernels.sq_scale_up(ctypes.c_int64(value * mantissa), ctypes.c_uint32(shift))
    assert found == max(-(2**15), min(2**15 - 1, exact))
