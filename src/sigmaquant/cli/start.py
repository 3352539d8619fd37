"""The program's beginning and end: nothing slow is imported before it is needed, and every end has its exit code."""

from __future__ import annotations

import os
import signal
import sys

_DEFECT = 70  # EX_SOFTWARE of sysexits.h
_INTERRUPTED = 130  # as shells have it for SIGINT


def main() -> None:
    """Entry point: a user's mistake ends in one message and exit code 2, never in a traceback.

    A defect of ours shows one, and has an exit code of its own: 1 would say that a run has finished.
    """
    interruptible = _ends_quietly()
    from sigmaquant.cli import streams

    streams.prepare()
    sys.exit(_ended(sys.argv[1:], interruptible))


def _ends_quietly() -> bool:
    """Let Ctrl-C end the program at once: what is interrupted while it is imported shows tracebacks of its own.

    Returns:
        whether Python's own way of doing it was changed, and is to be restored before a verb begins.
    """
    try:
        ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if ours:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    except ValueError:  # not in the main thread
        return False
    return ours


def _ended(arguments: list[str], interruptible: bool) -> int:
    from sigmaquant.cli import streams
    from sigmaquant.errors import SigmaQuantError, StorageError

    try:
        return streams.close(_run(arguments, interruptible))
    except SigmaQuantError as error:
        tell(f"error: {out_of_memory(error) or error}")
        if isinstance(error, StorageError):  # standard output may be what cannot be written
            streams.give_up()
        return error.exit_code
    except BrokenPipeError:
        streams.give_up()
        return streams.BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        told = out_of_memory(error)
        if told is not None:
            tell(f"error: {told}")
            return SigmaQuantError.exit_code
        import traceback

        traceback.print_exc()
        tell("error: this is a defect. Please report it with the lines above.")
        return _DEFECT


def _run(arguments: list[str], interruptible: bool) -> int:
    """The exit code of a command."""
    if arguments == ["--version"]:
        from sigmaquant._version import __version__

        print(f"sigmaquant {__version__}")
        return 0
    try:
        if "_SIGMAQUANT_COMPLETE" in os.environ and _names_verb():
            from sigmaquant.cli.verbs import names_alone

            names_alone()(prog_name="sigmaquant")
        elif "_SIGMAQUANT_COMPLETE" not in os.environ and (not arguments or arguments[0] in ("-h", "--help")):
            from sigmaquant.cli.verbs import overview

            overview()
            return 0 if arguments else 2
        else:
            _verb(interruptible)
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # met by a library that makes it exit code 1
            raise ended.__context__ from None
        if ended.code is None:
            return 0
        if isinstance(ended.code, int):
            return ended.code
        tell(str(ended.code))
        return 1
    return 0


def _names_verb() -> bool:
    """Whether a line that a shell wants completed ends in the name of a verb; bash gives the word's place."""
    place = os.environ.get("COMP_CWORD", "")
    if place.isdecimal():
        return int(place) < 2
    line = os.environ.get("_TYPER_COMPLETE_ARGS", "")
    words = line.split()
    return len(words) < 2 or (len(words) == 2 and not line.endswith(" "))


def _verb(interruptible: bool) -> None:
    from sigmaquant.cli.program import app
    from sigmaquant.runs import logging_to

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with logging_to():
        app(prog_name="sigmaquant")


def tell(text: str) -> None:
    """A line on standard error, red where that is a terminal."""
    try:
        red = sys.stderr.isatty()
        print(f"\x1b[31m{text}\x1b[0m" if red else text, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # nobody listens
        pass


def out_of_memory(error: BaseException) -> str | None:
    """What to say where memory did not do; None where it is something else.

    Python, PyTorch on the processor and PyTorch on the GPU each have an error of their own.
    """
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen)
        if isinstance(seen, MemoryError) or (
            isinstance(seen, RuntimeError)
            and ("out of memory" in text or "not enough memory" in text or "can't allocate memory" in text)
        ):
            reason = next(iter(text.strip().splitlines()), "")
            return (
                f"there is not enough memory{f' ({reason[:200]})' if reason else ''}. Use smaller batches "
                "(--batch-size), fewer examples or smaller inputs, or free some; a run goes on with --resume."
            )
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return None
