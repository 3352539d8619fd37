"""The end of the driver's work: the final training, the best state, and going on from any saved state."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from driver_cases import Memory, Scripted, driver, graph, without_seconds

import tiny
from sigmaquant import Budget
from sigmaquant.errors import CheckpointError
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import QuantizedNetwork
from sigmaquant.search.search_state import SearchState
from sigmaquant.training.student import Judgement

EIGHT = Budget(size="8x")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No training counts as collapsed: what is told of it is to be seen to its end."""
    monkeypatch.setattr(SearchState, "collapsed", lambda *_: False)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("accuracies", "kept"),
    [
        ((0.5, 0.6, 0.7), 2),
        ((0.5, 0.7, 0.6), 1),
        ((0.5, 0.6, 0.6), 2),  # the later of two equals has trained longer
        ((0.7, 0.6, 0.5), 0),
    ],
)
def test_the_best_state_of_the_final_training_is_kept(
    monkeypatch: pytest.MonkeyPatch, accuracies: tuple[float, ...], kept: int
) -> None:
    search = driver(EIGHT, strategy="uniform", rounding="nearest")
    search.search_state.session.search_judge = Scripted(0.99)
    search.search_state.session.judge = Scripted(*accuracies, 0.1)  # the last: BatchNorm re-estimated
    seen = []

    def recorded(method):
        def call(*given):
            method(*given)
            seen.append(search.student.tensors())

        return call

    for name in ("reset_momentum", "segment"):
        monkeypatch.setattr(search.student, name, recorded(getattr(search.student, name)))
    search.run()
    assert len(seen) == 3, "before the training, and after each of two segments"
    assert tiny.same_tensors(search.student.network.state(), _network(seen[kept]))
    assert [line["accepted"] for line in search.search_state.recorder.lines][1:3] == [
        accuracies[1] >= accuracies[0],
        accuracies[2] >= max(accuracies[:2]),
    ]


@pytest.mark.usefixtures("patient")
def test_a_training_is_judged_by_its_accuracy_on_all_validation_data() -> None:
    search = driver(EIGHT, strategy="uniform", rounding="nearest")
    search.search_state.session.search_judge = Scripted(0.5)
    search.search_state.session.judge = Scripted(
        Judgement(0.8, 0.1), Judgement(0.7, 0.05), Judgement(0.8, 0.2), Judgement(0.8, 0.3)
    )
    search.run()
    *_, first, second, norms = search.search_state.recorder.lines
    assert [first["accepted"], second["accepted"], norms["accepted"]] == [False, True, False]
    assert first["held_to"] == search.search_state.limits.to_dict()
    assert (search.state.accuracy, search.state.divergence) == (0.8, 0.2)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("floor", "accuracies", "kept"),
    [
        (None, (0.80, 0.77, 0.75), [True, False]),  # two errors below what was untrained, and one more below that
        (None, (0.80, 0.75, 0.77), [False, True]),
        (None, (0.80, 0.75, 0.74), [False, False]),
        ("79 %", (0.80, 0.78, 0.79), [False, True]),
        ("79 %", (0.78, 0.77, 0.80), [True, True]),
    ],
)
def test_the_untrained_state_has_to_be_better_beyond_chance(
    floor: str | None, accuracies: tuple[float, ...], kept: list[bool]
) -> None:
    search = driver(Budget(size="8x", accuracy=floor), strategy="uniform", rounding="nearest")
    search.search_state.session.search_judge = Scripted(0.5)
    search.search_state.session.judge = Scripted(*accuracies, 0.1, error=0.02)
    search.run()
    assert [line["accepted"] for line in search.search_state.recorder.lines if line["move"] == "final training"] == kept
    best = [accuracies[0], *(accuracy for accuracy, here in zip(accuracies[1:], kept, strict=True) if here)][-1]
    assert search.state.accuracy == best


def _network(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.removeprefix("network."): value for key, value in tensors.items() if key.startswith("network.")}


