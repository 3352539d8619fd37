"""The folder of a sweep: one run directory per budget, and what they share."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sigmaquant.errors import RunDirectoryError, SigmaQuantError
from sigmaquant.report.write import NAME, number_files
from sigmaquant.runs.atomic import remove_leftovers, storage_error, write_text_atomic
from sigmaquant.runs.beginnings import tell_begun
from sigmaquant.runs.directory import void
from sigmaquant.runs.documents import dumps, first_difference, plain
from sigmaquant.runs.files import read_document, same_configuration
from sigmaquant.runs.lock import RunLock

SCHEMA, SCHEMA_VERSION = "sigmaquant.sweeping", 1

_TEMPORARY = re.compile(
    r"\.((sweep|sweep\.new|statistics|report)\.json|frontier\.csv|report\.html|report_\w+\.csv)\.\d+-\d+\.tmp"
)


class SweepDirectory:
    """A sweep's folder, owned by one process. A context manager; the lock ends with it or with the process.

    Nothing of an earlier sweep is touched before `begin`: one that is refused until then costs nothing. An overwriting
    that is killed, before or after, goes on as an overwriting when it is resumed.

    Args:
        path: the folder; it is created with its parents.
        config: what must be the same for a resumed sweep to be the same sweep.
        resume: continue the sweep that is there; an empty folder is started as usual.
        overwrite: replace the sweep that is there; runs of budgets that are not asked for again stay.

    Attributes:
        path: the folder.
        resumed: whether there was a sweep to resume.

    Raises:
        RunDirectoryError: in use, not empty, no sweep, or one of another configuration.
        StorageError: the folder cannot be written.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
        self.path, self._config, self._announced = Path(path), plain(config), False
        if resume and overwrite:
            raise RunDirectoryError("a sweep is either resumed or overwritten. Give only one of the two.")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            foreign = not self.config_path.exists() and any(not _ours(entry.name) for entry in self.path.iterdir())
        except FileExistsError:
            raise RunDirectoryError(f"{self.path} is a file, not a directory. Choose another path.") from None
        except OSError as error:
            raise storage_error(Path(error.filename or self.path), error, "The sweep has not begun.") from error
        if foreign:
            raise RunDirectoryError(
                f"the directory {self.path} is not empty and holds no sweep. Choose another path, or an empty one."
            )
        self._lock = RunLock(self.path / "sweep.lock")
        try:
            self.resumed = self._look(resume, overwrite)
        except BaseException:
            self.close()
            raise

    def _look(self, resume: bool, overwrite: bool) -> bool:
        remove_leftovers(self.path, _TEMPORARY)
        replacing = self.new_config_path.exists()
        asked = self.new_config_path if replacing else self.config_path
        if not asked.exists():
            return False
        if resume:
            old = read_config(self.path, asked.name)
            same_configuration(self.path, old, first_difference(old, self._config))
            return not replacing
        if not overwrite:
            raise RunDirectoryError(
                f"the directory {self.path} already holds a sweep. Continue it with --resume, choose another path, or "
                "replace it with --overwrite."
            )
        self._write_config(self.new_config_path)
        self._announced = not replacing
        return False

    def begin(self, runs: Iterable[str]) -> None:
        """Make the folder this sweep's: of an earlier one nothing counts any more.

        Args:
            runs: names of this sweep's runs.

        Raises:
            StorageError: the folder cannot be written.
        """
        self._announced = False
        if self.resumed:
            tell_begun(self.path)
            return
        for run in runs:
            void(self.path / run)
        page = self.path / NAME
        self._remove(self.statistics_path, self.frontier_path, page, *number_files(page, runs=2).values())
        self._write_config(self.config_path)
        self._remove(self.new_config_path)
        tell_begun(self.path)

    def _write_config(self, path: Path) -> None:
        write_text_atomic(path, dumps({"schema": SCHEMA, "version": SCHEMA_VERSION, "config": self._config}))

    def _remove(self, *paths: Path) -> None:
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise storage_error(path, error, "The old sweep is discarded in part.") from error

    @property
    def config_path(self) -> Path:
        """What was asked for."""
        return self.path / "sweep.json"

    @property
    def new_config_path(self) -> Path:
        """What is asked for in its place, until the old sweep is discarded."""
        return self.path / "sweep.new.json"

    @property
    def statistics_path(self) -> Path:
        """What all runs share."""
        return self.path / "statistics.json"

    @property
    def frontier_path(self) -> Path:
        """A line per finished run."""
        return self.path / "frontier.csv"

    def __enter__(self) -> SweepDirectory:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._announced and isinstance(error, SigmaQuantError):  # refused: the old sweep stays
            with contextlib.suppress(OSError):
                self.new_config_path.unlink()
        self.close()

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()


def _ours(name: str) -> bool:
    """Whether a sweep that was killed while it began may have left the file."""
    return name == "sweep.lock" or _TEMPORARY.fullmatch(name) is not None


def read_config(path: Path, name: str = "sweep.json") -> dict[str, Any]:
    """What a sweep was asked for.

    Raises:
        RunDirectoryError: no sweep, or of another version.
    """
    document = read_document(path / name)
    config = document.get("config")
    if document.get("schema") != SCHEMA or document.get("version") != SCHEMA_VERSION or not isinstance(config, dict):
        raise RunDirectoryError(f"{path} is no sweep that this program can read: see its {name}.")
    return config
