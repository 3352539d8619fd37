"""Standard output and error as the program finds them: closed, full, broken off, or of an encoding without σ."""

from __future__ import annotations

import io
import os
import sys

from sigmaquant.errors import StorageError
from sigmaquant.terminal.plain_text import ERRORS

BROKEN_PIPE = 141
"""What shells give for a program that SIGPIPE ended: its reader has seen enough."""


class _Stdout(io.TextIOWrapper):
    """Says what is wrong where nothing can be written; a reader that is gone stays a `BrokenPipeError`."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise _told(error) from error

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise _told(error) from error


def _told(error: OSError) -> OSError:
    if isinstance(error, BrokenPipeError | StorageError):
        return error
    return StorageError(f"standard output cannot be written: {(error.strerror or str(error)).lower()}.")


def prepare() -> None:
    """Make both streams usable, whatever the program was started with. Streams of tests are left alone."""
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file to be opened would take its place, and get what is printed
            os.open(os.devnull, flags)  # the lowest free number; what is written to 1 then fails, as it should
    if sys.stdout is None:
        sys.stdout = _Stdout(io.BufferedWriter(io.FileIO(1, "r+", closefd=False)), encoding="utf-8", errors=ERRORS)
    elif sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        encoding, buffered = sys.stdout.encoding, not sys.stdout.line_buffering
        sys.stdout = _Stdout(sys.stdout.detach(), encoding=encoding, errors=ERRORS, line_buffering=not buffered)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", errors=ERRORS, closefd=False)  # noqa: SIM115
    elif sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors=ERRORS)


def close(code: int) -> int:
    """Write out what is left of standard output.

    Args:
        code: what the program would exit with.

    Returns:
        what it has to exit with: the same, or `BROKEN_PIPE`.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        code = BROKEN_PIPE
    finally:
        if code == BROKEN_PIPE:
            give_up()
    return code


def give_up() -> None:
    """Let nothing more be written, not even by the interpreter at its end."""
    if sys.stdout is not None and isinstance(sys.stdout, _Stdout):  # not one that a test has put in its place
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
