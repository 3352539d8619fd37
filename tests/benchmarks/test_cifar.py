"""The benchmark on CIFAR-10: which searches are the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "cifar.py"


@pytest.fixture(scope="module")
def cifar():
    spec = importlib.util.spec_from_file_location("benchmark_cifar", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(**changes):
    base = {
        "network": "resnet56",
        "mode": "trained",
        "strategy": "greedy",
        "size": 32 / 3,
        "seed": 1,
        "epochs": 1.7,
        "settings": '{"lr": 0.03}',
        "weights": {"conv1": 5},
    }
    return {**base, **changes}


KEY = row(mode="post-training", epochs=0, settings="{}")


def test_a_plan_is_that_of_the_same_search_in_the_other_mode(cifar):
    assert cifar.known_plan(KEY, [row(weights={"conv1": 3}, seed=0), row()]) == {"conv1": 5}


@pytest.mark.parametrize(
    "other",
    [
        {"network": "resnet20"},
        {"mode": "post-training"},
        {"strategy": "ilp"},
        {"size": 8.0},
        {"seed": 2},
        {"settings": '{"lr": 0.03, "bitwidths": [2, 4, 8]}'},
    ],
)
def test_another_search_gives_no_plan(cifar, other):
    assert cifar.known_plan(KEY, [row(**other)]) is None


def test_sigma_searches_anew_in_each_mode(cifar):
    assert cifar.known_plan({**KEY, "strategy": "sigma"}, [row(strategy="sigma")]) is None
