"""What a long run shows while it works, on standard error: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars

from sigmaquant.units import format_seconds

Field = str | int | float | None
"""A value to show: text as it is, numbers with four significant digits, None removes the field."""


class Progress(Protocol):
    """What a display offers. Tasks nest: `advance` and `finish` mean the task started last."""

    def start(self, title: str, total: int | None = None) -> None:
        """Begin a task of `total` parts (None: unknown)."""

    def advance(self, count: int = 1) -> None:
        """`count` more parts of the current task are done."""

    def note(self, **fields: Field) -> None:
        """Show these values, such as ``size="134 KB", accuracy=0.912``, until they change."""

    def finish(self) -> None:
        """End the current task; the display vanishes with the outermost one."""


@contextlib.contextmanager
def task(progress: Progress, title: str, total: int | None = None) -> Iterator[None]:
    """A task that is finished even when an error ends it.

    Example:
        >>> with task(NullProgress(), "search", 3):
        ...     pass
    """
    progress.start(title, total)
    try:
        yield
    finally:
        progress.finish()


class NullProgress:
    """Shows nothing."""

    def start(self, title: str, total: int | None = None) -> None:
        """Nothing."""

    def advance(self, count: int = 1) -> None:
        """Nothing."""

    def note(self, **fields: Field) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


class _Fields:
    """The values to show, in the order in which they first came."""

    def __init__(self) -> None:
        self._values: dict[str, Field] = {}

    def update(self, fields: dict[str, Field]) -> None:
        self._values.update(fields)

    def __str__(self) -> str:
        shown = ((name.replace("_", " "), value) for name, value in self._values.items() if value is not None)
        return ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown
        )


@dataclass
class _Task:
    title: str
    total: int | None
    began: float
    done: int = 0


class PlainProgress:
    """Lines of text, at most one in `interval` seconds but for the outermost task's first and last.

    Args:
        stream: where to (None: standard error).
        interval: seconds between two lines.
        clock: seconds that only grow.
    """

    def __init__(
        self, stream: TextIO | None = None, interval: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream, self._interval, self._clock = stream, interval, clock
        self._tasks: list[_Task] = []
        self._fields = _Fields()
        self._last = float("-inf")

    def _print(self, text: str) -> None:
        self._last = self._clock()
        fields = str(self._fields)
        with contextlib.suppress(OSError, ValueError):  # nobody listens any more: no reason to lose the run
            print(f"{text}{f' | {fields}' if fields else ''}", file=self._stream or sys.stderr, flush=True)

    def _status(self) -> str:
        parts = []
        inner = 0.0  # the part of the task above that the tasks below it have done
        for item in reversed(self._tasks):
            part = f"{item.title} {item.done}{f'/{item.total}' if item.total else ''}"
            done = item.done + inner
            if item.total and 0 < done < item.total:
                seconds = self._clock() - item.began
                part += f" (left about {format_seconds(seconds * (item.total - done) / done)})"
            inner = min(done / item.total, 1.0) if item.total else 0.0
            parts.append(part)
        return " > ".join(reversed(parts))

    def start(self, title: str, total: int | None = None) -> None:
        """Begin a task."""
        self._tasks.append(_Task(title, total, self._clock()))
        if len(self._tasks) == 1:
            self._print(f"{title}: begins")

    def advance(self, count: int = 1) -> None:
        """Count, and print when the last line is old enough."""
        if self._tasks:
            self._tasks[-1].done += count
        self._maybe()

    def note(self, **fields: Field) -> None:
        """Keep the values for the next line, and print when the last one is old enough."""
        self._fields.update(fields)
        self._maybe()

    def _maybe(self) -> None:
        if self._tasks and self._clock() - self._last >= self._interval:
            self._print(self._status())

    def finish(self) -> None:
        """End the current task."""
        if not self._tasks:
            return
        ended = self._tasks.pop()
        if not self._tasks:
            self._print(f"{ended.title}: done after {format_seconds(self._clock() - ended.began)}")


class TerminalProgress:
    """A bar per task and a line with the noted values, drawn in place.

    Args:
        console: where to (None: a console on standard error).
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bars: RichBars | None = None
        self._tasks: list[TaskID] = []
        self._fields = _Fields()

    def start(self, title: str, total: int | None = None) -> None:
        """Begin a task; the first one opens the display."""
        if self._bars is None:
            self._bars = RichBars(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[notes]}", markup=False),
                console=self._console,
                transient=True,
                redirect_stdout=False,  # results go to standard output, never into the display
            )
            self._bars.start()
        self._tasks.append(self._bars.add_task(title, total=total, notes=""))
        self._show()

    def advance(self, count: int = 1) -> None:
        """Move the current bar."""
        if self._bars is not None:
            self._bars.advance(self._tasks[-1], count)

    def note(self, **fields: Field) -> None:
        """Show the values beside the outermost bar."""
        self._fields.update(fields)
        self._show()

    def _show(self) -> None:
        if self._bars is not None:
            self._bars.update(self._tasks[0], notes=str(self._fields))

    def finish(self) -> None:
        """End the current task; the last one closes the display and leaves one line."""
        if self._bars is None:
            return
        bars, ended = self._bars, self._tasks.pop()
        if self._tasks:
            bars.remove_task(ended)
            return
        elapsed = bars.tasks[0].elapsed or 0.0
        title = bars.tasks[0].description
        bars.stop()
        self._bars = None
        fields = str(self._fields)
        text = f"{title}: done after {format_seconds(elapsed)}{f' | {fields}' if fields else ''}"
        self._console.print(text, markup=False, highlight=False)


def shown_progress(progress: Progress | bool | None) -> Progress | None:
    """What `progress` asks for: a display as it is, True for the one that suits, False and None for none."""
    if isinstance(progress, bool):
        return make_progress() if progress else None
    return progress


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    found = None if shell is None else shell.get_ipython()
    return found is not None and hasattr(found, "kernel")


def make_progress(*, show: bool = True) -> Progress:
    """The display that suits standard error: live on a terminal, lines in a file or pipe, none if not `show`."""
    if not show:
        return NullProgress()
    if _in_notebook():
        return TerminalProgress(Console())  # which rich draws in the cell
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return TerminalProgress()
    return PlainProgress()
