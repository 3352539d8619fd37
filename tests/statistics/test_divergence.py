import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from statistics_cases import resnet20

from sigmaquant.errors import ModelError, PlanError
from sigmaquant.statistics import divergences, weight_divergence
from sigmaquant.statistics.divergence import best_step, expanded_divergence, level_edges, positive_levels, power_sums
from sigmaquant.statistics.histogram import HALF_BINS, SAMPLED, density, weight_histogram

ALL = (2, 3, 4, 5, 6, 7, 8)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


weights = st.builds(
    lambda seed, rows, columns, power: gaussian(rows, columns, seed=seed).abs() ** power * gaussian(rows, columns),
    st.integers(0, 10**6),
    st.integers(1, 12),
    st.integers(1, 80),
    st.sampled_from([0.0, 0.5, 1.0, 3.0]),
)


def test_expanded_divergence_by_hand():
    # Three levels of 2, 3 and 1 bins. Level 1 holds (1/8, 3/8) -> (1/4, 1/4); level 2 holds (1/4, 0, 1/8) -> 3/16 in
    # each of its two bins that are not empty; level 3 is one bin.
    masses = np.array([1 / 8, 3 / 8, 1 / 4, 0, 1 / 8, 1 / 8])
    expected = (
        1 / 8 * math.log((1 / 8) / (1 / 4))
        + 3 / 8 * math.log((3 / 8) / (1 / 4))
        + 1 / 4 * math.log((1 / 4) / (3 / 16))
        + 1 / 8 * math.log((1 / 8) / (3 / 16))
    )
    assert expanded_divergence(masses, np.array([0, 2, 5, 6])) == pytest.approx(expected, abs=1e-15)
    # Levels as fine as bins, levels without a bin, and one level for everything.
    assert expanded_divergence(masses, np.arange(7)) == pytest.approx(0, abs=1e-15)
    assert expanded_divergence(masses, np.array([0, 0, 2, 2, 5, 6])) == pytest.approx(expected, abs=1e-15)
    entropy = -sum(p * math.log(p) for p in masses if p)
    assert expanded_divergence(masses, np.array([0, 6])) == pytest.approx(math.log(5) - entropy, abs=1e-15)


@settings(max_examples=25, deadline=None)
@given(weights)
def test_not_negative_finite_and_gone_when_levels_are_bins(weight):
    d = weight_divergence(weight, ALL)
    assert list(d) == list(ALL)
    assert all(math.isfinite(v) and v >= 0 for v in d.values())
    masses = density(weight_histogram(weight).counts)
    if masses.sum():
        assert masses.sum() == pytest.approx(1)
        assert expanded_divergence(masses, np.arange(len(masses) + 1)) == pytest.approx(0, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(weights, st.integers(0, 100))
def test_order_and_channel_scale_do_not_matter(weight, seed):
    generator = torch.Generator().manual_seed(seed)
    expected = weight_divergence(weight, (2, 4, 8))
    rows = torch.randperm(weight.shape[0], generator=generator)
    columns = torch.randperm(weight.shape[1], generator=generator)
    assert weight_divergence(weight[rows][:, columns], (2, 4, 8)) == expected
    powers = 2.0 ** torch.randint(-20, 20, (weight.shape[0], 1), generator=generator)
    assert weight_divergence(weight * powers, (2, 4, 8)) == expected


def test_any_positive_channel_factor_moves_at_most_the_weights_at_bin_edges():
    weight = gaussian(64, 100)
    factors = torch.rand(64, 1, generator=torch.Generator().manual_seed(1)) + 0.01
    expected = weight_divergence(weight, ALL)
    assert weight_divergence(weight * factors, ALL) == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("shape", [(16, 27), (16, 144), (64, 576), (512, 512)])
@pytest.mark.parametrize("power", [1.0, 2.0], ids=["gaussian", "heavy"])
def test_falls_with_bits_and_tends_to_zero(shape, power):
    weight = gaussian(*shape)
    d = weight_divergence(weight.sign() * weight.abs() ** power, ALL)
    values = [d[bits] for bits in ALL]
    assert all(more > less > 0 for more, less in itertools.pairwise(values))
    # Twice the levels, a quarter of the divergence, as theory has it for a smooth density.
    assert 2.5 < (values[-3] / values[-1]) ** 0.5 < 6
    assert values[-1] < 1e-3 * values[0] if power == 1 else values[-1] < 1e-2


def test_small_and_large_layers_of_one_distribution_agree():
    # Same fan-in, so that the channel maxima are alike; a hundred times the weights.
    small, large = (weight_divergence(gaussian(channels, 64, seed=3), ALL) for channels in (8, 800))
    for bits in ALL:
        assert small[bits] == pytest.approx(large[bits], rel=0.6)


def test_weights_on_the_grid_are_lossless():
    generator = torch.Generator().manual_seed(0)
    for bits in (2, 3, 4):
        qmax = 2 ** (bits - 1) - 1
        codes = torch.randint(-qmax, qmax + 1, (32, 100), generator=generator).float()
        codes[:, 0] = qmax  # every channel reaches the end of its grid
        scales = torch.rand(32, 1, generator=generator) + 0.1
        assert weight_divergence(codes * scales, (bits,))[bits] == pytest.approx(0, abs=1e-9)
    assert weight_divergence(torch.zeros(3, 5), ALL) == dict.fromkeys(ALL, 0.0)
    with_dead = torch.cat([torch.zeros(17, 8), codes[:17, :8]])  # as many channels as a vector unit takes at once
    assert weight_divergence(with_dead, (8,))[8] >= 0
    assert weight_divergence(torch.ones(40, 1), ALL) == pytest.approx(dict.fromkeys(ALL, 0.0), abs=1e-12)


def test_pruned_weights_count_by_their_share_only():
    dense = gaussian(1, 5000)
    pruned = torch.zeros(1, 20000)
    pruned[:, ::4] = dense
    expected = {bits: d / 4 for bits, d in weight_divergence(dense, ALL).items()}
    assert weight_divergence(pruned, ALL) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("bits", "midrise"), [(2, False), (3, False), (4, False), (8, False), (2, True), (3, True)])
