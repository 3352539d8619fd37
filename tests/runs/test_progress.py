"""What is shown: on a terminal, in a file, and not at all; always on standard error."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sigmaquant.runs.progress import NullProgress, PlainProgress, Progress, TerminalProgress, make_progress, task


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def use(progress: Progress, clock: Clock) -> None:
    with task(progress, "search", 4):
        progress.note(size="134 KB", accuracy=0.91234567)
        for step in range(4):
            with task(progress, "training [x]", 10):
                for _ in range(10):
                    clock.now += 1
                    progress.advance()
            progress.note(step=step)
            progress.advance()


def test_plain_lines_are_rate_limited() -> None:
    stream, clock = io.StringIO(), Clock()
    use(PlainProgress(stream, interval=10, clock=clock), clock)
    assert stream.getvalue().splitlines() == [
        "search: begins",
        "search 0/4 (left about 30.0 s) > training [x] 10/10 | size 134 KB, accuracy 0.9123",
        "search 1/4 (left about 20.0 s) > training [x] 10/10 | size 134 KB, accuracy 0.9123, step 0",
        "search 2/4 (left about 10.0 s) > training [x] 10/10 | size 134 KB, accuracy 0.9123, step 1",
        "search 3/4 > training [x] 10/10 | size 134 KB, accuracy 0.9123, step 2",
        "search: done after 40.0 s | size 134 KB, accuracy 0.9123, step 3",
    ]


def test_many_steps_give_few_lines() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = PlainProgress(stream, interval=10, clock=clock)
    progress.start("work")
    for _ in range(10_000):
        clock.now += 0.001
        progress.advance()
    progress.finish()
    assert len(stream.getvalue().splitlines()) <= 3


def test_fields_can_be_removed_and_unknown_totals_are_fine() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = PlainProgress(stream, interval=0, clock=clock)
    progress.start("calibration")
    progress.note(weight_bytes=3, gone="x")
    progress.note(gone=None)
    progress.advance(2)
    assert stream.getvalue().splitlines()[-1] == "calibration 2 | weight bytes 3"


def test_a_closed_stream_does_not_end_the_run() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream, interval=0)
    stream.close()
    progress.start("work")
    progress.advance()
    progress.finish()


@pytest.mark.parametrize("kind", [NullProgress, PlainProgress, TerminalProgress])
def test_calls_out_of_order_do_nothing(kind: type[Progress]) -> None:
    progress = kind()
    progress.advance()
    progress.note(a=1)
    progress.finish()


def test_terminal_display() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = TerminalProgress(Console(file=stream, force_terminal=True, width=140))
    use(progress, clock)
    shown = stream.getvalue()
    assert "training [x]" in shown
    assert "size 134 KB, accuracy 0.9123" in shown
    assert shown.rstrip().splitlines()[-1].endswith("size 134 KB, accuracy 0.9123, step 3")
    use(progress, clock)  # a display can be opened again


def test_an_error_closes_the_display() -> None:
    progress = TerminalProgress(Console(file=io.StringIO(), force_terminal=True))
    with pytest.raises(ValueError, match="boom"), task(progress, "a", 1), task(progress, "b", 1):
        raise ValueError("boom")
    assert progress._bars is None


def test_choice_of_the_display(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(make_progress(show=False), NullProgress)
    plain = make_progress()
    assert isinstance(plain, PlainProgress)
    plain.start("work")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "work: begins\n")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_progress(), TerminalProgress)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_progress(), PlainProgress)
