"""The log goes to the run's file; standard output stays clean; a full disk never ends a run."""

from __future__ import annotations

import errno
import logging
import os
import re
from pathlib import Path

import pytest

from sigmaquant.errors import StorageError
from sigmaquant.runs.logs import logging_to


def test_file_and_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.txt"
    module = logging.getLogger("sigmaquant.search.phase1")
    with logging_to(path) as log:
        log.debug("not this")
        module.info("step µ")
        module.warning("careful")
    module.warning("after the end")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [re.sub(r"^\S+Z ", "", line) for line in lines] == [
        "INFO sigmaquant.search.phase1: step µ",
        "WARNING sigmaquant.search.phase1: careful",
    ]
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", lines[0])
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "WARNING: careful\n")


def test_within_another_nothing_is_told_twice_and_nothing_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("sigmaquant")
    before = logger.level, list(logger.handlers)
    with logging_to(stderr_level=logging.INFO) as log:
        for number, path in enumerate((None, tmp_path / "log.txt")):
            with logging_to(path, level=logging.WARNING):
                log.info("step %d", number)
                log.warning("careful %d", number)
        log.info("end")
    said = ["INFO: step 0", "WARNING: careful 0", "INFO: step 1", "WARNING: careful 1", "INFO: end"]
    assert capsys.readouterr().err.splitlines() == said
    assert (tmp_path / "log.txt").read_text().count("\n") == 1
    assert (logger.level, list(logger.handlers)) == before


def test_a_second_run_appends_and_settings_are_put_back(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    logger = logging.getLogger("sigmaquant")
    before = logger.level, list(logger.handlers)
    for text in ("one", "two"):
        with logging_to(path, stderr_level=None) as log:
            log.info(text)
    assert len(path.read_text().splitlines()) == 2
    assert (logger.level, list(logger.handlers)) == before


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="There is no log"), logging_to(tmp_path / "no" / "log.txt"):
        pass


def test_full_disk_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(tmp_path / "log.txt", stderr_level=None) as log:
        handler = log.handlers[-1]
        assert isinstance(handler, logging.FileHandler)

        class Full:
            def write(self, _text: str) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            def flush(self) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            def close(self) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        handler.stream.close()
        handler.stream = Full()  # type: ignore[assignment]
        log.info("one")
        log.info("two")
    error = capsys.readouterr().err
    assert error.count("could not write to") == 1
    assert "Traceback" not in error
