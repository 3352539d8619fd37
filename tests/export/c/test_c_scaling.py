"""Sums to codes in one multiplication, against the formula in exact integers."""

from __future__ import annotations

import ctypes
import subprocess
from importlib import resources

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

SOURCE = """
#include "sq_fixed.h"

int32_t finished(int32_t sum, int32_t gain, int32_t bias, int32_t mantissa, uint8_t shift, int32_t zero, int32_t *code);
int32_t finished(int32_t sum, int32_t gain, int32_t bias, int32_t mantissa, uint8_t shift, int32_t zero, int32_t *code)
{
    const sq_layer layer = {0, 0, 8, 0, gain, &bias, &mantissa, &shift, 0, zero, -128, 127};
    int32_t rest = 0;
    const sq_scaling scaling = sq_scaling_of(&layer, 0, sq_gain_bits(&layer), &rest);
    int16_t scratch[SQ_SCALING];
    sq_put_scaling(scratch, &scaling);
    const sq_scaling back = sq_get_scaling(scratch);
    if (back.shift < 0) {
        const sq_channel channel = sq_channel_of(&layer, 0);
        *code = sq_finish(&layer, &channel, sum);
        return 0;
    }
    *code = sq_scaled(&back, sum * rest); /* as if the codes had been multiplied */
    return rest;
}
"""
int32 = st.integers(-(2**31), 2**31 - 1)


@pytest.fixture(scope="module")
def library(objects, tmp_path_factory) -> ctypes.CDLL:
    """What the kernels do with one sum; undefined behaviour ends it."""
    folder = tmp_path_factory.mktemp("scaling")
    (folder / "scaling.c").write_text(SOURCE)
    with resources.as_file(resources.files("sigmaquant.export.c").joinpath("kernels")) as kernels:
        command = ["gcc", "-std=c99", "-O1", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", "-fPIC"]
        command += ["-shared", "-I", str(kernels), str(folder / "scaling.c"), str(kernels / "sq_fixed.c")]
        subprocess.run([*command, "-o", str(folder / "scaling.so")], check=True)
    return ctypes.CDLL(str(folder / "scaling.so"))


def finished(library, total: tuple[int, int, int], mantissa: int, shift: int, zero: int) -> tuple[int, int]:
    code = ctypes.c_int32()
    rest = library.finished(*total, mantissa, ctypes.c_uint8(shift), zero, ctypes.byref(code))
    return rest, code.value


@settings(deadline=None, max_examples=1000)
@given(int32, st.integers(0, 6), int32, st.integers(2**30, 2**31 - 1), st.integers(1, 62), st.integers(-128, 127))
@example(2**31 - 1, 0, 0, 2**31 - 1, 54, 127)
@example(-(2**31), 0, 0, 2**31 - 1, 54, -128)
@example(1, 6, -64, 2**30, 32, 5)
@example(1, 6, -63, 2**30, 38, 5)
@example(-1, 3, 7, 2**30, 33, 0)
def test_codes_are_those_of_exact_integers(library, total, bits, bias, mantissa, shift, zero):
    gain = 1 << bits
    total_sum = (total - bias) // gain  # such that sum * gain + bias fits, as the model says
    value = total_sum * gain + bias
    assume(-(2**31) <= value < 2**31 and abs(total_sum * gain) < 2**31)
    exact = zero + ((value * mantissa + (1 << (shift - 1))) >> shift)
    rest, code = finished(library, (total_sum, gain, bias), mantissa, shift, zero)
    assert code == max(-128, min(127, exact))
    assert (rest > 0) == (32 <= shift <= 54)


def test_a_factor_of_zero_gives_the_zero_point(library):
    assert finished(library, (12345, 4, -7), 0, 1, -9) == (1, -9)


@pytest.mark.parametrize(("shift", "rest"), [(31, 0), (32, 64), (35, 8), (38, 1), (54, 1), (55, 0)])
def test_the_shift_takes_as_much_of_the_gain_as_it_can(library, shift, rest):
    assert finished(library, (3, 64, 0), 2**30, shift, 0)[0] == rest
