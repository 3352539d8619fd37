"""The table of the benchmark of quality."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
import quality  # noqa: E402

sys.path.remove(BENCHMARKS)  # its other modules have names that data folders use, too


def row(strategy: str, bits: float, top1: float) -> dict[str, Any]:
    return {
        "network": "net",
        "way": "default",
        "strategy": strategy,
        "bits": bits,
        "seed": 0,
        "test_top1": top1,
        "float_top1": 0.9,
        "difference": top1 - 0.9,
        "paired_error": 0.002,
        "cpu_s": 12.0,
    }


ROWS = [row("uniform", 2.0, 0.5), row("uniform", 3.0, 0.8), row("ilp", 2.5, 0.7)]


def test_a_size_between_whole_bitwidths_is_compared_with_the_line() -> None:
    assert quality.line_between(ROWS, ROWS[2]) == pytest.approx(0.65)
    assert quality.line_between(ROWS, ROWS[1]) is None
    assert quality.line_between(ROWS[1:], ROWS[2]) is None


def test_the_table_has_a_line_for_each_row_from_many_bits_to_few() -> None:
    lines = quality.table(ROWS).splitlines()[2:]
    assert [line.split("|")[2].strip() for line in lines] == ["3", "2.5", "2"]
    assert "| 70.00 | -20.00 (0.20) | 65.00 | 12 |" in lines[1]