def test_step_has_the_least_squared_error_of_its_grid(bits, midrise):
    counts = weight_histogram(gaussian(40, 50)).counts
    position = np.arange(-HALF_BINS, HALF_BINS + 1)
    codes = positive_levels(bits, midrise)
    qmax = codes[-1]

    def nearest(step):
        # Ties go to the level nearer to zero.
        distance = np.abs(np.abs(position)[:, None] / step - codes)
        return np.where(position < 0, -1, 1) * codes[distance.argmin(1)]

    def error(step):
        return counts @ (position - nearest(step) * step) ** 2

    candidates = np.linspace(0.06, 1, 48) * HALF_BINS / qmax
    step = best_step(power_sums(counts), codes)
    assert error(step) == pytest.approx(min(error(candidate) for candidate in candidates), rel=1e-9)
    level, edges = nearest(step), level_edges(step, codes)
    for index, code in enumerate(sorted({*codes, *-codes})):
        assert (level[edges[index] : edges[index + 1]] == code).all()


def test_axis_and_precision():
    weight = gaussian(5, 8, 3, 3)
    assert weight_divergence(weight, ALL, axis=1) == weight_divergence(weight.movedim(1, 0).contiguous(), ALL)
    half = weight.bfloat16()
    assert weight_divergence(half, ALL) == weight_divergence(half.float(), ALL)


def test_the_weight_is_only_read():
    weight = gaussian(8, 9)
    copy = weight.clone()
    weight_divergence(weight, ALL)
    assert torch.equal(weight, copy)


def test_errors():
    with pytest.raises(ModelError, match="NaN or infinity"):
        weight_divergence(torch.tensor([[1.0, float("nan")], [1.0, 2.0]]), (4,))
    with pytest.raises(ModelError, match="no elements"):
        weight_divergence(torch.empty(0, 3), (4,))
    with pytest.raises(PlanError, match=r"2\.\.8"):
        weight_divergence(torch.ones(2, 2), (9,))


def test_resnet20_every_layer_falls_with_bits(shared_data):
    _, graph = resnet20(shared_data)
    table = divergences(graph, ALL)
    assert list(table) == [spec.name for spec in graph.layers]
    for name, row in table.items():
        values = [row[bits] for bits in ALL]
        assert all(more > less > 0 for more, less in itertools.pairwise(values)), (name, row)
        assert values[-1] < 1e-3 * values[0], (name, row)


@pytest.mark.parametrize("axis", [0, 1])
def test_of_a_large_weight_a_sample_is_counted_that_stays_within_its_channels(axis):
    """Every channel is at one magnitude, so that a run that went over into the next one would show beside the bins."""
    magnitudes = 2.0 ** torch.arange(-8.0, 8.0)
    rows = magnitudes.repeat(32)[:, None] * gaussian(512, 1201).sign()
    weight = rows if axis == 0 else rows.T.contiguous()
    counts = weight_histogram(weight, axis).counts
    assert set(counts.nonzero()[0].tolist()) == {0, 2 * HALF_BINS}
    assert SAMPLED * 0.9 < counts.sum() < SAMPLED * 1.1
    assert abs(counts[0] / counts.sum() - 0.5) < 0.01


def test_a_sample_tells_low_bitwidths_as_all_weights_do_and_large_layers_apart():
    plain, heavy = gaussian(1024, 768), gaussian(1024, 768, seed=1) ** 3
    whole = [weight_divergence(w[:300], ALL) for w in (plain, heavy)]  # few enough to be counted in full
    sampled = [weight_divergence(w, ALL) for w in (plain, heavy)]
    for full, part in zip(whole, sampled, strict=True):
        assert all(part[bits] == pytest.approx(full[bits], rel=0.1) for bits in (2, 3))
    assert all(sampled[1][bits] > 2 * sampled[0][bits] for bits in ALL)
