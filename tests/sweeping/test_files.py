"""The folder of a sweep, and the names of its runs."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from sigmaquant.errors import RunDirectoryError, SigmaQuantError, StorageError
from sigmaquant.runs import RunDirectory, RunFiles
from sigmaquant.sweeping.files import SweepDirectory


def begun(path: Path, config: dict[str, Any], *, resume: bool = False, overwrite: bool = False) -> SweepDirectory:
    with SweepDirectory(path, config, resume=resume, overwrite=overwrite) as directory:
        directory.begin(["run"])
        return directory


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    with (
        SweepDirectory(tmp_path, {"a": 1}, resume=False, overwrite=False),
        pytest.raises(RunDirectoryError, match="in use"),
    ):
        SweepDirectory(tmp_path, {"a": 1}, resume=True, overwrite=False)


def test_what_is_there_is_not_lost(tmp_path: Path) -> None:
    begun(tmp_path / "s", {"a": 1})
    with pytest.raises(RunDirectoryError, match="already holds a sweep"):
        SweepDirectory(tmp_path / "s", {"a": 1}, resume=False, overwrite=False)
    with pytest.raises(RunDirectoryError, match="'a' was 1 and is now 2"):
        SweepDirectory(tmp_path / "s", {"a": 2}, resume=True, overwrite=False)
    with SweepDirectory(tmp_path / "s", {"a": 1}, resume=True, overwrite=False) as directory:
        assert directory.resumed
    assert not begun(tmp_path / "s", {"a": 2}, overwrite=True).resumed
    assert begun(tmp_path / "s", {"a": 2}, resume=True).resumed
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
    assert not begun(tmp_path, {"a": 1}, resume=True).resumed
    assert not half.exists()
    (tmp_path / ".frontier.csv.12-1.tmp").touch()
    (tmp_path / "notes.tmp").touch()
    SweepDirectory(tmp_path, {"a": 1}, resume=True, overwrite=False).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.tmp", "sweep.json", "sweep.lock"]


def test_a_refused_overwriting_changes_nothing(tmp_path: Path) -> None:
    begun(tmp_path, {"a": 1}).statistics_path.write_text("{}")
    with (
        pytest.raises(SigmaQuantError),
        SweepDirectory(tmp_path, {"a": 2}, resume=False, overwrite=True),
    ):
        raise SigmaQuantError("no.")
    assert begun(tmp_path, {"a": 1}, resume=True).resumed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["statistics.json", "sweep.json", "sweep.lock"]


@pytest.mark.parametrize("moment", ["SweepDirectory.begin", "void", "SweepDirectory._remove"])
def test_a_killed_overwriting_goes_on_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    begun(tmp_path, {"a": 1})
    with RunDirectory(tmp_path / "run") as run:
        run.write_result({})
    with monkeypatch.context() as patch:
        patch.setattr(f"sigmaquant.sweeping.files.{moment}", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            begun(tmp_path, {"a": 1}, overwrite=True)
    with pytest.raises(RunDirectoryError, match="already holds a sweep"):
        begun(tmp_path, {"a": 1})
    assert not begun(tmp_path, {"a": 1}, resume=True).resumed
    assert not RunFiles(tmp_path / "run").finished
    assert begun(tmp_path, {"a": 1}, resume=True).resumed


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="The sweep has not begun"):
        SweepDirectory(tmp_path / ("s" * 300), {}, resume=False, overwrite=False)


def test_a_folder_that_may_not_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bool:  # as without the right; the superuser has it always
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(StorageError, match=f"Make the folder {tmp_path} writable"):
        SweepDirectory(tmp_path, {}, resume=False, overwrite=False)
