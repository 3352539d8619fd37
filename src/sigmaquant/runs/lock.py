"""A lock on a run directory that dies with its process, even with one that is killed."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from sigmaquant.errors import RunDirectoryError
from sigmaquant.runs.atomic import storage_error, write_all

_held: set[int] = set()


def _forget_in_child() -> None:
    """Close the locks in a forked child: a data-loading worker that outlives a killed parent must not keep them."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


class RunLock:
    """An exclusive lock on a file, held from construction until `release` or the end of the process.

    The kernel keeps it (``flock``), so a killed process leaves no stale lock. The file stays: removing it would let two
    processes lock two files of one name. On Windows, which has no ``flock``, nothing is locked.

    Args:
        path: the lock file; it holds the process id of the last holder.

    Raises:
        RunDirectoryError: another process (or another object of this one) holds the lock, or the file system has none.
        StorageError: the file cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self._pid = os.getpid()
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise storage_error(path, error, "The run has not begun.") from error
        _held.add(self._descriptor)
        try:
            self._lock(path)
            os.ftruncate(self._descriptor, 0)
            write_all(self._descriptor, f"{self._pid}\n".encode())
        except BaseException as error:
            self.release()
            if isinstance(error, OSError):
                raise storage_error(path, error, "The run has not begun.") from error
            raise

    def _lock(self, path: Path) -> None:
        if sys.platform == "win32":
            return
        import fcntl

        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise RunDirectoryError(
                    f"the file system of {path.parent} cannot lock files ({error.strerror}). "
                    "Put the run directory on a local disk."
                ) from error
            holder = os.read(self._descriptor, 32).decode(errors="replace").strip()
            who = f"process {holder}" if holder.isdigit() else "another process"
            if holder == str(self._pid):
                who += " (this one)"
            raise RunDirectoryError(
                f"the run directory {path.parent} is already in use by {who}. "
                "Wait until it ends, stop it, or choose another directory."
            ) from None

    def release(self) -> None:
        """Give the lock up; a second call does nothing."""
        if self._descriptor in _held and os.getpid() == self._pid:
            _held.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