@pytest.mark.parametrize(("after", "kept"), [(0.8, False), (0.9, True), (0.95, True)])
def test_batch_norm_statistics_are_re_estimated_where_that_does_no_harm(after: float, kept: bool) -> None:
    search = driver(EIGHT, strategy="uniform", final_epochs=0.25, rounding="nearest")
    search.search_state.session.search_judge = Scripted(0.1)
    search.search_state.session.judge = Scripted(0.5, 0.9, after)
    search.run()
    line = search.search_state.recorder.lines[-1]
    assert (line["move"], line["accepted"], line["accuracy"]) == ("batch norm", kept, after)
    assert search.state.accuracy == (after if kept else 0.9)


def test_extra_examples_lengthen_the_final_training() -> None:
    plain, longer = driver(EIGHT, strategy="uniform"), driver(EIGHT, strategy="uniform", extra=300)
    plain.run()
    longer.run()
    assert [s.state.trained_examples + s.state.discarded_examples for s in (plain, longer)] == [400, 700]
    assert plain.student.trained_examples == plain.state.best_examples <= 400


def test_a_training_that_collapses_in_its_first_segment_begins_anew_at_lower_rates() -> None:
    search = driver(EIGHT, strategy="uniform", rounding="nearest")
    search.search_state.session.search_judge = Scripted(0.9)
    # Untrained, two segments that ruin it, then two that do not, and BatchNorm.
    search.search_state.session.judge = Scripted(0.9, 0.5, 0.6, 0.91, 0.92, 0.1)
    search.run()
    moves = [(line["move"], line["accuracy"]) for line in search.search_state.recorder.lines]
    assert [move for move in moves if move[0] == "final training"] == [
        ("final training", 0.91),
        ("final training", 0.92),
    ]
    assert search.state.rate == pytest.approx(0.01)
    assert search.state.discarded_examples == 400
    assert search.state.trained_examples == 400


def test_a_training_that_always_collapses_is_given_up() -> None:
    search = driver(EIGHT, strategy="uniform", rounding="nearest")
    search.search_state.session.search_judge = Scripted(0.9)
    search.search_state.session.judge = Scripted(0.9, 0.5)
    search.run()
    assert search.state.accuracy == 0.9
    assert search.state.trained_examples == 0
    assert search.state.discarded_examples == 4 * 200
    assert [line["move"] for line in search.search_state.recorder.lines][-2:] == [
        "final training given up",
        "post-training",
    ]


def test_post_training_leaves_every_parameter_as_it_was() -> None:
    search = driver(Budget(size="6x", accuracy="-1 %"), post_training=True, rounding="nearest")
    search.run()
    assert search.student.trained_examples == 0
    network = search.student.network.body
    for name, parameter in graph().module.named_parameters():
        assert torch.equal(network.get_parameter(name), parameter), name
    assert search.search_state.recorder.lines[-1]["move"] == "post-training"


@pytest.mark.parametrize("strategy", ["uniform", "random"])
def test_the_searched_plan_is_calibrated_on_all_examples(strategy: str) -> None:
    search = driver(EIGHT, strategy=strategy, post_training=True, rounding="nearest")
    search.run()
    plan = search.search_state.session.plan(search.state.weights)
    whole, half = search.search_state.session.student(), search.search_state.session.student()
    for student in (whole, half):
        student.apply(plan)
    whole.recalibrate()
    assert tiny.same_tensors(search.student.network.state(), whole.network.state())
    assert not tiny.same_tensors(whole.network.state(), half.network.state())
    judged = search.search_state.session.search_judge(search.student.network)
    assert (search.state.accuracy, search.state.divergence) == (judged.accuracy, judged.divergence)
    assert search.search_state.recorder.lines[-1]["divergence"] == judged.divergence


@pytest.mark.parametrize("change", [{"unheard_of": 1}, {"stage": None}])
def test_the_state_of_another_version_is_refused(change: dict) -> None:
    search = driver(EIGHT, strategy="uniform", post_training=True)
    search.run()
    step, tensors, meta = search.search_state.recorder.states[-1]
    meta = {key: value for key, value in {**meta, **change}.items() if value is not None}
    again = driver(EIGHT, Memory((step, tensors, meta)), strategy="uniform", post_training=True)
    with pytest.raises(CheckpointError, match=f"another version.*{next(iter(change))}"):
        again.run()


