"""Straight-through and scale gradients against LSQ's formulas (Esser et al., ICLR 2020), written with NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quant_cases import BITS, GRIDS

from sigmaquant.numerics import activation_range, fake_quantize_activation, fake_quantize_weight, weight_qmax

QUICK = settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 2**31)


def lsq(v, s, low, high, edge):
    """LSQ's derivatives of one element: of the fake-quantized value by v and by s. Inside reaches `edge` beyond."""
    inside = (v / s >= low - edge) & (v / s <= high + edge)
    by_scale = np.where(inside, np.round(v / s) - v / s, np.clip(v / s, low, high))
    return inside, by_scale


def noise(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(SEEDS, GRIDS, st.integers(0, 2))
@QUICK
def test_weight_gradients_follow_lsq(seed, grid, axis):
    bits, midrise = grid
    shape, qmax = (3, 4, 5), weight_qmax(bits, midrise)
    weight, grad = noise(shape, seed), noise(shape, seed + 1)
    scale = (torch.rand(shape[axis], generator=torch.Generator().manual_seed(seed)) + 0.5) / qmax
    weight.requires_grad_()
    scale.requires_grad_()
    fake_quantize_weight(weight, scale, bits, axis, midrise).backward(grad)

    v, g = weight.detach().double().numpy(), grad.double().numpy()
    s = scale.detach().double().numpy().reshape([-1 if d == axis else 1 for d in range(3)])
    inside, by_scale = lsq(v, s, -qmax, qmax, 0.0)
    if midrise:
        nearest = np.clip(2 * np.round((v / s - 1) / 2) + 1, -qmax, qmax)
        by_scale = nearest - v / s * inside
    per_channel = v.size // shape[axis]
    others = tuple(d for d in range(3) if d != axis)
    expected = (g * by_scale).sum(axis=others) / np.sqrt(per_channel * qmax)
    np.testing.assert_array_equal(weight.grad.numpy(), (g * inside).astype(np.float32))
    np.testing.assert_allclose(scale.grad.numpy(), expected, rtol=1e-4, atol=1e-5)


def activation(seed, shape, bits, zero_point, stride, dtype=torch.float32):
    qmin, qmax = activation_range(bits)
    x = (noise(shape, seed) + 0.3).to(dtype).requires_grad_()
    scale = torch.tensor([2.5 / (qmax - qmin)], requires_grad=True)
    grad = noise(shape, seed + 1).to(dtype)
    y = fake_quantize_activation(x, scale, zero_point, bits, stride)
    y.backward(grad)
    v, g, s = x.detach().double().numpy(), grad.double().numpy(), float(scale.detach())
    low, high = qmin - zero_point, qmax - zero_point
    # half a step beyond the bounds still rounds to them: those values stay trainable
    inside, by_scale = lsq(v, s, low, high, 0.5)
    factor = 1 / np.sqrt(np.prod(shape[1:]) * max(high, -low))
    return x, scale, y, g * inside, g * by_scale * factor


@given(SEEDS, BITS, st.data())
@QUICK
def test_activation_gradients_follow_lsq(seed, bits, data):
    zero_point = data.draw(st.integers(*activation_range(bits)))
    x, scale, _, grad_x, grad_scale = activation(seed, (4, 3, 5), bits, zero_point, stride=1)
    np.testing.assert_array_equal(x.grad.numpy(), grad_x.astype(np.float32))
    np.testing.assert_allclose(scale.grad.item(), grad_scale.sum(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 5, 8, 11, 16])
def test_every_eighth_example_estimates_the_scale_gradient_without_bias(batch):
    x, grad = noise((batch, 12), 0), noise((batch, 12), 1)

    def gradient(shift, stride):
        scale = torch.tensor([0.1], requires_grad=True)
        fake_quantize_activation(x.roll(shift, 0), scale, 3, 4, stride).backward(grad.roll(shift, 0))
        return scale.grad.item()

    estimates = [gradient(shift, stride=8) for shift in range(batch)]  # each example leads once
    assert np.mean(estimates) == pytest.approx(gradient(0, stride=1), rel=1e-4)
    if batch > 8:
        assert np.ptp(estimates) > 0


def test_the_scale_gradient_is_a_derivative():
    """Central differences of the fake-quantized sum, where no value crosses a rounding boundary."""
    x = torch.tensor([[0.31, 0.62, 5.0, -7.0]], dtype=torch.float64)
    scale = torch.tensor([0.1], dtype=torch.float64, requires_grad=True)

    def clipped(step):  # values beyond the range follow the scale, all others only by their rounding error
        return float(fake_quantize_activation(x[:, 2:], torch.tensor([step], dtype=torch.float64), 0, 4).sum())

    fake_quantize_activation(x[:, 2:], scale, 0, 4, 1).sum().backward()
    numeric = (clipped(0.1 + 1e-6) - clipped(0.1 - 1e-6)) / 2e-6
    assert scale.grad.item() == pytest.approx(numeric * (8 * 2) ** -0.5, rel=1e-4)


def test_bfloat16_stays_on_its_grid_and_has_gradients():
    x, scale, y, grad_x, grad_scale = activation(3, (16, 8), 8, -20, stride=1, dtype=torch.bfloat16)
    assert y.dtype == x.grad.dtype == torch.bfloat16
    assert scale.grad.dtype == torch.float32
    agree = (x.grad.double().numpy() == grad_x).mean()
    assert agree > 0.97  # the scale's own rounding may move a value across a bound
    step = float(scale.detach().bfloat16())
    codes = y.detach().double() / step
    assert float((codes - codes.round()).abs().max()) < 0.5
    np.testing.assert_allclose(scale.grad.item(), grad_scale.sum(), rtol=0.2, atol=0.05)


@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_format_is_kept(channels_last):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = noise((3, 4, 5, 6), 0).contiguous(memory_format=layout).requires_grad_()
    y = fake_quantize_activation(x, torch.tensor([0.1], requires_grad=True), 0, 8)
    assert y.is_contiguous(memory_format=layout)
    y.backward(torch.ones(3, 4, 5, 6))  # a gradient of the other format
    assert x.grad.is_contiguous(memory_format=layout)
    weight = noise((3, 4, 5, 6), 1).contiguous(memory_format=layout)
    assert fake_quantize_weight(weight, torch.full((3,), 0.1), 4).is_contiguous(memory_format=layout)


def test_the_next_operator_may_overwrite_the_output():
    x = noise((4, 6), 0).requires_grad_()
    scale = torch.tensor([0.05], requires_grad=True)
    plain = torch.relu(fake_quantize_activation(x, scale, 0, 4, 1))
    plain.sum().backward()
    expected, x.grad, scale.grad = (x.grad, scale.grad), None, None
    torch.relu_(fake_quantize_activation(x, scale, 0, 4, 1).view(-1)).sum().backward()
    assert torch.equal(x.grad, expected[0])
    assert torch.equal(scale.grad, expected[1])


def test_frozen_inputs_get_no_gradient():
    scale = torch.tensor([0.1], requires_grad=True)
    fake_quantize_activation(noise((2, 3), 0), scale, 0, 8).sum().backward()
    assert scale.grad is not None
