"""Factors as integers, against exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sigmaquant.errors import LoweringError
from sigmaquant.operators.fixed_point import common_multipliers, factor

REALS = st.floats(2.0**-30, 2.0**29)
SUMS = st.integers(-(2**31) + 1, 2**31 - 1)


@given(st.lists(REALS, min_size=1, max_size=5))
def test_factors_are_precise_to_31_bits(reals):
    found = factor(np.array(reals), "here")
    assert ((found.mantissa >= 0) & (found.mantissa < 2**31)).all()
    assert ((found.shift >= 1) & (found.shift <= 62)).all()
    np.testing.assert_allclose(found.value, reals, rtol=2.0**-31)


@given(REALS, SUMS)
def test_products_are_rounded_half_up_exactly(real, total):
    found = factor(real, "here")
    exact = Fraction(int(found.mantissa[0]) * total, 2 ** int(found.shift[0]))
    assert found.apply_(torch.tensor([total]), 0).item() == math.floor(exact + Fraction(1, 2))


def test_factors_of_channels_go_along_their_axis():
    found = factor(np.array([1.0, 0.5]), "here")
    sums = torch.tensor([[2, 4, 6], [2, 4, 6]])
    assert found.apply_(sums.clone(), 0).tolist() == [[2, 4, 6], [1, 2, 3]]
    assert found.apply_(sums[:, :2].clone(), 1).tolist() == [[2, 2], [2, 2]]


def test_vanishing_factors_are_zero():
    found = factor(np.array([0.0, 2.0**-70]), "here")
    assert found.apply_(torch.tensor([2**31 - 1, 2**31 - 1]), 0).tolist() == [0, 0]


@pytest.mark.parametrize("real", [-1.0, math.nan, math.inf, 2.0**30])
def test_impossible_factors_are_told(real):
    with pytest.raises(LoweringError, match="layer 'x': the ratio of its scales"):
        factor(real, "layer 'x'")


@given(
    st.lists(st.floats(-64, 64).filter(lambda x: abs(x) > 1e-4), min_size=1, max_size=2),
    st.floats(-(2.0**12), 2.0**12),
)
def test_common_multipliers_are_precise_and_fit_into_32_bits(reals, offset):
    bits = 21 if len(reals) == 1 else 20
    multipliers, constant, shift = common_multipliers(reals, offset, bits, "here")
    assert 1 <= shift <= 30
    assert sum(abs(m) for m in multipliers) * 255 + abs(constant) + 2 ** (shift - 1) < 2**31
    for real, multiplier in zip(reals, multipliers, strict=True):
        assert abs(multiplier / 2**shift - real) <= 2.0 ** -(shift + 1)
    assert abs(constant / 2**shift - offset) <= 2.0 ** -(shift + 1)
    # precise where there is room: at least 15 bits, unless the offset needs them
    # (an offset of zero counts as one below 1, which leaves a shift of 29)
    assert shift >= 29 or max(map(abs, multipliers)) >= 2 ** (bits - 1) or abs(constant) >= 2**28


@pytest.mark.parametrize(
    ("reals", "offset"), [([math.nan], 0.0), ([2.0**25], 0.0), ([1.0], 2.0**40), ([1.0], math.inf)]
)
def test_impossible_multipliers_are_told(reals, offset):
    with pytest.raises(LoweringError, match="sum: the ratios of its scales"):
        common_multipliers(reals, offset, 20, "sum")
