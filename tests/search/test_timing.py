"""A time for everything becomes a search, a reconstruction and a training, which the result tells."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tiny
from sigmaquant import Budget, Settings
from sigmaquant.errors import SigmaQuantError
from sigmaquant.search.search_state import SearchState
from sigmaquant.search.state import Progression, Reconstructed
from sigmaquant.search.timing import SEGMENTS, search_seconds, told, total_seconds


def test_an_effort_is_a_number_of_minutes() -> None:
    assert [Settings(effort=effort).minutes for effort in ("low", "medium", "high")] == [1.0, 5.0, 30.0]
    assert Settings(effort="low", minutes=1.0).minutes == 1.0
    with pytest.raises(SigmaQuantError, match="either of the two"):
        Settings(effort="low", minutes=3.0)
    with pytest.raises(SigmaQuantError, match="'medium'"):
        Settings(effort="medum")  # type: ignore[arg-type]
    with pytest.raises(SigmaQuantError, match="above zero"):
        Settings(minutes=0.0)


def test_the_search_has_a_part_of_the_time_and_a_control_half_of_it() -> None:
    assert search_seconds(Settings()) is None
    assert search_seconds(Settings(search_minutes=2)) == 120
    assert search_seconds(Settings(minutes=4)) == 60
    assert search_seconds(Settings(minutes=4, search_minutes=0.5)) == 30
    assert total_seconds(Settings(minutes=4, control=True)) == 120


def test_with_a_time_nothing_trains_in_cycles() -> None:
    assert Settings().trains_in_cycles
    assert not Settings(minutes=1).trains_in_cycles
    assert Settings(minutes=1, cycle_examples=0, final_epochs=0).trains
    assert not Settings(minutes=1, post_training=True).trains


def test_what_became_of_the_time_is_told() -> None:
    state = Progression(search_seconds=12.0, reconstruction=Reconstructed(4, [30, 40], 2, 0.1, learned=True))
    state.final_examples = 1200
    text = told(Settings(minutes=2), state)
    assert text == (
        "the 2 minutes became: a search of 12 s, reconstruction of 70 steps on 4 batches (kept), "
        "final training on 1,200 examples"
    )
    assert "thrown away" in told(
        Settings(minutes=2, post_training=True),
        Progression(reconstruction=Reconstructed(4, [3], 1, 0.1, learned=False)),
    )
    assert told(Settings(), state) == ""


def test_a_run_trains_for_the_time_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SearchState, "seconds", 0.0)  # however slow the machine, all of the time is left
    options = {"minutes": 0.04, "calibration_examples": 400, "strategy": "uniform", "run_dir": tmp_path / "run"}
    result = tiny.run(Budget(size="9x"), **options)
    (note,) = [note for note in result.notes if "minutes became" in note]
    examples = int(re.findall(r"final training on ([0-9,]+) examples", note)[0].replace(",", ""))
    assert examples > 0
    assert result.trained_examples + result.discarded_examples >= examples
    assert [line["move"] for line in tiny.trajectory(tmp_path / "run")].count("final training") == SEGMENTS
    again = tiny.run(Budget(size="9x"), resume=True, **options)
    assert again.scores == result.scores


def test_steps_are_a_unit_beside_passes() -> None:
    result = tiny.run(Budget(size="9x"), strategy="uniform", final_steps=20)  # of 50 examples each, 400 are there
    assert result.trained_examples + result.discarded_examples == 1000
    with pytest.raises(SigmaQuantError, match="final_steps"):
        Settings(final_steps=0)
