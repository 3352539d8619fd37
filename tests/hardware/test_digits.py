"""Digits of integers, against their definitions."""

from __future__ import annotations

import itertools

import pytest
import torch

from sigmaquant.hardware.digits import cycles_of, digit_statistics, nonzero_digits
from sigmaquant.hardware.profile import CycleRule


def fewest_signed_digits(code, width=9):
    """By exhaustion: the fewest digits of {-1, 0, 1} that make the code."""
    best = {0: 0}
    for position in range(width):
        for value, count in list(best.items()):
            for digit in (-1, 1):
                reached = value + digit * 2**position
                best[reached] = min(best.get(reached, width), count + 1)
    return best[code]


def test_csd_has_the_fewest_signed_digits():
    for code in range(-128, 128):
        assert nonzero_digits(code, "csd", 8) == fewest_signed_digits(code), code


@pytest.mark.parametrize("bits", range(2, 9))
def test_binary_digits_are_the_ones_of_the_two_s_complement(bits):
    for code in range(-(2 ** (bits - 1)), 2 ** (bits - 1)):
        ones = [int(c) for c in format(code % 2**bits, f"0{bits}b")]
        value = -ones[0] * 2 ** (bits - 1) + sum(o * 2 ** (bits - 2 - i) for i, o in enumerate(ones[1:]))
        assert value == code
        assert nonzero_digits(code, "binary", bits) == sum(ones)


@pytest.mark.parametrize("bits", range(2, 9))
def test_booth_digits_recode_the_value(bits):
    width = (bits + 1) // 2
    tables = {
        sum(d * 4**i for i, d in enumerate(digits)): sum(d != 0 for d in digits)
        for digits in itertools.product((-2, -1, 0, 1, 2), repeat=width)
    }
    for code in range(-(2 ** (bits - 1)), 2 ** (bits - 1)):
        assert code in tables
        assert nonzero_digits(code, "booth4", bits) >= tables[code] * (width == 1)
        assert nonzero_digits(code, "booth4", bits) <= width
    assert nonzero_digits(0, "booth4", bits) == nonzero_digits(0, "csd", bits) == 0


def test_means_are_over_all_weights():
    codes = torch.tensor([[0, 1], [3, -3]], dtype=torch.int8)
    found = digit_statistics(codes, "csd", 3, CycleRule(rule="digits"))
    assert found.digits_per_mac == (0 + 1 + 2 + 2) / 4
    assert found.cycles_per_mac == (1 + 1 + 2 + 2) / 4


def test_cycles_follow_the_rule_and_its_minimum():
    assert cycles_of(0, 8, CycleRule(rule="digits", minimum=0)) == 0
    assert cycles_of(3, 8, CycleRule(rule="digits")) == 3
    assert cycles_of(3, 8, None) == 1
