from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmaquant.search.clustering import LineClusters, kmeans_line

VALUES = st.lists(st.floats(-1e3, 1e3).map(lambda v: round(v, 4)), min_size=1, max_size=8)


def squared_error(groups) -> float:
    return sum(sum((v - math.fsum(group) / len(group)) ** 2 for v in group) for group in groups if group)


def brute_force(values, k: int) -> float:
    ordered = sorted(values)
    best = math.inf
    for cuts in itertools.combinations_with_replacement(range(len(ordered) + 1), k - 1):
        edges = [0, *cuts, len(ordered)]
        best = min(best, squared_error([ordered[a:b] for a, b in itertools.pairwise(edges)]))
    return best


@settings(max_examples=80, deadline=None)
@given(VALUES, st.integers(1, 5))
def test_the_partition_is_as_good_as_the_best_of_all_partitions(values, k):
    clusters = kmeans_line(values, k)
    groups = [[v for v in values if clusters.label(v) == index] for index in range(len(clusters.centroids))]
    best = brute_force(values, k)
    assert squared_error(groups) == pytest.approx(
        best, rel=1e-6, abs=1e-9 * max(map(abs, values), default=0) ** 2 + 1e-12
    )


@settings(max_examples=50, deadline=None)
@given(VALUES, st.integers(1, 8), st.randoms())
def test_centroids_ascend_and_do_not_depend_on_the_order_of_the_values(values, k, random):
    clusters = kmeans_line(values, k)
    shuffled = list(values)
    random.shuffle(shuffled)
    assert kmeans_line(shuffled, k) == clusters
    assert len(clusters.centroids) == min(k, len(set(values)))
    assert len(clusters.boundaries) == len(clusters.centroids) - 1
    interleaved = [v for pair in itertools.zip_longest(clusters.centroids, clusters.boundaries) for v in pair][:-1]
    assert interleaved == sorted(interleaved)


def test_repeated_values_count_as_often_as_they_occur():
    assert kmeans_line([0.0] * 9 + [10.0], 1).centroids == (1.0,)


def test_equal_values_make_one_cluster():
    assert kmeans_line([0.3, 0.3, 0.3], 4) == LineClusters((0.3,), ())


@pytest.mark.parametrize("factor", [1e-150, 1e-9, 1.0, 1e9, 1e150])
def test_the_partition_does_not_depend_on_the_scale(factor):
    values = np.array([0.05, 0.06, 0.07, 0.2, 0.21, 0.4, 0.55]) * factor
    clusters = kmeans_line(values.tolist(), 4)
    assert [clusters.label(v) for v in values.tolist()] == [0, 0, 0, 1, 1, 2, 3]


def test_a_mean_far_from_zero_costs_no_precision():
    values = (1e6 + np.array([0.0, 0.001, 0.002, 0.5, 0.501, 0.502])).tolist()
    clusters = kmeans_line(values, 2)
    assert [clusters.label(v) for v in values] == [0, 0, 0, 1, 1, 1]


def test_several_blocks_give_what_one_block_gives(monkeypatch):
    values = np.random.default_rng(0).lognormal(-2, 1, 50).tolist()
    whole = kmeans_line(values, 5)
    monkeypatch.setattr("sigmaquant.search.clustering._BLOCK_ELEMENTS", 64)
    assert kmeans_line(values, 5) == whole


def test_two_thousand_layers_take_no_more_than_seconds():
    values = np.random.default_rng(0).lognormal(-2, 1, 2000).tolist()
    start = time.process_time()
    assert len(kmeans_line(values, 7).centroids) == 7
    assert time.process_time() - start < 10


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf]])
def test_no_value_or_one_that_is_not_finite_is_an_error(values):
    with pytest.raises(ValueError, match="finite"):
        kmeans_line(values, 2)


def test_no_cluster_is_an_error():
    with pytest.raises(ValueError, match="at least one cluster"):
        kmeans_line([1.0], 0)
