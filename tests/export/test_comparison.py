"""How outputs are compared: decisions of classes, values and maps, in codes and in float."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sigmaquant.export.comparison import FLOAT_STEPS, VALUE_STEPS, Agreement, Measure, Tally, decision_axis
from sigmaquant.operators import Edge


def codes(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(-100, 100, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


def agreement(found: Tensor, expected: Tensor, axis: int | None, edge: Edge | None = None) -> Agreement:
    tally = Tally([Measure.of(edge or Edge("y", tuple(expected.shape[1:]), 8), [expected], axis)])
    tally.add([found], [expected])
    return tally.agreement()


def test_which_axis_decides() -> None:
    classes, pixels = torch.zeros(4, dtype=torch.long), torch.zeros(4, 8, 6, dtype=torch.long)
    assert decision_axis(torch.zeros(4, 5), classes) == 1
    assert decision_axis(torch.zeros(4, 5), torch.zeros(4, 5)) is None
    assert decision_axis(torch.zeros(4, 5, 8, 6), pixels) == 1
    assert decision_axis(torch.zeros(4, 7, 5), torch.zeros(4, 7, dtype=torch.long)) == 2
    assert decision_axis(torch.zeros(4, 5, 8, 6), torch.zeros(4, 5, 8, 6)) is None
    assert decision_axis(torch.zeros(4, 5, 8, 6), None) is None
    assert decision_axis(torch.zeros(4, 5, 8, 6), None, "logits") == 1
    assert decision_axis(torch.zeros(4, 5, 8, 6), pixels, "values") is None


def test_a_map_of_values_is_judged_by_the_share_of_wrong_ones() -> None:
    expected = codes(3, 2, 10, 10)
    found = expected.clone()
    found[0, 0, 0, 0] += VALUE_STEPS + 1
    found[1, 1, 2, 2] += VALUE_STEPS
    result = agreement(found, expected, None)
    assert result.decisions == pytest.approx(1 - 1 / 600)
    assert result.largest_steps == VALUE_STEPS + 1
    assert result.equal == pytest.approx(1 - 2 / 600)
    assert agreement(found.reshape(3, 200), expected.reshape(3, 200), None).decisions == pytest.approx(2 / 3)
    half = expected.clone()
    half[:, 0] = -half[:, 0]
    assert agreement(half, expected, None).decisions < 0.6


def test_a_map_of_logits_is_judged_place_by_place() -> None:
    expected = codes(2, 5, 4, 4)
    found = expected.clone()
    found[0, :, 1, 1] = -found[0, :, 1, 1]
    result = agreement(found, expected, 1)
    assert result.decisions == pytest.approx(1 - 1 / 32)
    assert agreement(expected, expected, 1) == Agreement(2, 1.0, 0, 0.0, 1.0, 0.0)


def test_floats_have_a_tolerance_and_steps_of_their_range() -> None:
    edge = Edge("y", (4,), 32)
    expected = torch.tensor([[0.0, 1.0, -1.55, 0.5]])
    same = agreement(expected + 1e-4, expected, 1, edge)
    assert same.equal == 1
    off = expected.clone()
    off[0, 0] += 10 * 2.55 / FLOAT_STEPS
    result = agreement(off, expected, None, edge)
    assert (result.largest_steps, result.equal, result.decisions) == (10, 0.75, 0.0)
    nothing = expected.clone()
    nothing[0, 0] = math.nan
    assert agreement(nothing, expected, None, edge).largest_steps == FLOAT_STEPS
    assert agreement(nothing, nothing, None, edge).equal == 1
    constant = torch.ones(2, 3)
    assert agreement(constant, constant, None, edge).equal == 1
    assert agreement(constant + 0.5, constant, None, edge).largest_steps == FLOAT_STEPS


def test_of_several_outputs_the_worst_counts() -> None:
    one, two = codes(4, 5), codes(4, 3, seed=1)
    wrong = two.clone()
    wrong[2] = -wrong[2]
    tally = Tally([Measure(Edge("a", (5,), 8), 1), Measure(Edge("b", (3,), 8), 1)])
    tally.add([one, wrong], [one, two])
    result = tally.agreement()
    assert result.decisions == 0.75
    assert result.equal == pytest.approx(1 - 3 / 32)


def test_means_and_medians_are_those_of_the_differences() -> None:
    expected = torch.zeros(1, 6, dtype=torch.int8)
    found = torch.tensor([[0, 0, 1, 1, 2, 9]], dtype=torch.int8)
    assert agreement(found, expected, None) == Agreement(1, 0.0, 9, 1.0, pytest.approx(1 / 3), pytest.approx(13 / 6))
