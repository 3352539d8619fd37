"""Plain JSON from the program's values, and checked values from JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sigmaquant.errors import RunDirectoryError, SigmaQuantError

Kind = TypeVar("Kind")
SEAL = "document_sha256"
"""Where a document has the digest of all its other values."""


def plain(value: Any, *, finite: bool = True) -> Any:
    """`value` in the types that JSON has.

    Mappings (keys become text), dataclasses, sequences, sets (sorted), enums, paths, NumPy values and tensors are
    converted; what `plain` gives is equal to what reading the JSON gives.

    Args:
        value: anything made of the above.
        finite: NaN and infinity, which JSON does not have, become null. Otherwise they stay, for files that only this
            program reads back.

    Raises:
        TypeError: a value of another type.

    Example:
        >>> plain({"plan": (2, 4), 3: float("inf")})
        {'plan': [2, 4], '3': None}
    """
    if isinstance(value, Enum):
        return plain(value.value, finite=finite)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return None if finite and not math.isfinite(value) else float(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, finite=finite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, finite=finite) for item in value]
    if isinstance(value, set | frozenset):
        return [plain(item, finite=finite) for item in sorted(value)]
    if isinstance(value, PurePath):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), finite=finite) for f in dataclasses.fields(value)}
    if hasattr(value, "tolist"):
        return plain(value.tolist(), finite=finite)
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def dumps(value: Any, *, indent: int | None = 2, finite: bool = True) -> str:
    """`plain(value)` as JSON text that ends in a newline."""
    return json.dumps(plain(value, finite=finite), indent=indent, ensure_ascii=False, allow_nan=not finite) + "\n"


def parse(
    kind: type[Kind],
    document: Any,
    source: PurePath | str,
    error: type[SigmaQuantError] = RunDirectoryError,
    remedy: str = "Run it again.",
) -> Kind:
    """A document's content, with the types that its kind says.

    Args:
        kind: a pydantic model or a dataclass.
        document: what JSON gave.
        source: where it is from, for the message.
        error: what to raise.
        remedy: what to do about it, as a sentence.

    Raises:
        SigmaQuantError: `error`; names the source, the key and what is wrong with it.
    """
    try:
        return TypeAdapter(kind).validate_python(document)
    except ValidationError as failure:
        found = failure.errors(include_url=False)[0]
        key = ".".join(map(str, found["loc"]))
        message = f"{found['msg'][:1].lower()}{found['msg'][1:]}"
        raise error(f"{source} is damaged, at {key!r}: {message}. {remedy}") from None


def sealed(document: Mapping[str, Any], *, finite: bool = True) -> dict[str, Any]:
    """A document with the digest of its own values, so that a number that changed on the disk is seen.

    Args:
        document: as for `plain`; without a seal.
        finite: as for `plain`.
    """
    values = plain(document, finite=finite)
    return {**values, SEAL: _digest(values)}


def unsealed(
    document: Mapping[str, Any],
    source: PurePath | str,
    error: type[SigmaQuantError] = RunDirectoryError,
    remedy: str = "Restore it from a backup, or start the run anew (--overwrite).",
) -> dict[str, Any]:
    """A document without its seal; one that has none, as earlier releases wrote them, is taken as it is.

    Raises:
        SigmaQuantError: `error`; its values are not those that were written.
    """
    values = {key: value for key, value in document.items() if key != SEAL}
    if SEAL in document and document[SEAL] != _digest(values):
        raise error(f"{source} has changed since it was written (the SHA-256 of its values differs). {remedy}")
    return values


def _digest(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def first_difference(old: Any, new: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The first key at which two plain values differ, with both values; None when they are equal.

    Example:
        >>> first_difference({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}})
        ('b.c', 2, 3)
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            path = f"{key}.{name}" if key else name
            if name not in old or name not in new:
                return path, old.get(name, "nothing"), new.get(name, "nothing")
            found = first_difference(old[name], new[name], path)
            if found:
                return found
        return None
    return None if old == new and type(old) is type(new) else (key, old, new)
