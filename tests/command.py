"""The command line in this process: the same `main` as the installed program's, with what it printed."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import tiny
from sigmaquant import cli

BAD = Path(__file__).with_name("bad.py")
MODEL, SINGLE, TRAIN, VALIDATION, TEST = (
    f"{tiny.HERE}:{name}" for name in ("trained", "single", "train_data", "validation_data", "test_data")
)
QUICK = ("--cycle-examples", "100", "--epochs", "0.5", "--batch-size", "50", "--max-cycles", "1")


@dataclass(frozen=True)
class Outcome:
    """Exit code and what was printed."""

    code: int
    out: str
    err: str


def main(*arguments: object) -> Outcome:
    """Run ``sigmaquant ARGUMENTS``."""
    before, out, err = sys.argv, io.StringIO(), io.StringIO()
    sys.argv = ["sigmaquant", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    finally:
        sys.argv = before
    return Outcome(code, out.getvalue(), err.getvalue())


def quantize(*arguments: object, model: str = MODEL, train: str = TRAIN) -> Outcome:
    """Run ``sigmaquant quantize`` on the tiny network, quickly and quietly."""
    return main("quantize", model, "--train", train, "--val", VALIDATION, "--quiet", *QUICK, *arguments)


def refused(outcome: Outcome) -> str:
    """The message of a user's mistake: exit code 2, no traceback, nothing on standard output."""
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    return " ".join(outcome.err.split())
