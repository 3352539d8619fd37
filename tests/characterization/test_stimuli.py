"""Weights and activations for the measurements."""

from __future__ import annotations

import numpy as np
import pytest

from sigmaquant.characterization.mac_units import MAC_UNITS, find_unit
from sigmaquant.characterization.stimuli import DOT_LENGTH, LayerSample, build_stimulus, quantize_rows
from sigmaquant.errors import DataError


def build(name, bits=4, activation_bits=8, streams=64, steps=300, **more):
    return build_stimulus(
        find_unit(name), bits, activation_bits, streams=streams, steps=steps, lanes=16, seed=3, **more
    )


@pytest.mark.parametrize("name", sorted(MAC_UNITS))
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_codes_are_symmetric_and_dot_products_have_their_length(name, bits):
    stimulus = build(name, bits)
    unit = find_unit(name)
    assert stimulus.weights.shape == (64, 300, unit.weights_per_step(16))
    assert stimulus.activations.shape == (64, 300, 16)
    limit = (1 << bits - 1) - 1
    assert (stimulus.weights.min(), stimulus.weights.max()) == (-limit, limit)
    assert stimulus.activations.min() == 0
    assert stimulus.activations.max() == 127
    length = DOT_LENGTH // unit.macs_per_result(16)
    begins = [np.flatnonzero(row)[1:] for row in stimulus.first]
    assert {int(gap) for row in begins for gap in np.diff(row)} == {length}
    assert len({int(row[0]) % length for row in begins}) > 5  # not in step
    assert 0 <= stimulus.delay.min() <= stimulus.delay.max() < bits


@pytest.mark.parametrize("name", ["csd_lanes", "booth4_lanes", "shift_add_lanes", "bit_plane_dot"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_second_stimulus_has_clearly_fewer_digits(name, bits):
    unit = find_unit(name)
    digits = [unit.step_digits(build(name, bits, sparse=sparse).weights, bits).mean() for sparse in (False, True)]
    assert digits[1] < 0.85 * digits[0]


def test_four_bit_activations_stay_within_their_bits():
    assert build("int8_lanes", activation_bits=4).activations.max() == 7


def test_the_seed_decides():
    one, two = build("csd_lanes"), build("csd_lanes")
    assert (one.weights == two.weights).all()
    assert (one.activations == two.activations).all()
    other = build_stimulus(find_unit("csd_lanes"), 4, 8, streams=64, steps=300, lanes=16, seed=4)
    assert (one.weights != other.weights).any()


def test_quantized_rows_have_a_scale_each():
    codes = quantize_rows(np.array([[0.1, -0.2, 0.4], [10.0, -20.0, 40.0]]), 8)
    assert (codes[0] == codes[1]).all()
    assert codes[0, 2] == 127


def test_lanes_take_a_channels_weights_and_neighbouring_positions():
    weight = np.arange(1.0, 11.0).reshape(2, 5)
    inputs = np.arange(100.0).reshape(20, 5)
    stimulus = build("int8_lanes", 8, steps=60, samples=[LayerSample(weight, inputs)])
    rows, columns = quantize_rows(weight, 8), quantize_rows(inputs.reshape(1, -1), 8).reshape(20, 5)
    for stream in range(4):
        begins = np.flatnonzero(stimulus.first[stream])
        start = begins[1]
        assert stimulus.weights[stream, start : start + 5, 0].tolist() in rows.tolist()
        part = stimulus.activations[stream, start : start + 5].T
        place = columns.tolist().index(part[0].tolist())
        assert part.tolist() == np.roll(columns, -place, 0)[:16].tolist()
        assert set(np.diff(begins[1:])) == {5}


def test_dot_products_are_padded_with_zeros():
    weight, inputs = np.ones((1, 20)), np.ones((3, 20))
    stimulus = build("int8_dot", 8, steps=30, samples=[LayerSample(weight, inputs)])
    start = np.flatnonzero(stimulus.first[0])[1]
    assert stimulus.weights[0, start : start + 2].tolist() == [[127] * 16, [127] * 4 + [0] * 12]
    assert stimulus.activations[0, start + 1, 4:].tolist() == [0] * 12


@pytest.mark.parametrize(
    ("weight", "inputs", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), r"sample 0: weight \(2, 3\) and inputs \(2, 4\)"),
        (np.ones((0, 3)), np.ones((2, 3)), r"not empty"),
        (np.ones(3), np.ones((2, 3)), r"must be \[O, K\] and \[N, K\]"),
        (np.full((1, 3), np.nan), np.ones((2, 3)), r"sample 0 has values that are not finite"),
    ],
)
def test_samples_that_cannot_be_used_are_named(weight, inputs, message):
    with pytest.raises(DataError, match=message):
        build("int8_dot", samples=[LayerSample(weight, inputs)])
