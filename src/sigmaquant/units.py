"""Quantities as people write them: ``"180 KB"``, ``"8x"``, ``"2 mJ"``, ``"-1 %"``, turned into numbers and back.

Decimal prefixes are powers of 1000 (KB = 1000 bytes), binary ones powers of 1024 (KiB = 1024 bytes), as in
IEC 80000-13.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real

from sigmaquant.errors import UnitsError

_Units = dict[str, int | Decimal]

_BYTES: _Units = {
    "": 1, "b": 1, "byte": 1, "bytes": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9,
    "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip
_PICOJOULES: _Units = {
    "pj": 1, "nj": 10**3, "uj": 10**6, "µj": 10**6, "μj": 10**6, "mj": 10**9, "j": 10**12,
}  # fmt: skip
_MILLISECONDS: _Units = {
    "ns": Decimal("1e-6"), "us": Decimal("1e-3"), "µs": Decimal("1e-3"), "μs": Decimal("1e-3"), "ms": 1, "s": 10**3,
}  # fmt: skip
_COUNTS: _Units = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}

_SMALLEST_RATIO, _LARGEST_RATIO = 0.001, 1e12
_LARGEST_BYTES = 2**63 - 1

_NUMBER = re.compile(r"^\s*([-+]?\d+(?:[_,]\d{3})*(?:\.\d*)?(?:[eE][-+]?\d+)?|[-+]?\.\d+)\s*(.*?)\s*$")


@dataclass(frozen=True)
class Ratio:
    """A reduction such as ``"8x"``: the reference divided by `factor`."""

    factor: float


def _split(text: str, what: str, example: str) -> tuple[Decimal, str]:
    """The number as it is written, since a float of 64.1 times 1000 is no longer 64100, and the unit."""
    match = _NUMBER.match(text)
    if match is None:
        raise UnitsError(f"{what} {text!r} is not a number with a unit. Write it like {example}.")
    try:
        number = Decimal(match.group(1).replace("_", "").replace(",", ""))
        finite = math.isfinite(float(number))
    except ArithmeticError:  # an exponent that no Decimal has
        finite = False
    if not finite:
        raise UnitsError(f"{what} {_short(text)!r} must be a finite number above zero.")
    return number, match.group(2)


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:20]}…{text[-10:]}"


def _text_or_number(value: object, what: str, example: str) -> str | float:
    """What the user gave, a number of any library's as Python's own."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UnitsError(f"{what} must be a number or a text like {example}, not {type(value).__name__}.")
    try:
        return float(value)
    except OverflowError:  # Python's integers know no bounds
        return math.inf


def _scaled(given: object, table: _Units, what: str, example: str, bare: bool) -> float:
    text = _text_or_number(given, what, example)
    if isinstance(text, str):
        number, unit = _split(text, what, example)
        if unit.lower() not in table:
            known = ", ".join(sorted({u for u in table if u}))
            raise UnitsError(
                f"{what} {text!r} has the unknown unit {unit!r}. Known units: {known}. Example: {example}."
            )
        value = float(number * table[unit.lower()])
    elif bare:
        value = text
    else:
        raise UnitsError(f"{what} {given} has no unit. Write it like {example}.")
    if not math.isfinite(value) or value <= 0:
        raise UnitsError(f"{what} {given!r} must be a finite number above zero.")
    return value


def _ratio(text: str | float) -> Ratio | None:
    if isinstance(text, str) and text.strip().lower().endswith(("x", "×")) and _NUMBER.match(text):
        factor, rest = _split(text.strip()[:-1], "the reduction", '"8x"')
        if rest.startswith("/"):
            divisor, rest = _split(rest[1:], "the reduction", '"32/3x"')
            factor = factor / divisor if divisor else Decimal("Infinity")
        if rest:
            raise UnitsError(
                f"the reduction {_short(text)!r} is no number and an x. Write it like '8x', '10.5x' or '32/3x'."
            )
        if not _SMALLEST_RATIO <= factor <= _LARGEST_RATIO:
            raise UnitsError(
                f"the reduction {_short(text)!r} must lie between {_SMALLEST_RATIO}x and {_LARGEST_RATIO:.0e}x, "
                "like '8x'."
            )
        return Ratio(float(factor))
    return None


