"""Inner loops for codes of -3..3: two rows in one product, at the edge of what their sums can hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from c_cases import SANITIZED, check_codes, compiled, random_codes

from sigmaquant.export.c import export_c
from sigmaquant.lowering import IntegerModel
from sigmaquant.operators import Convolution, Edge
from sigmaquant.operators.fixed_point import factor
from sigmaquant.plan import BitwidthPlan


def model(outputs, inputs, kernel, size, bits, *, codes=None, midrise=False, zero=5, scale=None, padding=0, dilation=1):
    """One convolution over [inputs, 3, size] with random codes, or codes of one value."""
    qmax = 3 if midrise or bits == 3 else 2 ** (bits - 1) - 1
    shape = (outputs, inputs, kernel, kernel)
    generator = np.random.default_rng(0)
    given = generator.choice(np.arange(-qmax, qmax + 1, 2 if midrise else 1), shape)
    operator = Convolution(
        name="layer",
        inputs=("x",),
        output="y",
        layer="layer",
        codes=(given if codes is None else np.full(shape, codes)).astype(np.int8),
        bits=bits,
        midrise=midrise,
        gain=1 << ((127 // qmax).bit_length() - 1),
        scale=np.ones(outputs, dtype=np.float32),
        bias=generator.integers(-1000, 1000, outputs).astype(np.int32),
        factor=factor(np.full(outputs, scale or 1 / (64 * (inputs * kernel**2) ** 0.5)), "layer"),
        low=-128,
        high=127,
        stride=(1, 1),
        padding=((padding, padding),) * 2,
        dilation=(dilation, dilation),
        groups=1,
    )
    height, out = 3 + (kernel - 1) * dilation - 2 * padding, size - (kernel - 1) * dilation + 2 * padding
    edges = {
        "x": Edge("x", (inputs, height, size), 8, 1.0, zero),
        "y": Edge("y", (outputs, 3, out), 8, 1.0, 3),
    }
    return IntegerModel((operator,), edges, ("x",), ("y",), BitwidthPlan({"layer": bits}, {}, "", 2))


@pytest.mark.parametrize(("bits", "midrise"), [(2, True), (3, False)])
@pytest.mark.parametrize(
    ("outputs", "inputs", "kernel", "size", "padding", "dilation"),
    [(8, 5, 3, 9, 1, 1), (7, 3, 3, 6, 1, 1), (5, 16, 1, 7, 0, 1), (4, 3, 3, 8, 2, 2), (1, 2, 1, 3, 0, 1)],
)
def test_codes_are_the_reference_s(
    bits, midrise, outputs, inputs, kernel, size, padding, dilation, sanitized, tmp_path
):
    made = model(outputs, inputs, kernel, size, bits, midrise=midrise, padding=padding, dilation=dilation)
    export_c(made, tmp_path / "c")
    assert "&sq_narrow" in next((tmp_path / "c").glob("model.c")).read_text()
    check_codes(compiled(tmp_path / "c", sanitized, SANITIZED), made, random_codes(made, 3))


@pytest.mark.parametrize("code", [-3, 3])
@pytest.mark.parametrize("zero", [-128, 127])
def test_sums_hold_the_largest_products(code, zero, sanitized, tmp_path):
    made = model(4, 680, 1, 3, 3, codes=code, zero=zero, scale=2e-6)
    export_c(made, tmp_path / "c")
    assert "&sq_narrow" in (tmp_path / "c" / "model.c").read_text()
    extremes = [torch.full((1, 680, 3, 3), value, dtype=torch.int8) for value in (-128, 127)]
    check_codes(compiled(tmp_path / "c", sanitized, SANITIZED), made, [torch.cat(extremes)])


@pytest.mark.parametrize(("inputs", "bits", "midrise"), [(681, 3, False), (16, 3, True), (16, 4, False)])
def test_others_keep_their_loops(inputs, bits, midrise, tmp_path):
    made = model(4, inputs, 1, 3, bits, midrise=midrise, codes=7 if midrise or bits == 4 else None)
    export_c(made, tmp_path / "c")
    assert "&sq_narrow" not in (tmp_path / "c" / "model.c").read_text()


def test_factors_that_take_a_part_of_the_gain_keep_unpacked_rows(sanitized, tmp_path):
    made = model(8, 4, 3, 6, 3, scale=0.3, padding=1)
    export_c(made, tmp_path / "c")
    check_codes(compiled(tmp_path / "c", sanitized, SANITIZED), made, random_codes(made, 2))
