"""Why `torch.export` refused a model, said with the user's own line and a remedy instead of a traceback."""

from __future__ import annotations

import linecache
import logging
import re
import sysconfig
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

_OWN = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<")
_STANDARD_LIBRARY = sysconfig.get_paths()["stdlib"]
_PACKED, _RECURRENT = str(Path("torch", "nn", "utils", "rnn.py")), str(Path("torch", "nn", "modules", "rnn.py"))
_BATCH_GUARD = re.compile(r"\b(Eq|Ne|Mod)\(|[<>=]")


@dataclass(frozen=True)
class SourceLine:
    """One line of the user's program."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}\n    {self.text}"


def user_line(frames: Iterable[traceback.FrameSummary]) -> SourceLine | None:
    """The innermost frame that lies outside torch, this package and Python's own library, or None."""
    found = None
    for frame in frames:
        standard = frame.filename.startswith(_STANDARD_LIBRARY) and "site-packages" not in frame.filename
        if not standard and not frame.filename.startswith(_OWN):
            found = SourceLine(frame.filename, frame.lineno or 0, (frame.line or "").strip())
    return found


class GuardRecorder(logging.Filter):
    """Keeps torch's export messages off the screen and remembers which user lines narrowed the batch size.

    The symbolic-shape logger reports a guard at the moment the line that needs it runs, so the live stack names it.

    Attributes:
        lines: the lines, in order; the caller's own frames are among them only where no line of the model is.
    """

    _loggers = ("torch.fx.experimental.symbolic_shapes", "torch.fx.experimental.recording", "torch.export._trace")

    def __init__(self, record_guards: bool = False) -> None:
        super().__init__()
        self.lines: list[SourceLine] = []
        self._record_guards = record_guards
        self._levels: dict[str, int] = {}
        self._depth = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Swallow the record; remember the user's line where it reports a guard."""
        if "[guard added]" in str(record.msg) and _BATCH_GUARD.search(record.getMessage()):
            # only frames below the one that entered the recorder can be the model's
            line = user_line(traceback.extract_stack()[self._depth :])
            if line is not None:
                self.lines.append(line)
        return False

    def __enter__(self) -> GuardRecorder:
        self._depth = len(traceback.extract_stack()) - 1
        for name in self._loggers:
            logger = logging.getLogger(name)
            logger.addFilter(self)
            self._levels[name] = logger.level
            if self._record_guards:
                logger.setLevel(logging.INFO)
        return self

    def __exit__(self, *_: object) -> None:
        for name, level in self._levels.items():
            logging.getLogger(name).removeFilter(self)
            logging.getLogger(name).setLevel(level)


def line_of(error: BaseException) -> SourceLine | None:
    """The user's line that raised.

    Errors that torch raises after the fact carry the line in their message instead (``File "model.py", line 8``).

    Args:
        error: caught inside this package, so that its traceback holds no frame of the caller.
    """
    found = user_line(traceback.extract_tb(error.__traceback__))
    if found is not None:
        return found
    for file, number in re.findall(r'File "([^"]+)", line (\d+)', str(error)):
        frame = traceback.FrameSummary(file, int(number), "", line=linecache.getline(file, int(number)))
        found = user_line([frame]) or found
    return found


def is_batch_violation(error: BaseException) -> bool:
    """Whether export found that the model fixes or restricts the batch size."""
    return "Constraints violated" in str(error)


def explain(error: BaseException, line: SourceLine | None) -> str:
    """What happened and what to change, from the error and the text of the user's line."""
    message, text = str(error), "" if line is None else line.text
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    # a layer that is given packed sequences makes states for a number of them that depends on the data
    sized = any(file.endswith(_RECURRENT) for file in files) and "argument 'size'" in message
    if sized or any(file.endswith(_PACKED) for file in files):
        return (
            "Packed sequences (pack_padded_sequence, pad_packed_sequence) have lengths that depend on the data, and a "
            "graph has one length. Give the recurrent layer the padded sequences, all of one length, and choose the "
            "last step that counts with a mask or torch.gather where it matters."
        )
    if is_batch_violation(error):
        found = re.search(r"Suggested fixes:\s*(.+)", message)
        allowed = "" if found is None else f" (it works only for {_readable(found.group(1))})"
        return (
            f"The model fixes or restricts its batch size{allowed}, but it must work for every batch size. Use -1 or "
            "x.shape[0] for the batch in view, reshape and expand; do not compare, iterate over, unpack or chunk the "
            "batch dimension, nor take its len() or int()."
        )
    if ".numpy()" in message or ".numpy(" in text:
        return "NumPy is used inside forward. Use torch operations on the tensors themselves."
    if "data-dependent" in message or type(error).__name__.startswith("GuardOnDataDependent"):
        if re.search(r"\.item\(|\bint\(|\bfloat\(|\bbool\(|\.tolist\(", text):
            return (
                "A tensor's value is turned into a Python number (.item(), int(), float(), .tolist()), so the graph "
                "would hold for this one input only. Keep the value as a tensor, or compute it outside of forward."
            )
        return (
            "What Python does here depends on the values in a tensor (if, while, and, or, an index). Replace a "
            "choice of values by torch.where(condition, a, b), a choice of computations by torch.cond(condition, f, g, "
            "(x,)), or move the decision out of forward."
        )
    if "pytree" in message or "not a known type" in message:
        return (
            f"{_first_line(message)} Return tensors in tuples, lists, dicts or a dataclass registered with "
            "torch.export.register_dataclass."
        )
    if "FakeTensor" in message or "fake" in message.lower():
        return (
            f"{_first_line(message)} A tensor is made or read in a way that torch.export cannot follow. Register "
            "constant tensors with register_buffer and use torch operations only."
        )
    return (
        f"{type(error).__name__}: {_first_line(message)} The model runs as it is, but not under torch.export. Write "
        "the line with plain torch operations, or wrap it with torch.library.custom_op."
    )


def _first_line(message: str) -> str:
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    first = lines[0] if lines else "no message"
    return first if first.endswith((".", "!", "?")) else first + "."


def _readable(constraint: str) -> str:
    """``batch = 2*_batch`` reads better as a multiple."""
    multiple = re.fullmatch(r"batch = (\d+)\*_batch", constraint.strip())
    return f"a batch that is a multiple of {multiple.group(1)}" if multiple else constraint.strip()
