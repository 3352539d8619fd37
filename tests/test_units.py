"""Quantities: golden values, every message, and round trips."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigmaquant.errors import UnitsError
from sigmaquant.units import (
    AccuracyTarget,
    Ratio,
    format_bytes,
    format_count,
    format_seconds,
    parse_accuracy,
    parse_count,
    parse_energy_pj,
    parse_latency_ms,
    parse_size,
)

PARSERS = {"size": parse_size, "count": parse_count, "energy": parse_energy_pj, "latency": parse_latency_ms}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("180 KB", 180_000),
        ("180KB", 180_000),
        (" 180  kb ", 180_000),
        ("131 KiB", 134_144),
        ("1.5 MB", 1_500_000),
        ("2 MiB", 2_097_152),
        ("1 GB", 10**9),
        ("1 GiB", 2**30),
        ("100", 100),
        ("100 B", 100),
        ("3 bytes", 3),
        ("1 byte", 1),
        ("1e3 B", 1000),
        ("1,000,000", 1_000_000),
        ("1_000 KB", 1_000_000),
        (".5 KB", 500),
        ("5. KB", 5000),
        ("+7 B", 7),
        ("1.0005 KB", 1000),
        (180, 180),
        (180.9, 180),
        ("8x", Ratio(8.0)),
        ("8X", Ratio(8.0)),
        ("8 x", Ratio(8.0)),
        ("7.5×", Ratio(7.5)),
    ],
)
def test_sizes(text: str | float, value: int | Ratio) -> None:
    parsed = parse_size(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 pJ", 1.0),
        ("1 nJ", 1e3),
        ("2 uJ", 2e6),
        ("2 µJ", 2e6),
        ("2 μJ", 2e6),
        ("2 mJ", 2e9),
        ("1 J", 1e12),
        ("4x", Ratio(4.0)),
    ],
)
def test_energies(text: str, value: float | Ratio) -> None:
    assert parse_energy_pj(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("15 ms", 15.0),
        ("3 s", 3000.0),
        ("250 us", 0.25),
        ("250 µs", 0.25),
        ("250 μs", 0.25),
        ("500 ns", 5e-4),
        ("2x", Ratio(2.0)),
    ],
)
def test_latencies(text: str, value: float | Ratio) -> None:
    parsed = parse_latency_ms(text)
    assert parsed == value if isinstance(value, Ratio) else parsed == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "value"),
    [("2.5G", 2.5e9), ("3 k", 3e3), ("4M", 4e6), ("1T", 1e12), ("12", 12.0), (7, 7.0), ("16x", Ratio(16.0))],
)
def test_counts(text: str | float, value: float | Ratio) -> None:
    assert parse_count(text) == value


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("-1 %", AccuracyTarget(0.01, True)),
        ("−1 %", AccuracyTarget(0.01, True)),
        ("-0.5%", AccuracyTarget(0.005, True)),
        ("-0.01", AccuracyTarget(0.01, True)),
        (-0.01, AccuracyTarget(0.01, True)),
        ("90 %", AccuracyTarget(0.9, False)),
        ("0.9", AccuracyTarget(0.9, False)),
        (0.9, AccuracyTarget(0.9, False)),
        (35, AccuracyTarget(35.0, False)),
    ],
)
def test_accuracies(text: str | float, target: AccuracyTarget) -> None:
    parsed = parse_accuracy(text)
    assert parsed.relative == target.relative
    assert parsed.value == pytest.approx(target.value)


@given(st.integers(1, 10**12), st.sampled_from([("", 0), ("KB", 3), ("MB", 6), ("GB", 9)]))
def test_sizes_are_exact_in_every_unit(count: int, unit: tuple[str, int]) -> None:
    """A float times 1000 would lose a byte: 64.1 * 1000 = 64099.99999999999."""
    name, zeros = unit
    assert parse_size(f"{Decimal(count).scaleb(-zeros):f} {name}") == count


def test_accuracy_floor() -> None:
    assert parse_accuracy("-1 %").floor(0.9173) == pytest.approx(0.9073)
    assert parse_accuracy("90 %").floor(0.9173) == 0.9


@pytest.mark.parametrize(
    ("parser", "text", "message"),
    [
        ("size", "much", 'the size \'much\' is not a number with a unit. Write it like "180 KB" or "8x".'),
        ("size", "", 'the size \'\' is not a number with a unit. Write it like "180 KB" or "8x".'),
        (
            "size",
            "3 mJ",
            "the size '3 mJ' has the unknown unit 'mJ'. Known units: b, byte, bytes, gb, gib, kb, kib, mb",
        ),
        ("size", "0 KB", "the size '0 KB' must be a finite number above zero."),
        ("size", "-3 KB", "the size '-3 KB' must be a finite number above zero."),
        ("size", -3, "the size -3 must be a finite number above zero."),
        ("size", math.nan, "the size nan must be a finite number above zero."),
        ("size", math.inf, "the size inf must be a finite number above zero."),
        ("size", "1e999 KB", "must be a finite number above zero."),
        ("size", True, 'the size must be a number or a text like "180 KB" or "8x", not bool.'),
        ("size", None, "not NoneType."),
        ("size", "10,5x", "the reduction '10,5x' is no number and an x. Write it like '8x', '10.5x' or '32/3x'."),
        ("size", "8/x", "the reduction"),
        ("size", "8/0x", "the reduction '8/0x' must lie between"),
        ("size", "8/3/2x", "is no number and an x."),
        ("size", "0x", "the reduction '0x' must lie between 0.001x and 1e+12x, like '8x'."),
        ("size", "-2x", "the reduction '-2x' must lie between 0.001x and 1e+12x, like '8x'."),
        ("size", "x", 'the size \'x\' is not a number with a unit. Write it like "180 KB" or "8x".'),
        ("size", "six", 'the size \'six\' is not a number with a unit. Write it like "180 KB" or "8x".'),
        (
            "size",
            "-1 %",
            'the size \'-1 %\' is a share. Write it like "180 KB" or "8x"; an accuracy goes by accuracy=.',
        ),
        ("size", "1e9999999 KB", "must be a finite number above zero."),
        ("energy", 3, 'the energy 3 has no unit. Write it like "2 mJ".'),
        ("energy", "3", "the energy '3' has the unknown unit ''. Known units: j, mj, nj, pj, uj"),
        ("energy", "3 KB", "the energy '3 KB' has the unknown unit 'KB'."),
        ("latency", 3.0, 'the latency 3.0 has no unit. Write it like "15 ms".'),
        ("latency", "3 min", "the latency '3 min' has the unknown unit 'min'."),
        ("count", "3 KB", "the count '3 KB' has the unknown unit 'KB'."),
        ("count", [], 'the count must be a number or a text like "2.5G" or "4x", not list.'),
    ],
)
def test_messages(parser: str, text: object, message: str) -> None:
    with pytest.raises(UnitsError) as caught:
        PARSERS[parser](text)  # type: ignore[operator]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (True, "the accuracy must be a number or a text like '-1 %', not bool."),
        (None, "the accuracy must be a number or a text like '-1 %', not NoneType."),
        (math.nan, "the accuracy nan must be finite."),
        (-math.inf, "the accuracy -inf must be finite."),
        ("good", 'the accuracy \'good\' is not a number with a unit. Write it like "-1 %" or "90 %".'),
        ("3 points", "the accuracy '3 points' has the unknown unit 'points'. Write it like '-1 %', '90 %' or '0.9'."),
    ],
)
def test_accuracy_messages(text: object, message: str) -> None:
    with pytest.raises(UnitsError) as caught:
        parse_accuracy(text)  # type: ignore[arg-type]
    assert str(caught.value) == message


@given(st.integers(1, 10**15))
def test_bytes_round_trip_exactly(count: int) -> None:
    assert parse_size(count) == parse_size(f"{count}") == parse_size(f"{count} B") == parse_size(f"{count:,}") == count


@given(st.integers(1, 10**14))
def test_formatted_bytes_read_back_within_their_digits(count: int) -> None:
    parsed = parse_size(format_bytes(count))
    assert isinstance(parsed, int)
    assert parsed == pytest.approx(count, rel=0.051, abs=0)


@given(st.floats(1e-3, 1e15))
def test_counts_round_trip(value: float) -> None:
    assert parse_count(repr(value)) == value
    formatted = parse_count(format_count(max(value, 1)))
    assert formatted == pytest.approx(max(value, 1), rel=0.51, abs=0)


@given(st.text(max_size=12) | st.floats() | st.integers() | st.none() | st.booleans())
def test_anything_else_is_a_units_error(value: object) -> None:
    for parser in (*PARSERS.values(), parse_accuracy):
        try:
            parser(value)  # type: ignore[operator]
        except UnitsError as error:
            assert str(error)  # noqa: PT017 (some texts are quantities)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (134_168, "134.2 KB"), (2_500_000, "2.5 MB"), (3e9, "3.0 GB")],
)
def test_format_bytes(count: float, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("count", "text"), [(7, "7"), (1500, "1.50 k"), (2.6e9, "2.60 G"), (1e12, "1.00 T"), (-2e6, "-2.00 M")]
)
def test_format_count(count: float, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (4.2, "4.2 s"),
        (75, "1 min 15 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (9000, "2 h 30 min"),
    ],
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_numbers_of_other_libraries_are_numbers() -> None:
    assert parse_size(np.int64(500)) == 500
    assert PARSERS["count"](np.float32(2.5)) == 2.5
    assert parse_accuracy(np.float32(-0.5)) == parse_accuracy(-0.5)
    for parser in (parse_size, parse_accuracy):
        with pytest.raises(UnitsError, match="finite"):
            parser(10**400)
