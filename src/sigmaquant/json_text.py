"""Reading JSON that somebody else may have written, or damaged: within bounds that every later use can take."""

from __future__ import annotations

import json
import math
from pathlib import PurePath
from typing import Any, NoReturn

DEPTH = 100
"""Of arrays and objects in each other; what the program writes has six."""
_DIGITS = 19
"""Of an integer: 64 bits."""


def read_json(text: str | bytes, *, infinities: bool = False) -> Any:
    """What JSON says.

    Args:
        text: the document; bytes in UTF-8, UTF-16 or UTF-32.
        infinities: take Infinity and NaN too, which JSON does not have but Python writes.

    Raises:
        ValueError: no JSON, nested too deep, a number that 64 bits do not hold, or half a character; one line.

    Example:
        >>> read_json('{"size": 3}')
        {'size': 3}
        >>> read_json('[1e999]')
        Traceback (most recent call last):
        ...
        ValueError: the number 1e999 is too large
    """
    try:
        document = json.loads(
            text,
            parse_int=_integer,
            parse_float=_real,
            parse_constant=float if infinities else _no_number,
        )
    except RecursionError:
        raise ValueError(f"it is nested more than {DEPTH} deep") from None
    _check(document)
    return document


def path_text(path: str | PurePath) -> str:
    """A path for documents and pages: bytes of its name that are no text are written as ``\\xe9``.

    Example:
        >>> path_text("caf\\udce9/run")
        'caf\\\\xe9/run'
    """
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _DIGITS:
        raise ValueError(f"the number {_short(digits)} is too large")
    return int(digits)


def _real(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {_short(digits)} is too large")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _short(digits: str) -> str:
    return digits if len(digits) <= 24 else f"{digits[:10]}… of {len(digits)} digits"


def _check(document: Any) -> None:
    """Depth and text, level by level: a walk by calls would end where Python's stack does."""
    level = [document]
    for _ in range(DEPTH + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.values()
                below += value.keys()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str) and not value.isascii():
                _check_text(value)
        if not below:
            return
        level = below
    raise ValueError(f"it is nested more than {DEPTH} deep")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a text holds half a character (a lone surrogate)") from None
