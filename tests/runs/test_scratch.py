"""What killed processes leave behind is removed by the next one; what is in use is not."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sigmaquant.runs.atomic import write_text_atomic
from sigmaquant.runs.scratch import ScratchFolder, remove_abandoned

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def killed(work: Callable[[], object]) -> int:
    """Do something in a process that is then killed; its number."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    return child


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def kept(folder: Path) -> None:
    scratch = ScratchFolder(folder)
    (scratch.path / "work").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_next_one_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    killed(lambda: kept(tmp_path))
    assert len(names(tmp_path)) == 1
    with ScratchFolder(tmp_path) as folder:
        assert names(tmp_path) == [folder.name]
    assert names(tmp_path) == []


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    mine = ScratchFolder(tmp_path)
    (tmp_path / "sigmaquant-notes").mkdir()
    (tmp_path / "sigmaquant-abcdefgh").write_text("a file of somebody's")

    def other() -> None:
        remove_abandoned(tmp_path)
        ScratchFolder(tmp_path).close()

    killed(other)
    assert names(tmp_path) == sorted([mine.path.name, "sigmaquant-notes", "sigmaquant-abcdefgh"])
    remove_abandoned(tmp_path)
    assert mine.path.is_dir()
    mine.close()
    mine.close()
    assert not mine.path.exists()


def test_a_folder_that_is_just_being_made_stays(tmp_path: Path) -> None:
    young, old = tmp_path / "sigmaquant-abcdefgh", tmp_path / "sigmaquant-abcdefgi"
    for folder in (young, old):
        folder.mkdir()
    os.utime(old, (time.time() - 3600,) * 2)
    remove_abandoned(tmp_path)
    assert names(tmp_path) == [young.name]


def test_a_dropped_one_is_removed(tmp_path: Path) -> None:
    scratch = ScratchFolder(tmp_path)
    del scratch
    gc.collect()
    assert names(tmp_path) == []


def test_a_place_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        ScratchFolder(tmp_path / "nothing")


def test_files_half_written_by_killed_processes_go(tmp_path: Path) -> None:
    target = tmp_path / "verification.json"

    def writes() -> None:
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        write_text_atomic(target, "half")

    killed(writes)
    living = tmp_path / f".verification.json.{os.getppid()}-0.tmp"
    living.write_text("somebody is at it")
    other = tmp_path / ".other.json.999999999-0.tmp"
    other.write_text("of another file")
    assert len(names(tmp_path)) == 3
    write_text_atomic(target, "whole")
    assert names(tmp_path) == sorted([living.name, other.name, target.name])


def test_a_killed_c_export_leaves_nothing_for_long(tmp_path: Path) -> None:
    from sigmaquant.export.c import writing as export

    target = tmp_path / "model_c"

    def writes() -> None:
        Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        export.write_folder(target, {"a.c": "int a;"})

    export.write_folder(target, {"a.c": "int b;"})
    killed(writes)
    assert len(names(tmp_path)) == 2
    export.write_folder(target, {"a.c": "int c;"})
    assert names(tmp_path) == ["model_c"]
    assert (target / "a.c").read_text() == "int c;"
