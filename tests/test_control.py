"""The uniform control against the search: which is returned, and what the user is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import sigmaquant.workflow.job
import tiny
from sigmaquant import Budget
from sigmaquant.workflow.control import Contender, Verdict, paired_error, weigh
from sigmaquant.workflow.results import Scores

SIZE = Budget(size="10x", size_counts="weights")  # 3.2 bits
OPTIONS: dict[str, Any] = {"post_training": True, "control": True, "start": "sigma"}


class Odd(nn.Module):
    """63 weights at 3 bits are 23.6 bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 7, 3, padding=1)
        self.head = nn.Linear(7 * 64, tiny.CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).flatten(1))


def test_a_size_of_exactly_three_bits_admits_three_bits_everywhere_in_whole_bytes() -> None:
    torch.manual_seed(0)
    budget = Budget(size=f"{32 / 3}x", size_counts="weights")
    result = tiny.run(budget, Odd().eval(), strategy="uniform", bitwidths=(2, 3, 4), post_training=True)
    assert set(result.plan.weights.values()) == {3}
    assert result.reference.weight_bytes * 3 / 32 < result.cost.weight_bytes == result.limits["size_bytes"]
    assert result.met
    slightly = tiny.run(
        Budget(size="10.7x", size_counts="weights"),
        Odd().eval(),
        strategy="uniform",
        bitwidths=(2, 3, 4),
        post_training=True,
    )
    assert set(slightly.plan.weights.values()) == {2}


@pytest.mark.parametrize(
    ("size", "counts", "bits"),
    [
        ("8x", "weights", 4),
        ("8x", "total", None),
        ("9x", "weights", None),
        ("134 KB", "weights", None),
        ("10.666666667x", "weights", 3),
        ("10.67x", "weights", None),
        ("32x", "weights", None),
    ],
)
def test_which_sizes_are_whole_bits(size: str, counts: Any, bits: int | None) -> None:
    assert Budget(size=size, size_counts=counts).weight_bits == bits


def test_the_uniform_plans_on_both_sides_are_named() -> None:
    result = tiny.run(SIZE, **OPTIONS)
    assert result.control is not None
    assert result.control_above is not None
    assert set(result.control.plan.weights.values()) == {3}
    assert set(result.control_above.plan.weights.values()) == {4}
    assert result.control.cost.weight_bytes <= result.limits["size_bytes"] < result.control_above.cost.weight_bytes
    assert result.control_above.scores.divergence < result.control.scores.divergence
    (note,) = [note for note in result.notes if "next to the budget" in note]
    assert f"{result.control.scores.validation:.4f}" in note
    assert "3 bits" in note
    assert "4 bits" in note
    assert result.to_dict()["control_above"]["scores"]["validation"] == result.control_above.scores.validation


def contenders(monkeypatch: pytest.MonkeyPatch, mine: Scores, theirs: Scores, **options: Any) -> tuple[Any, Verdict]:
    """A run whose two networks are said to have these scores, and the verdict on them."""
    verdicts: list[Verdict] = []

    def told(session: Any, found: Contender, control: Contender) -> Verdict:
        monkeypatch.setattr("sigmaquant.workflow.control.paired_error", lambda *_: 0.01)
        verdicts.append(weigh(session, replace(found, scores=mine), replace(control, scores=theirs)))
        return verdicts[-1]

    monkeypatch.setattr(sigmaquant.workflow.job, "weigh", told)
    return tiny.run(SIZE, **{**OPTIONS, **options}), verdicts[0]


def scores(validation: float, divergence: float) -> Scores:
    return Scores(validation, None, divergence)


ALL = {"bitwidths": (2, 3, 4, 6, 8)}


@pytest.mark.parametrize(
    ("theirs", "options", "returned", "words"),
    [
        (scores(0.9, 0.1), ALL, "control", "the better one, and is returned"),
        (scores(0.9, 0.1), {}, "search", "bitwidths that were not allowed; accept_control"),
        (scores(0.9, 0.1), {"accept_control": True}, "control", "is as good, and is returned"),
        (scores(0.89, 0.3), ALL, "search", "as good within noise and no larger; accept_control"),
        (scores(0.89, 0.3), {**ALL, "accept_control": True}, "control", "is as good, and is returned"),
        (scores(0.8, 0.3), {**ALL, "accept_control": True}, "search", ""),
        (scores(0.8, 0.1), ALL, "search", ""),
    ],
)
def test_what_is_returned(
    theirs: Scores, options: dict[str, Any], returned: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sigmaquant.workflow.control._no_larger", lambda *_: True)
    result, verdict = contenders(monkeypatch, scores(0.9, 0.2), theirs, **options)
    assert words in verdict.sentence
    assert bool(words) == bool(verdict.sentence)
    assert result.returned == returned
    assert result.control is not None
    assert (dict(result.plan.weights) == dict(result.control.plan.weights)) == (returned == "control")
    assert (verdict.sentence in result.notes) == bool(verdict.sentence)


def test_a_larger_control_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sigmaquant.workflow.control._no_larger", lambda *_: False)
    _, verdict = contenders(monkeypatch, scores(0.9, 0.2), scores(0.9, 0.3), accept_control=True)
    assert verdict == Verdict(False, "")


def test_trained_networks_are_compared_by_the_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    more: dict[str, Any] = {**ALL, "post_training": False, "cycle_examples": 0, "final_epochs": 0.25}
    monkeypatch.setattr("sigmaquant.workflow.control._no_larger", lambda *_: False)
    result, _ = contenders(monkeypatch, scores(0.9, 0.1), scores(0.92, 0.3), **more)
    assert result.returned == "control"
    result, _ = contenders(monkeypatch, scores(0.9, 0.3), scores(0.905, 0.1), **more)
    assert result.returned == "search"
    assert result.control_above is not None
    assert result.control_above.scores.validation is None


def test_a_returned_control_is_what_the_run_directory_holds(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sigmaquant.workflow.control._no_larger", lambda *_: True)
    result, _ = contenders(monkeypatch, scores(0.9, 0.2), scores(0.9, 0.1), **ALL, run_dir=tmp_path / "run")
    files = sigmaquant.runs.RunFiles(tmp_path / "run")
    assert files.read_plan().weights == result.control.plan.weights
    again, _ = contenders(monkeypatch, scores(0.9, 0.2), scores(0.9, 0.1), **ALL, run_dir=tmp_path / "run", resume=True)
    assert tiny.same_tensors(again.network.state(), result.network.state())


def test_the_paired_error_is_that_of_the_differences() -> None:
    found: list[tuple[Any, Contender, Contender]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sigmaquant.workflow.job, "weigh", lambda *a: found.append(a) or Verdict(False, ""))
        tiny.run(SIZE, **OPTIONS)
    session, one, other = found[0]
    inputs, targets = tiny.validation_data()
    right = [(network.eval()(inputs).argmax(1) == targets).double() for network in (one.network, other.network)]
    disagreements = float((right[0] != right[1]).double().mean())
    assert disagreements > 0
    expected = ((disagreements - float(right[0].mean() - right[1].mean()) ** 2) / len(targets)) ** 0.5
    assert paired_error(session, one.network, other.network) == pytest.approx(expected)
    assert paired_error(session, one.network, one.network) == 0
