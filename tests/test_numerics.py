"""Grids, rounding and scales."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quant_cases import BITS, GRIDS, scales_for, weights

from sigmaquant import numerics
from sigmaquant.errors import PlanError
from sigmaquant.numerics import (
    SCALE_FLOOR,
    activation_range,
    affine_from_range,
    dequantize_activation,
    dequantize_weight,
    fake_quantize_activation,
    fake_quantize_weight,
    mse_weight_scales,
    quantize_activation,
    quantize_weight,
    weight_qmax,
)

QUICK = settings(max_examples=60, deadline=None)


def errors(weight, scale, bits, axis=0, importance=None, midrise=False):
    """Squared error of each channel, in float64."""
    codes = quantize_weight(weight, scale, bits, axis, midrise)
    difference = (dequantize_weight(codes, scale, axis) - weight).double() ** 2
    if importance is not None:
        difference = difference * importance.double()
    return difference.movedim(axis, 0).flatten(1).sum(1)


@given(weights(), BITS, st.data())
@QUICK
def test_weight_codes_stay_in_the_narrow_range(weight, bits, data):
    axis = data.draw(st.integers(0, weight.dim() - 1))
    scale = data.draw(scales_for(weight.shape[axis], float(weight.abs().max())))
    codes = quantize_weight(weight, scale, bits, axis)
    assert codes.dtype == torch.int8
    assert codes.shape == weight.shape
    assert int(codes.abs().max()) <= 2 ** (bits - 1) - 1


@given(weights(), st.integers(2, 4), st.data())
@QUICK
def test_midrise_codes_are_the_nearest_odd_numbers(weight, bits, data):
    scale = data.draw(scales_for(weight.shape[0], float(weight.abs().max())))
    codes = quantize_weight(weight, scale, bits, 0, True)
    levels = torch.arange(-(2**bits) + 1, 2**bits, 2)
    assert len(levels) == 2**bits
    assert torch.isin(codes, levels.to(torch.int8)).all()
    ratio = weight / scale.view(-1, *[1] * (weight.dim() - 1))
    distance = (ratio.double()[..., None] - levels).abs().amin(-1)
    # float32 cannot tell a ratio of 1e-9 from 0, which is as near to -1 as to 1
    assert bool(((ratio.double() - codes).abs() <= distance + 2e-7).all())


def test_midrise_needs_few_bits():
    with pytest.raises(PlanError, match="at most 7 bits"):
        weight_qmax(8, midrise=True)


@given(weights(), GRIDS, st.data())
@QUICK
def test_fake_quantized_weight_is_the_dequantized_code_exactly(weight, grid, data):
    bits, midrise = grid
    axis = data.draw(st.integers(0, weight.dim() - 1))
    scale = data.draw(scales_for(weight.shape[axis], float(weight.abs().max())))
    expected = dequantize_weight(quantize_weight(weight, scale, bits, axis, midrise), scale, axis)
    assert torch.equal(fake_quantize_weight(weight, scale, bits, axis, midrise), expected)


@given(weights(), BITS, st.floats(1e-3, 10), st.data())
@QUICK
def test_fake_quantized_activation_is_the_dequantized_code_exactly(x, bits, scale, data):
    qmin, qmax = activation_range(bits)
    zero_point = data.draw(st.integers(qmin, qmax))
    step = torch.tensor([scale])
    codes = quantize_activation(x, step, zero_point, bits)
    assert codes.dtype == torch.int8
    assert qmin <= int(codes.min()) <= int(codes.max()) <= qmax
    expected = dequantize_activation(codes, step, zero_point)
    assert torch.equal(fake_quantize_activation(x, step, zero_point, bits), expected)


@pytest.mark.parametrize(("value", "code"), [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (-2.5, -2)])
def test_rounds_half_to_even(value, code):
    x, scale = torch.tensor([[value * 0.25]]), torch.tensor([0.25])
    assert quantize_weight(x, scale, 8).item() == code
    assert quantize_activation(x, scale, 0, 8).item() == code
    assert fake_quantize_weight(x, scale, 8).item() == code * 0.25
    assert fake_quantize_activation(x, scale, 0, 8).item() == code * 0.25


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), BITS)
@QUICK
def test_zero_is_on_every_activation_grid(one, other, bits):
    scale, zero_point = affine_from_range(min(one, other), max(one, other), bits)
    qmin, qmax = activation_range(bits)
    assert qmin <= zero_point <= qmax
    assert scale >= SCALE_FLOOR
    zero = fake_quantize_activation(torch.zeros(1, 1), torch.tensor([scale]), zero_point, bits)
    assert zero.item() == 0.0


@given(st.floats(-100, 0), st.floats(0.01, 100), BITS)
@QUICK
def test_affine_grid_reaches_the_range_to_half_a_step(low, high, bits):
    scale, zero_point = affine_from_range(low, high, bits)
    x = torch.tensor([[low, high]])
    error = (fake_quantize_activation(x, torch.tensor([scale]), zero_point, bits) - x).abs().max()
    assert float(error) <= scale * 0.5 * (1 + 1e-3) + 1e-6


@pytest.mark.parametrize("bits", [1, 9, 0, -4, 4.0, True])
def test_other_bitwidths_are_refused(bits):
    for call in (weight_qmax, activation_range):
        with pytest.raises(PlanError, match=r"2\.\.8"):
            call(bits)


@given(weights(), GRIDS, st.booleans(), st.data())
@QUICK
def test_mse_scales_beat_every_clipping_ratio(weight, grid, weighted, data):
    bits, midrise = grid
    qmax = weight_qmax(bits, midrise)
    axis = data.draw(st.integers(0, weight.dim() - 1))
    importance = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) if weighted else None
    found = mse_weight_scales(weight, bits, axis, importance, midrise)
    assert found.shape == (weight.shape[axis],)
    assert float(found.min()) >= SCALE_FLOOR
    reached = errors(weight, found, bits, axis, importance, midrise)
    largest = weight.movedim(axis, 0).flatten(1).abs().amax(1).clamp_min(SCALE_FLOOR * qmax)
    for ratio in (*numerics._CLIP_RATIOS.tolist(), 1.0):
        naive = errors(weight, (largest * ratio / qmax).clamp_min(SCALE_FLOOR), bits, axis, importance, midrise)
        assert bool((reached <= naive * (1 + 1e-4) + 1e-30).all()), f"ratio {ratio}: {reached} above {naive}"


def test_mse_scales_are_a_fixed_point_of_least_squares():
    weight = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    scale = mse_weight_scales(weight, 3)
    codes = quantize_weight(weight, scale, 3).float()
    best = (weight * codes).sum(1) / codes.square().sum(1)
    assert bool((errors(weight, scale, 3) <= errors(weight, best, 3) * 1.02).all())
    assert torch.allclose(scale, best, rtol=0.05)


def test_zero_and_vanishing_channels_get_the_floor():
    weight = torch.zeros(3, 4)
    weight[1], weight[2] = 1.0, SCALE_FLOOR / 2
    for bits in range(2, 9):
        scale = mse_weight_scales(weight, bits)
        assert scale[0] == SCALE_FLOOR
        assert float(scale.min()) >= SCALE_FLOOR
        assert scale[1] == pytest.approx(1 / weight_qmax(bits), rel=1e-6)
        assert not quantize_weight(weight, scale, bits)[0].any()


@pytest.mark.parametrize("bits", [2, 8])
def test_scales_just_above_the_floor_do_not_fall_below_it(bits):
    weight = torch.full((1, 4), SCALE_FLOOR * weight_qmax(bits) * 1.5)
    weight[0, 1:] /= 4  # clipping pays
    assert float(mse_weight_scales(weight, bits)) >= SCALE_FLOOR


def test_transposed_convolutions_have_their_channels_on_axis_1():
    weight = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    along = mse_weight_scales(weight, 4, axis=1)
    assert torch.equal(along, mse_weight_scales(weight.transpose(0, 1).contiguous(), 4))
    swapped = quantize_weight(weight.transpose(0, 1), along, 4).transpose(0, 1)
    assert torch.equal(quantize_weight(weight, along, 4, axis=1), swapped)


@pytest.mark.parametrize("chunk", [1, 7, 20, 64])
def test_chunks_change_no_scale(monkeypatch, chunk):
    generator = torch.Generator().manual_seed(0)
    weight, importance = torch.randn(9, 10, generator=generator), torch.rand(9, 10, generator=generator)
    whole = mse_weight_scales(weight, 3), mse_weight_scales(weight, 3, importance=importance)
    monkeypatch.setattr(numerics, "_CHUNK_ELEMENTS", chunk)
    assert torch.equal(mse_weight_scales(weight, 3), whole[0])
    assert torch.equal(mse_weight_scales(weight, 3, importance=importance), whole[1])


def test_importance_protects_what_matters():
    weight = torch.tensor([[1.0, 0.3, 0.31, -0.29, 0.3, -0.3]])
    plain = mse_weight_scales(weight, 2)
    outlier = mse_weight_scales(weight, 2, importance=torch.tensor([[100.0, 1, 1, 1, 1, 1]]))
    rest = mse_weight_scales(weight, 2, importance=torch.tensor([[0.0, 1, 1, 1, 1, 1]]))
    assert float(rest) == pytest.approx(0.3, abs=0.01)  # as if the outlier were not there
    assert float(outlier) > 0.9
    assert float(rest) <= float(plain) <= float(outlier)
    assert torch.equal(mse_weight_scales(weight, 2, importance=torch.ones(1, 6)), plain)


def test_a_scale_for_every_magnitude_is_finite():
    for exponent in (-37, -20, 0, 20, 37):
        scale = mse_weight_scales(torch.full((1, 3), 10.0**exponent), 4)
        assert math.isfinite(float(scale))
        assert float(scale) > 0
