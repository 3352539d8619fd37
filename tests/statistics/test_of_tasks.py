"""Sensitivities by a task: several outputs, and a distance of the user's own."""

from __future__ import annotations

import pytest
import torch
from statistics_cases import graph_of
from torch import nn

from sigmaquant.errors import DataError
from sigmaquant.statistics import fisher_sensitivities, output_sensitivity
from sigmaquant.tasks import Embedding, Part, Task


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 4)

    def forward(self, x):
        x = self.body(x).relu()
        return {"a": self.a(x), "deep": [self.b(x)]}


class Of(Task):
    """Some of the outputs, each with its part."""

    def __init__(self, *places, own=None):
        self.places, self.own = places, own

    def outputs(self, returned):
        return tuple({"a": returned["a"], "b": returned["deep"][0]}[name] for name, _ in self.places)

    def parts(self, outputs):
        return [part for _, part in self.places]


A, B = ("a", Part("values")), ("b", Part("logits"))


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    return graph_of(Two()), [torch.randn(24, 5), torch.randn(8, 5)]


def test_output_sensitivity_of_several_outputs_is_the_weighted_sum(case):
    graph, batches = case
    a, b = (output_sensitivity(graph, (2, 4), batches, task=Of(place)) for place in (A, B))
    both = output_sensitivity(graph, (2, 4), batches, task=Of(A, ("b", Part("logits", weight=0.25))))
    for name, row in both.items():
        for bits, value in row.items():
            assert value == pytest.approx(a[name][bits] + 0.25 * b[name][bits], rel=1e-9)


def test_curvature_of_several_outputs_is_the_weighted_sum_in_expectation(case):
    graph, batches = case
    options = {"draws": 300, "micro_batch": 8}
    a, b = (fisher_sensitivities(graph, (3,), batches, task=Of(place), **options) for place in (A, B))
    both = fisher_sensitivities(graph, (3,), batches, task=Of(A, ("b", Part("logits", weight=0.25))), **options)
    for kind in ("fisher", "curvature"):
        for name in both.curvature:
            expected = getattr(a, kind)[name][3] + 0.25 * getattr(b, kind)[name][3]
            assert getattr(both, kind)[name][3] == pytest.approx(expected, rel=0.2)


class Squares(Of):
    def distance(self, outputs, reference, temperature=1.0):
        return sum((x - y).square().sum(1) for x, y in zip(outputs, reference, strict=True))


def test_a_distance_of_the_users_own(case):
    graph, batches = case
    with torch.no_grad():
        total = sum(float(graph.module(x)["a"].square().sum()) for x in batches) / 32
    own, by_parts = Squares(A), Of(A)
    for measure in (output_sensitivity, lambda *args, **kw: fisher_sensitivities(*args, **kw).curvature):
        mine, theirs = (measure(graph, (3,), batches, task=task) for task in (own, by_parts))
        for name in mine:
            assert mine[name][3] == pytest.approx(theirs[name][3] * total, rel=1e-4, abs=1e-12)


def test_a_distance_without_a_second_derivative_is_told(case):
    class Absolute(Of):
        def distance(self, outputs, reference, temperature=1.0):
            return (outputs[0] - reference[0]).abs().sum(1)

    class Root(Of):
        def distance(self, outputs, reference, temperature=1.0):
            return (outputs[0] - reference[0]).norm(dim=1)

    class Constant(Of):
        def distance(self, outputs, reference, temperature=1.0):
            return torch.ones(len(outputs[0]))

    graph, batches = case
    for task in (Constant(A), Root(A)):
        with pytest.raises(DataError, match=r"second derivative.*Choose the sensitivity 'output_kl'"):
            fisher_sensitivities(graph, (3,), batches, task=task)
    assert output_sensitivity(graph, (3,), batches, task=Absolute(A))["a"][3] > 0


def test_embeddings_have_a_curvature(case):
    graph, batches = case
    task = Embedding(output="a")
    second = fisher_sensitivities(graph, (4,), batches, task=task, draws=200).curvature
    first = output_sensitivity(graph, (4,), batches, task=task)
    for name in ("body", "a"):
        assert second[name][4] == pytest.approx(first[name][4], rel=0.8), "of one size"
    assert second["b"][4] == 0
    assert first["b"][4] == pytest.approx(0, abs=1e-6)
