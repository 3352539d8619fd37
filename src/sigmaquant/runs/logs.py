"""The log: everything into the run directory's ``log.txt``, warnings on standard error."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from sigmaquant.runs.atomic import storage_error

ROOT = "sigmaquant"
"""The package's logger; every module logs below it with ``logging.getLogger(__name__)``."""

logging.getLogger(ROOT).addHandler(logging.NullHandler())  # a library prints nothing until it is asked to


class _FileHandler(logging.FileHandler):
    """A full disk costs the log's lines, never the run: says so once and goes on."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the base class's name)
        if not self._told:
            self._told = True
            print(f"warning: could not write to {self.baseFilename}; the log is incomplete.", file=sys.stderr)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what is buffered cannot be written on a full disk
            super().close()


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at that moment: a progress display replaces it while it is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


@contextlib.contextmanager
def logging_to(
    path: Path | None = None, *, level: int = logging.INFO, stderr_level: int | None = logging.WARNING
) -> Iterator[logging.Logger]:
    """While active, the package's messages go to a file and to standard error.

    Within another such block they go to standard error as the outer one has it, and never twice.

    Args:
        path: file to append to, in UTF-8 with times in UTC; None: no file.
        level: least severity for the file.
        stderr_level: least severity for standard error; None: nothing there.

    Raises:
        StorageError: the file cannot be opened.

    Example:
        >>> with logging_to(stderr_level=None) as log:
        ...     log.info("search begins")
    """
    handlers: list[logging.Handler] = []
    logger = logging.getLogger(ROOT)
    if path is not None:
        try:
            file = _FileHandler(path, encoding="utf-8")
        except OSError as error:
            raise storage_error(path, error, "There is no log.") from error
        format_ = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        format_.converter = time.gmtime
        file.setFormatter(format_)
        file.setLevel(level)
        handlers.append(file)
    if stderr_level is not None and not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        screen = _StderrHandler()
        screen.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        screen.setLevel(stderr_level)
        handlers.append(screen)
    before = logger.level
    for handler in handlers:
        logger.addHandler(handler)
    ours = [handler for handler in logger.handlers if isinstance(handler, _FileHandler | _StderrHandler)]
    logger.setLevel(min([handler.level for handler in ours], default=logging.WARNING))
    try:
        yield logger
    finally:
        logger.setLevel(before)
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
