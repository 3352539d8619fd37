"""Ranges from calibration."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quant_cases import BITS

from sigmaquant.errors import DataError
from sigmaquant.numerics import dequantize_activation, quantize_activation
from sigmaquant.quant.observers import MinMaxObserver, MseObserver

OBSERVERS = pytest.mark.parametrize("observer", [MinMaxObserver, MseObserver])


def grid_error(x, grid, bits):
    scale, zero_point = torch.tensor([grid[0]]), grid[1]
    return float((dequantize_activation(quantize_activation(x, scale, zero_point, bits), scale, zero_point) - x).norm())


def test_minmax_covers_all_batches():
    observer = MinMaxObserver()
    for values in ([0.5, 1.0], [-0.55, 0.2], [2.0, 0.0]):
        observer(torch.tensor(values))
    assert observer.affine(8) == (pytest.approx(0.01), -73)


@given(st.integers(0, 2**31), BITS, st.booleans(), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_mse_is_never_worse_than_minmax(seed, bits, positive, power):
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(4, 50, generator=generator) ** power for _ in range(2)]
    batches = [x.relu() for x in batches] if positive else batches
    found = []
    for kind in (MinMaxObserver, MseObserver):
        observer = kind()
        for x in batches:
            observer(x)
        found.append(grid_error(torch.cat(batches), observer.affine(bits), bits))
    assert found[1] <= found[0] * (1 + 1e-5) + 1e-6


def test_mse_clips_rare_large_values_at_few_bits():
    observer = MseObserver()
    x = torch.randn(8000, generator=torch.Generator().manual_seed(0))
    x[0] = 6.0
    observer(x)
    assert observer.affine(3)[0] < 0.8 * MinMaxObserver.affine(observer, 3)[0]


def test_at_eight_bits_the_full_range_is_kept():
    """Measured: the squared error would fall by clipping, and the network's outputs get worse."""
    values = torch.cat([torch.randn(10_000, generator=torch.Generator().manual_seed(0)), torch.tensor([40.0])])
    seen = []
    for kind in (MinMaxObserver, MseObserver):
        observer = kind()
        observer(values)
        seen.append([observer.affine(bits) for bits in (7, 8)])
    assert seen[0][1] == seen[1][1]
    assert seen[0][0] != seen[1][0]


def test_mse_keeps_a_bounded_sample():
    observer = MseObserver()
    observer(torch.rand(40, 8, 32, 32))
    assert sum(len(part) for part in observer._samples) <= 2 * observer.samples_per_batch


@OBSERVERS
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_nan_and_infinity_in_any_batch_are_told(observer, bad, place):
    seen = observer()
    for index in range(3):
        x = torch.rand(2, 5)
        if index == place or place == 3:
            x[1, 2] = bad
        seen(x)
    with pytest.raises(DataError, match="NaN or infinite"):
        seen.affine(8)


@OBSERVERS
def test_nothing_seen_is_told(observer):
    with pytest.raises(DataError, match="at least one batch"):
        observer().affine(8)


@OBSERVERS
def test_zeros_have_a_grid(observer):
    seen = observer()
    seen(torch.zeros(2, 3))
    scale, zero_point = seen.affine(4)
    assert scale > 0
    assert -8 <= zero_point <= 7


@OBSERVERS
def test_half_precision_is_seen(observer):
    seen = observer()
    seen(torch.tensor([[0.0, 2.55]], dtype=torch.bfloat16))
    assert seen.affine(8)[0] == pytest.approx(0.01, rel=0.01)
