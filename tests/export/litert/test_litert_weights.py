"""Weights in their containers: types, bytes, scales and biases to the bit, at every width and on both grids."""

from __future__ import annotations

import numpy as np
import pytest
from litert_cases import Call, lowered, noise, read, steps
from torch import nn

from sigmaquant.export.litert import LitertRunner, export_litert, litert_form
from sigmaquant.lowering import IntegerExecutor

pytest.importorskip("ai_edge_litert")

LAYERS = {
    "convolution": (nn.Conv2d(6, 7, 3, padding=1), (6, 5, 5)),
    "1x1": (nn.Conv2d(8, 7, 1), (8, 5, 5)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6), (6, 5, 5)),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2), (6, 5, 5)),
    "linear": (nn.Linear(12, 7), (12,)),
    "even rows": (nn.Linear(10, 7), (10,)),
    "odd rows": (nn.Linear(9, 7), (9,)),
}
GRIDS = [(bits, False) for bits in range(2, 9)] + [(bits, True) for bits in (2, 3, 4)]
SMALLEST = {(2, False): 2, (2, True): 4, (3, False): 4, (3, True): 4, (4, False): 4}
"""The narrowest type that holds the codes of a grid, where it is not int8."""


def expected_container(kind, bits, midrise):
    smallest = SMALLEST.get((bits, midrise), 8)
    if kind in ("1x1", "linear"):
        return smallest
    if kind == "convolution":
        return max(smallest, 4)
    return max(smallest, 4) if kind == "even rows" else 8


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("bits", "midrise"), GRIDS)
def test_every_width(kind, bits, midrise, tmp_path):
    layer, shape = LAYERS[kind]
    model = lowered(Call(lambda m, x: m.a(x), a=layer), shape, bits=bits, midrise_up_to=bits if midrise else 0)
    x = noise(16, *shape, seed=5)
    for pack in (True, False):
        container = expected_container(kind, bits, midrise) if pack else 8
        path = tmp_path / f"{pack}.tflite"
        (row,) = export_litert(model, path, pack=pack).layers
        (weighted,) = litert_form(model, pack).weighted
        stored, bias = read(path).tensors["a.weight"], read(path).tensors["a.bias"]
        assert (row.container_bits, stored.kind) == (container, f"INT{container}")
        assert row.weight_bytes == len(stored.data) == -(-weighted.codes.size * container // 8)
        assert row.ideal_bytes == -(-weighted.codes.size * bits // 8)
        codes = stored.integers.astype(int)
        if kind == "depthwise":
            codes = codes.transpose(3, 0, 1, 2)
        elif codes.ndim == 4:
            codes = codes.transpose(0, 3, 1, 2)
        assert np.array_equal(codes.reshape(weighted.codes.shape), weighted.codes.astype(int) * weighted.gain)
        assert np.array_equal(stored.scale * np.float32(weighted.gain), weighted.scale)  # a power of two: exact
        assert not stored.zero_point.any()
        assert stored.axis == (3 if kind == "depthwise" else 0)
        assert stored.shape[stored.axis] == len(weighted.scale)
        assert np.array_equal(bias.integers, weighted.bias)
        unit = np.float32(model.edges[model.inputs[0]].scale) * stored.scale
        np.testing.assert_allclose(bias.scale, unit, rtol=1e-6)
        expected = IntegerExecutor(litert_form(model, pack))(x)
        assert float(steps(LitertRunner(path)(x), expected, model).mean()) < 0.002
        own = steps(LitertRunner(path, xnnpack=False)(x), expected, model)
        assert int(own.max()) <= 1
        # the coarser the unit of the sums, the more often rounding twice goes wrong
        assert float(own.mean()) < {2: 0.4, 4: 0.2, 8: 0.03}[container]


@pytest.mark.parametrize(("bits", "midrise_up_to", "gain"), [(2, 0, 4), (2, 2, 2), (3, 0, 2), (3, 3, 1), (4, 0, 1)])
def test_the_gain_fits_the_container(bits, midrise_up_to, gain):
    network = Call(lambda m, x: m.a(x), a=nn.Conv2d(4, 4, 3))
    model = lowered(network, (4, 6, 6), bits=bits, midrise_up_to=midrise_up_to)
    (before,), (packed_layer,), (plain,) = (m.weighted for m in (model, litert_form(model), litert_form(model, False)))
    assert packed_layer.gain == gain < before.gain == plain.gain
    assert np.array_equal(plain.bias, before.bias)
    # the same bias in another unit, half a unit off at most
    assert np.abs(packed_layer.bias / gain - before.bias / before.gain).max() <= 0.5 / gain
    np.testing.assert_allclose(packed_layer.factor.value * gain, before.factor.value * before.gain, rtol=1e-8)


def test_a_form_has_itself_as_form():
    model = litert_form(lowered(Call(lambda m, x: m.a(x) + x, a=nn.Conv2d(4, 4, 3, padding=1)), (4, 6, 6), bits=4))
    x = noise(4, 4, 6, 6)
    assert IntegerExecutor(litert_form(model))(x).equal(IntegerExecutor(model)(x))


def test_equal_weights_are_stored_and_reported_once(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(400, 400, bias=False)

        def forward(self, x):
            return self.a(self.a(x))

    report = export_litert(lowered(Twice(), (400,), bits=4), tmp_path / "x.tflite")
    assert [(row.name, row.weight_bytes) for row in report.layers] == [("a", 80_000)]
    assert report.weight_bytes == report.ideal_weight_bytes == 80_000
    assert 80_000 < report.file_bytes == (tmp_path / "x.tflite").stat().st_size < 120_000
