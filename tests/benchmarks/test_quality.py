"""The table of the benchmark of quality."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sigmaquant.tasks.boxes import Boxes, average_precisions

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
        "test_score": top1,
        "float_score": 0.9,
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
    assert [line.split("|")[3].strip() for line in lines] == ["3", "2.5", "2"]
    assert "| 70.00 | -20.00 (0.20) | 65.00 | 12 |" in lines[1]


def test_the_page_has_the_table_of_the_results_file() -> None:
    rows = quality.read(Path(BENCHMARKS) / "results" / "quality.jsonl")
    page = (Path(BENCHMARKS).parent / "docs" / "measurements.md").read_text(encoding="utf-8")
    assert rows
    assert quality.table(rows) in page


def test_counted_precision_is_that_of_cocos_measure() -> None:
    generator = torch.Generator().manual_seed(0)
    images, classes = 12, 3
    low = torch.rand(images, 6, 2, generator=generator)
    there = torch.cat([low, low + 0.1 + 0.3 * torch.rand(images, 6, 2, generator=generator)], 2)
    kinds = torch.randint(classes, (images, 6), generator=generator)
    targets = torch.cat([there, kinds[:, :, None].float(), torch.zeros(images, 6, 1)], 2)
    found = []
    for corners, kind in zip(there, kinds, strict=True):
        moved = corners + 0.06 * torch.randn(6, 2, generator=generator).repeat(1, 2)
        found.append(Boxes(moved, torch.rand(6, generator=generator), kind))
    counted = quality.Counted.of(found, targets)
    once = np.ones(images, int)
    assert counted.precision(once) == pytest.approx(average_precisions(found, targets)["ap50"], abs=0.01)
    first = once * (np.arange(images) < 6) * 2
    assert counted.precision(first) == pytest.approx(average_precisions(found[:6], targets[:6])["ap50"], abs=0.01)


def test_a_detector_beside_itself_differs_by_nothing() -> None:
    targets = torch.tensor([[[0.0, 0.0, 0.5, 0.5, 1.0, 0.0]], [[0.2, 0.2, 0.9, 0.9, 1.0, 0.0]]])
    found = [Boxes(rows[:, :4], torch.tensor([0.9]), torch.tensor([1])) for rows in targets]
    other = [found[0], Boxes(targets[0, :, :4] + 0.5, torch.tensor([0.95]), torch.tensor([1]))]
    assert quality.paired_precision(found, found, targets) == (1.0, 1.0, 0.0, 0.0)
    mine, theirs, difference, error = quality.paired_precision(other, found, targets)
    assert mine < theirs == 1.0
    assert difference == mine - theirs
    assert error > 0
