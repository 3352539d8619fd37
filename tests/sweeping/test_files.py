"""The folder of a sweep, and the names of its runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sigmaquant import Budget
from sigmaquant.errors import BudgetError, RunDirectoryError
from sigmaquant.sweeping.files import SweepDirectory, run_names


def test_names_are_safe_for_files() -> None:
    swept, names = run_names([Budget(energy="2 mJ", size="8x"), Budget(energy="3 mJ", size="8x")])
    assert swept == "energy"
    assert list(names) == ["energy-2mJ", "energy-3mJ"]


@pytest.mark.parametrize(
    ("budgets", "words"),
    [
        ([Budget(size="8x")], "two or more"),
        ([Budget(size="8x"), Budget(size="8x")], "equal"),
        ([Budget(size="8x"), Budget(size="8 x")], "same size"),
        ([Budget(size="8x", bops="4x"), Budget(size="6x", bops="5x")], "exactly one"),
        ([Budget(size="8x", accuracy="-1 %"), Budget(size="8x", accuracy="-2 %")], "exactly one"),
        ([Budget(size="8x", bops="4x"), Budget(size="8x")], "has no bops"),
    ],
)
def test_budgets_that_are_no_sweep(budgets: list[Budget], words: str) -> None:
    with pytest.raises(BudgetError, match=words):
        run_names(budgets)


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    with (
        SweepDirectory(tmp_path, {"a": 1}, resume=False, overwrite=False),
        pytest.raises(RunDirectoryError, match="in use"),
    ):
        SweepDirectory(tmp_path, {"a": 1}, resume=True, overwrite=False)


def test_what_is_there_is_not_lost(tmp_path: Path) -> None:
    SweepDirectory(tmp_path / "s", {"a": 1}, resume=False, overwrite=False).close()
    with pytest.raises(RunDirectoryError, match="already holds a sweep"):
        SweepDirectory(tmp_path / "s", {"a": 1}, resume=False, overwrite=False)
    with pytest.raises(RunDirectoryError, match="'a' was 1 and is now 2"):
        SweepDirectory(tmp_path / "s", {"a": 2}, resume=True, overwrite=False)
    with SweepDirectory(tmp_path / "s", {"a": 1}, resume=True, overwrite=False) as directory:
        assert directory.resumed
    with SweepDirectory(tmp_path / "s", {"a": 2}, resume=False, overwrite=True) as directory:
        assert not directory.resumed
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("…")
    with pytest.raises(RunDirectoryError, match="holds no sweep"):
        SweepDirectory(tmp_path / "other", {}, resume=False, overwrite=True)
    with pytest.raises(RunDirectoryError, match="Give only one"):
        SweepDirectory(tmp_path / "s", {}, resume=True, overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="is a file"):
        SweepDirectory(tmp_path / "file", {}, resume=False, overwrite=False)


def test_what_a_killed_sweep_was_writing_is_in_nobodys_way(tmp_path: Path) -> None:
    half = tmp_path / ".sweep.json.12-0.tmp"
    half.write_text("{")
    with SweepDirectory(tmp_path, {"a": 1}, resume=True, overwrite=False) as directory:
        assert not directory.resumed
    assert not half.exists()
    (tmp_path / ".frontier.csv.12-1.tmp").touch()
    (tmp_path / "notes.tmp").touch()
    SweepDirectory(tmp_path, {"a": 1}, resume=True, overwrite=False).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.tmp", "sweep.json", "sweep.lock"]
