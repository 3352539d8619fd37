"""Temporary folders that a killed process leaves behind for nobody: the next one removes them."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import tempfile
import time
import weakref
from pathlib import Path

from sigmaquant.errors import SigmaQuantError
from sigmaquant.runs.lock import RunLock

PREFIX = "sigmaquant-"
_OWNER = ".owner.lock"
_YOUNG_SECONDS = 60.0
"""A folder without its lock may be that of a process that is just about to take it."""


class ScratchFolder:
    """A folder for files that nobody needs after this process; a context manager.

    It is removed at the end, and when the object is dropped. Its lock dies with the process, so that whoever makes the
    next one in the same place sees which folders nobody holds any more, and removes them.

    Args:
        place: the folder to make it in; None: the system's for temporary files.
        prefix: of its name; what is left behind is looked for under the same.

    Attributes:
        path: the folder.
    """

    def __init__(self, place: Path | None = None, prefix: str = PREFIX) -> None:
        remove_abandoned(place, prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        self._lock: RunLock | None = None
        with contextlib.suppress(SigmaQuantError):  # a file system without locks: only its age is known then
            self._lock = RunLock(self.path / _OWNER)
        self._end = weakref.finalize(self, _remove, self.path, self._lock)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder; a second call does nothing."""
        self._end()


def _remove(path: Path, lock: RunLock | None) -> None:
    if lock is not None:
        lock.release()
    shutil.rmtree(path, ignore_errors=True)


def remove_abandoned(place: Path | None = None, prefix: str = PREFIX) -> None:
    """Remove the folders of `ScratchFolder` whose processes are gone.

    Args:
        place, prefix: as there.
    """
    if sys.platform == "win32":  # without locks, a living process cannot be told from a dead one
        return
    folder = Path(tempfile.gettempdir()) if place is None else place
    ours = re.compile(re.escape(prefix) + r"[a-z0-9_]{8}")
    with contextlib.suppress(OSError):
        for entry in [entry for entry in folder.iterdir() if ours.fullmatch(entry.name)]:
            with contextlib.suppress(OSError, SigmaQuantError):
                _remove_if_abandoned(entry)


def _remove_if_abandoned(entry: Path) -> None:
    if entry.is_symlink() or not entry.is_dir():
        return
    if not (entry / _OWNER).exists():
        if time.time() - entry.stat().st_mtime < _YOUNG_SECONDS:
            return
        shutil.rmtree(entry, ignore_errors=True)
        return
    lock = RunLock(entry / _OWNER)  # refused where its owner lives
    try:
        shutil.rmtree(entry, ignore_errors=True)
    finally:
        lock.release()
