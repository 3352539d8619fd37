"""Options behind the ``?`` of a text that names a model or data: ``imagefolder:photos?size=224&layout=nhwc``."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from sigmaquant.errors import DataError, SigmaQuantError

Option = str | int | float | bool


def partition(spec: str) -> tuple[str, str]:
    """What is before and behind the ``?``."""
    source, _, query = spec.partition("?")
    return source, query


def read_options(query: str, what: str, as_text: bool = False) -> dict[str, Option]:
    """The options; numbers, ``true`` and ``false`` as such unless `as_text`.

    Raises:
        SigmaQuantError: malformed, or one given twice.

    Example:
        >>> read_options("num_classes=100&drop=0.5&strict=true", "the model")
        {'num_classes': 100, 'drop': 0.5, 'strict': True}
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise SigmaQuantError(f"{what}: the options {query!r} are not NAME=VALUE&NAME=VALUE.") from None
    found: dict[str, Option] = {}
    for name, value in pairs:
        if name in found:
            raise SigmaQuantError(f"{what} gives the option {name!r} twice. Give it once.")
        found[name] = value if as_text else _value(value)
    return found


def _value(text: str) -> Option:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def check_known(options: Mapping[str, Option], known: tuple[str, ...], what: str) -> None:
    """Raise for an option that there is not.

    Raises:
        DataError: see above.
    """
    if unknown := sorted(set(options) - set(known)):
        raise DataError(f"{what} has the unknown option {unknown[0]!r}; known are {', '.join(map(repr, known))}.")