@pytest.mark.parametrize("closer", [True, False])
def test_compensated_rounding_is_kept_where_it_brings_the_outputs_closer(closer: bool) -> None:
    search = driver(EIGHT, strategy="uniform", post_training=True)
    # A plan, then the same with compensation, then what is left where that is refused.
    search.search_state.session.search_judge = Scripted(0.5, 0.6 if closer else 0.4, 0.45)
    search.run()
    plan = search.search_state.session.plan(search.state.weights)
    expected = search.search_state.session.student()
    expected.apply(plan)
    if closer:
        expected.compensate()
    else:
        expected.recalibrate()
    assert tiny.same_tensors(search.student.network.state(), expected.network.state())
    assert search.state.accuracy == (0.6 if closer else 0.45)


@pytest.mark.parametrize(
    ("budget", "options"),
    [
        (Budget(accuracy="97 %"), {}),
        (Budget(size="9x", bops="40x", accuracy="-1 %"), {}),
        (
            Budget(size="6x"),
            {"post_training": True, "sensitivity": "fisher", "max_cycles": 2, "calibration_examples": 50},
        ),
        (EIGHT, {"strategy": "greedy", "post_training": True, "rounding": "nearest"}),
        (EIGHT, {"strategy": "uniform", "rounding": "nearest", "cycle_examples": 0}),
    ],
)
def test_a_run_continued_from_any_saved_state_ends_like_the_unbroken_one(budget: Budget, options: dict) -> None:
    recorder = Memory()
    whole = driver(budget, recorder, **options)
    whole.run()
    for saved in recorder.states[:-1]:
        again = Memory(saved)
        part = driver(budget, again, **options)
        part.run()
        assert without_seconds(recorder.lines[: saved[0]] + again.lines) == without_seconds(recorder.lines)
        assert tiny.same_tensors(part.student.tensors(), whole.student.tensors()), saved[2]["stage"]
        assert part.state.weights == whole.state.weights


def test_a_greedy_search_goes_on_from_its_last_upgrade() -> None:
    recorder, options = Memory(), {"strategy": "greedy", "post_training": True, "rounding": "nearest"}
    whole = driver(EIGHT, recorder, **options)
    measured: list[BitwidthPlan | None] = []
    judge = whole.search_state.session.search_judge

    def counted(network: QuantizedNetwork) -> Judgement:
        measured.append(network.plan)
        return judge(network)

    whole.search_state.session.search_judge = counted
    whole.run()
    lines = [line for line in recorder.lines if line["stage"] == "phase1"]
    moves = [line["move"] for line in lines]
    assert moves == ["lowest", *["upgrade"] * (len(moves) - 2), "greedy"]
    assert len(moves) > 4
    for before, after in pairwise(lines[:-1]):
        assert after["weights"] == {**before["weights"], **{name: new for name, (_, new) in after["changes"].items()}}
        assert [before["weights"][name] for name in after["changes"]] == [old for old, _ in after["changes"].values()]
        assert len(after["changes"]) == 1
    assert lines[-1]["divergence"] == min(line["divergence"] for line in lines)
    assert not recorder.states[-1][2]["measured"]
    unbroken, half = list(measured), len(moves) // 2
    saved = recorder.states[half]
    left = unbroken[len(saved[2]["measured"]) :]
    measured.clear()
    again = driver(EIGHT, Memory(saved), **options)
    again.search_state.session.search_judge = counted
    again.run()
    assert measured == left, "nothing is measured twice"
    assert again.state.weights == whole.state.weights
    assert again.search_state.recorder.lines[0]["step"] == half + 2


def test_a_finished_run_is_not_trained_again(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Memory()
    whole = driver(EIGHT, recorder)
    whole.run()
    again = driver(EIGHT, Memory(recorder.states[-1]))
    monkeypatch.setattr(again.student, "_train", lambda *_: pytest.fail("trained"))
    again.run()
    assert tiny.same_tensors(again.student.tensors(), whole.student.tensors())
