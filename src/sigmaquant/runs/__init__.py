"""The run directory: atomic files, a lock, resumable state, the log, and what is shown meanwhile."""

from sigmaquant.runs.atomic import save_tensors_atomic, write_bytes_atomic, write_text_atomic
from sigmaquant.runs.directory import RunDirectory
from sigmaquant.runs.files import RunFiles
from sigmaquant.runs.logs import logging_to
from sigmaquant.runs.progress import (
    NullProgress,
    PlainProgress,
    Progress,
    TerminalProgress,
    make_progress,
    shown_progress,
    task,
)
from sigmaquant.runs.weights import load_tensors, load_weights

__all__ = [
    "NullProgress",
    "PlainProgress",
    "Progress",
    "RunDirectory",
    "RunFiles",
    "TerminalProgress",
    "load_tensors",
    "load_weights",
    "logging_to",
    "make_progress",
    "save_tensors_atomic",
    "shown_progress",
    "task",
    "write_bytes_atomic",
    "write_text_atomic",
]
