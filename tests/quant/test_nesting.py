"""Nested codes, and rounding for several plans at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sigmaquant.numerics import fake_quantize_weight, mse_weight_scales, quantize_weight, weight_qmax
from sigmaquant.quant.nested_rounding import fitted_scales, round_together
from sigmaquant.quant.nesting import (
    LevelGrid,
    cells,
    codes_of,
    fake_quantize_nested,
    is_nested_midrise,
    levels_of,
    narrowed,
    nested_scales,
)

PAIRS = [(wide, narrow) for wide in range(2, 9) for narrow in range(2, wide)]


def all_codes(bits: int) -> Tensor:
    if is_nested_midrise(bits):
        qmax = weight_qmax(bits, midrise=True)
        return torch.arange(-qmax, qmax + 1, 2, dtype=torch.int16).to(torch.int8)
    return torch.cat([torch.arange(-127, 0), torch.arange(1, 128)]).to(torch.int8)


@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_and_codes_are_inverse(bits):
    codes = all_codes(bits)
    levels = levels_of(codes, bits)
    assert int(levels.max()) < 2**bits
    assert torch.equal(codes_of(levels, bits), codes)


@pytest.mark.parametrize(("wide", "narrow"), PAIRS)
def test_a_narrower_code_is_the_mean_of_its_cell(wide, narrow):
    """In steps of the narrower grid; of 8 bits, whose codes have no zero, to half a step of the 8 bits."""
    codes = all_codes(wide)
    kept = narrowed(codes, wide, narrow)
    assert set(kept.tolist()) == set(all_codes(narrow).tolist())
    step = 2.0 ** (wide - narrow) / (1 if is_nested_midrise(wide) else 2)
    for code in kept.unique():
        mean = codes[kept == code].float().mean()
        allowed = 0.0 if is_nested_midrise(wide) else 1.0
        assert abs(float(mean) - float(code) * step) <= allowed


@pytest.mark.parametrize(("wide", "narrow"), PAIRS)
def test_signs_may_flip(wide, narrow):
    """A negative BatchNorm flips signs of codes: the planes of both must agree on it."""
    codes = all_codes(wide)
    assert torch.equal(narrowed(-codes, wide, narrow), -narrowed(codes, wide, narrow))


@pytest.mark.parametrize(("wide", "narrow"), PAIRS)
def test_cells_hold_what_narrows_to_their_code(wide, narrow):
    codes = all_codes(wide)
    low, high = cells(narrowed(codes, wide, narrow), narrow, wide)
    assert bool(((low <= codes) & (codes <= high)).all())
    for edge in (low, high):
        assert torch.equal(narrowed(edge, wide, narrow), narrowed(codes, wide, narrow))


@pytest.mark.parametrize("bits", [(8, 8, 8), (8, 4, 2), (7, 5, 3), (6, 6, 2), (4, 3, 3)])
@pytest.mark.parametrize("groups", [1, 2])
def test_rounding_together_gives_nested_codes(bits, groups):
    rows, moments = problem(groups)
    scales = scales_of(rows, bits)
    codes = round_together(rows, scales, moments, bits, block=5)
    for wide, narrow, b, fewer in zip(codes, codes[1:], bits, bits[1:], strict=False):
        assert torch.equal(narrowed(wide.to(torch.int8), b, fewer), narrow.to(torch.int8))
    whole = round_together(rows, scales, moments, bits, block=64)
    assert all((one == other).float().mean() > 0.98 for one, other in zip(codes, whole, strict=True))


def test_rounding_together_serves_every_plan():
    """The narrowest plan is nearly as good as one rounded for itself, and each wider one better than it."""
    bits = (6, 4, 2)
    rows, moments = problem(1)
    scales = scales_of(rows, bits)
    together = round_together(rows, scales, moments, bits)
    before = torch.inf
    for k, b in reversed(list(enumerate(bits))):
        alone = round_together(rows, scales[k : k + 1], moments[k : k + 1], (b,))[0]
        of_widest = narrowed(round_together(rows, scales[:1], moments[:1], bits[:1])[0].to(torch.int8), 6, b).float()
        found, best, cut = (
            harm(rows, codes, moments[k], fitted_scales(rows, codes, moments[k], scales[k]))
            for codes in (together[k], alone, of_widest)
        )
        assert found < 0.7 * before
        before = found
        if b == 2:
            assert found < 1.5 * best
            assert found < 0.7 * cut


def test_fitted_scales_never_harm():
    rows, moments = problem(1)
    scale = mse_weight_scales(rows[0], 3, midrise=True)[None]
    codes = LevelGrid(3).codes(LevelGrid(3).nearest(rows / scale[:, :, None]))
    assert harm(rows, codes, moments[0], fitted_scales(rows, codes, moments[0], scale)) <= harm(
        rows, codes, moments[0], scale
    )


def problem(groups: int) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(groups, 12, 40, generator=generator)
    moments = []
    for _ in range(3):
        mixed = torch.randn(groups, 200, 40, generator=generator) @ (
            torch.eye(40) + 0.3 * torch.randn(40, 40, generator=generator)
        )
        moments.append(mixed.transpose(1, 2) @ mixed)
    return rows, moments


def scales_of(rows: Tensor, bits: tuple[int, ...]) -> list[Tensor]:
    flat = rows.flatten(0, 1)
    narrow = is_nested_midrise(bits[-1])
    found = [mse_weight_scales(flat, bits[-1], midrise=narrow)]
    codes = quantize_weight(flat, found[0], bits[-1], midrise=narrow)
    for wider in reversed(bits[:-1]):
        found.insert(0, nested_scales(flat, codes, found[-1], bits[-1], wider))
    return [scale.reshape(rows.shape[:2]) for scale in found]


def harm(rows: Tensor, codes: Tensor, moment: Tensor, scale: Tensor) -> float:
    error = codes * scale[:, :, None] - rows
    return float((error @ moment * error).sum())


def test_the_widest_plan_trains_like_any_quantized_weight():
    """Gradients of weight and scale are those of `fake_quantize_weight`; a narrower plan's scale sees its codes."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 30, generator=generator)
    seen = torch.randn(4, 30, generator=generator)
    scale = mse_weight_scales(start, 4, midrise=True)
    found = []
    for nested in (True, False):
        weight, step = start.clone().requires_grad_(), scale.clone().requires_grad_()
        grid = LevelGrid(4)
        if nested:
            result = fake_quantize_nested(weight, step, step, grid, grid)
        else:
            result = fake_quantize_weight(weight, step, 4, midrise=True)
        (result * seen).sum().backward()
        found.append((result.detach(), weight.grad, step.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    weight, own = start.clone().requires_grad_(), (4 * scale).requires_grad_()
    narrow = fake_quantize_nested(weight, own, scale, LevelGrid(4), LevelGrid(2))
    codes = narrowed(quantize_weight(start, scale, 4, midrise=True), 4, 2).float()
    assert torch.allclose(narrow, codes * own[:, None])
    (narrow * seen).sum().backward()
    assert torch.allclose(own.grad, (seen * codes).sum(1) / (3 * 30) ** 0.5, atol=1e-5)