def parse_size(text: str | int | float) -> int | Ratio:
    """Bytes, or a `Ratio` of the float32 model.

    Raises:
        UnitsError: not a size.

    Example:
        >>> parse_size("134 KB"), parse_size("131 KiB"), parse_size("8x")
        (134000, 134144, Ratio(factor=8.0))
        >>> parse_size("32/3x")
        Ratio(factor=10.666666666666666)
    """
    ratio = _ratio(text)
    if ratio is not None:
        return ratio
    if isinstance(text, str) and text.rstrip().endswith("%"):
        raise UnitsError(
            f'the size {text!r} is a share. Write it like "180 KB" or "8x"; an accuracy goes by accuracy=.'
        )
    size = math.floor(_scaled(text, _BYTES, "the size", '"180 KB" or "8x"', bare=True))
    if size > _LARGEST_BYTES:
        raise UnitsError(f'the size {_short(str(text))!r} is beyond any memory. Write it like "180 KB" or "8x".')
    if size < 1:
        raise UnitsError(f'the size {text!r} is less than one byte. Write it like "180 KB" or "8x".')
    return size


def parse_count(text: str | int | float) -> float | Ratio:
    """A plain count such as bit operations: ``"2.5G"``, ``"4x"`` of the reference, or a number.

    Example:
        >>> parse_count("2.5G")
        2500000000.0
    """
    return _ratio(text) or _scaled(text, _COUNTS, "the count", '"2.5G" or "4x"', bare=True)


def parse_energy_pj(text: str | float) -> float | Ratio:
    """Energy in picojoules; needs a unit.

    Example:
        >>> parse_energy_pj("2 mJ")
        2000000000.0
    """
    return _ratio(text) or _scaled(text, _PICOJOULES, "the energy", '"2 mJ"', bare=False)


def parse_latency_ms(text: str | float) -> float | Ratio:
    """Latency in milliseconds; needs a unit.

    Example:
        >>> parse_latency_ms("3 s")
        3000.0
    """
    return _ratio(text) or _scaled(text, _MILLISECONDS, "the latency", '"15 ms"', bare=False)


@dataclass(frozen=True)
class AccuracyTarget:
    """A floor (``"90 %"``, 0.9) or a largest drop from the float network (``"-1 %"``: one percentage point)."""

    value: float
    relative: bool

    def floor(self, float_accuracy: float) -> float:
        """The lowest acceptable metric given the float network's."""
        return float_accuracy - self.value if self.relative else self.value


def parse_accuracy(text: str | float) -> AccuracyTarget:
    """An accuracy floor, or the largest drop when the text begins with a minus sign.

    Percent are hundredths of the metric's unit, so that a top-1 of 0.9173 less ``"1 %"`` is 0.9073. A bare number is
    taken as the metric itself, since a user's metric need not be a fraction.

    Raises:
        UnitsError: not an accuracy.

    Example:
        >>> parse_accuracy("-1 %"), parse_accuracy("90.5 %")
        (AccuracyTarget(value=0.01, relative=True), AccuracyTarget(value=0.905, relative=False))
    """
    text = _text_or_number(text, "the accuracy", "'-1 %'")
    if not isinstance(text, str):
        if not math.isfinite(text):
            raise UnitsError(f"the accuracy {text!r} must be finite.")
        return AccuracyTarget(abs(text), relative=text < 0)
    relative = text.strip().startswith(("-", "−"))
    number, unit = _split(text.strip().replace("−", "-"), "the accuracy", '"-1 %" or "90 %"')
    if unit not in ("", "%"):
        raise UnitsError(f"the accuracy {text!r} has the unknown unit {unit!r}. Write it like '-1 %', '90 %' or '0.9'.")
    return AccuracyTarget(float(abs(number) / (100 if unit == "%" else 1)), relative)


def format_bytes(count: float) -> str:
    """Bytes for people, in decimal units.

    Example:
        >>> format_bytes(134168), format_bytes(96)
        ('134.2 KB', '96 B')
    """
    for factor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "KB")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"


def format_count(count: float) -> str:
    """A large count for people.

    Example:
        >>> format_count(2.6e9)
        '2.60 G'
    """
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count:.0f}"


def counted(number: int, one: str, several: str = "") -> str:
    """A number with its noun.

    Example:
        >>> counted(1, "layer"), counted(2, "layer"), counted(2, "bias", "biases")
        ('1 layer', '2 layers', '2 biases')
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def format_seconds(seconds: float) -> str:
    """A duration for people.

    Example:
        >>> format_seconds(75), format_seconds(4.2)
        ('1 min 15 s', '4.2 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
