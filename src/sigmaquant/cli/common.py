"""What all commands share: options, reading of option values, and who may write to stdout."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sigmaquant.errors import SigmaQuantError, StorageError
from sigmaquant.terminal.grid import Grid

MODEL_HELP = "path/file.py:factory, net.onnx, net.keras, net.h5, timm:NAME, torchvision:NAME or hf:FOLDER"
DATA_HELP = "a factory, imagefolder:DIR, cifar10:DIR, cifar100:DIR, audiofolder:DIR or FILE.npz"
ModelArgument = Annotated[str, typer.Argument(help=MODEL_HELP)]
ModelOption = Annotated[str, typer.Option(help=f"the float model: {MODEL_HELP}")]
WeightsOption = Annotated[
    Path | None, typer.Option(help="weights for the model: .safetensors, or a state_dict saved by torch.save")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document on stdout")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="no progress display")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
MetricOption = Annotated[
    str | None, typer.Option(help="in place of the task's: top1, r2, …, or a callable as package.module:function")
]
TASK_HELP = "classification, regression, segmentation, detection?decode=…, embedding, tagging, or path/file.py:NAME"
TaskOption = Annotated[
    str | None, typer.Option(help=f"what counts: {TASK_HELP}; default: one output, by --metric, --loss and --outputs")
]
RunTaskOption = Annotated[str | None, typer.Option(help=f"what counts: {TASK_HELP}; default: the run's")]


def named_values(items: list[str], option: str) -> dict[str, str]:
    """``NAME=VALUE`` of a repeatable option."""
    result: dict[str, str] = {}
    for item in items:
        name, separator, value = item.rpartition("=")
        if not separator or not name or not value:
            raise SigmaQuantError(f"{option} {item!r} is not NAME=VALUE, like {option} conv1=8.")
        if result.get(name, value) != value:
            raise SigmaQuantError(f"{option} gives {name!r} twice, as {result[name]} and as {value}. Give it once.")
        result[name] = value
    return result


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """``2,4,6,8``."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise SigmaQuantError(f"{option} {text!r} is no list of whole numbers, like 2,4,6,8.") from None


def one_bitwidth(text: str, option: str) -> int:
    """A single number."""
    numbers = whole_numbers(text, option)
    if len(numbers) != 1:
        raise SigmaQuantError(f"{option} {text!r} is no single bitwidth. Several go with --allow NAME=4,8.")
    return numbers[0]


@contextlib.contextmanager
def stdout_is_ours(active: bool) -> Iterator[None]:
    """Send to stderr what else is printed on stdout, so that --json stays one document.

    The user's factories print, and so do C libraries: the solver of `ilp`.
    """
    if not active:
        yield
        return
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _flush_c()
        os.dup2(saved, 1)
        os.close(saved)


def _flush_c() -> None:
    """Empty C's own buffer of stdout, which is full of lines where stdout is no terminal."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # Windows finds no C library this way
        ctypes.CDLL(None).fflush(None)


@contextlib.contextmanager
def interruptible(out: Path | None, overwrite: bool = False) -> Iterator[None]:
    """Ctrl-C ends in one line and the exit code that shells expect."""
    try:
        yield
    except KeyboardInterrupt:
        again = f"Continue with the same command and --resume{' in place of --overwrite' if overwrite else ''}"
        remedy = "" if out is None else f" {again}; the run is in {out}."
        typer.secho(f"stopped.{remedy}", err=True)
        raise typer.Exit(130) from None


@contextlib.contextmanager
def _writing_to_stdout() -> Iterator[None]:
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, StorageError):
        raise  # of the first, whose reader has seen enough, nothing is said
    except OSError as error:
        raise StorageError(f"standard output cannot be written: {(error.strerror or str(error)).lower()}.") from error


def print_parts(*parts: Grid | str) -> None:
    """Tables and lines on stdout: as wide as the terminal or as COLUMNS says, or else 160 characters.

    Raises:
        StorageError: it leads to a file on a full disk, or the like.
    """
    wide = None if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal() else 160
    console = Console(width=wide, markup=False, highlight=False, emoji=False)
    with _writing_to_stdout():
        for part in parts:
            if isinstance(part, str):
                console.print(part)
                continue
            for shown in part.shown(console.width, console.encoding):
                console.print(shown)


def print_line(text: str) -> None:
    """A line on stdout, never broken in two: it holds a path.

    Raises:
        StorageError: as `print_parts`.
    """
    with _writing_to_stdout():
        print(text)


def print_json(document: Any) -> None:
    """One document on stdout.

    Raises:
        StorageError: as `print_parts`.
    """
    with _writing_to_stdout():
        print(json.dumps(document, indent=2, default=str))
