"""The program in a process that may die: forked from this one, with a limit on time and memory."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import tempfile
import time
from dataclasses import dataclass

EXPECTED = (0, 1, 2)
"""Exit codes of a program that knows what it does; 70 is an error of its own, a signal a crash."""


@dataclass(frozen=True)
class Ending:
    """How a call of the program ended.

    Attributes:
        code: its exit code, or the negative number of a signal.
        out, err: what it printed.
        seconds: how long it ran.
    """

    code: int
    out: str
    err: str
    seconds: float

    @property
    def well(self) -> bool:
        """Whether it ended on purpose."""
        return self.code in EXPECTED and "Traceback" not in self.err

    @property
    def cause(self) -> str:
        """The line that says why it did not."""
        lines = [line for line in self.err.strip().splitlines() if not line.startswith("error: this is a")]
        return f"exit {self.code}: {lines[-1][:160] if lines else ''}"


def call(*arguments: str, seconds: float = 60, memory_gib: float = 6, kill_after: float | None = None) -> Ending:
    """``sigmaquant ARGUMENTS``.

    Args:
        arguments: of the command line.
        seconds: after so long it is killed, which counts as a crash.
        memory_gib: more address space than it has now.
        kill_after: it is killed after so many seconds on purpose.
    """
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as err:
        child = os.fork()
        if child == 0:
            _become(arguments, out.fileno(), err.fileno(), seconds, memory_gib)
        if kill_after is not None:
            _kill_after(child, kill_after)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        printed, told = (stream.read().decode(errors="replace") for stream in (out, err))
    return Ending(os.waitstatus_to_exitcode(status), printed, told, time.monotonic() - begin)


def _become(arguments: tuple[str, ...], out: int, err: int, seconds: float, memory_gib: float) -> None:
    code = 99
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
        signal.setitimer(signal.ITIMER_REAL, seconds)
        with open("/proc/self/statm") as file:  # noqa: PTH123
            used = int(file.read().split()[0]) * resource.getpagesize()
        limit = used + int(memory_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        sys.argv = ["sigmaquant", *arguments]
        from sigmaquant import cli

        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    finally:
        os._exit(code)


def _kill_after(child: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
