"""A sample of the operators through every file; all of them are `python benchmarks/operators.py`."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def benchmark():
    spec = importlib.util.spec_from_file_location("operators_benchmark", ROOT / "benchmarks" / "operators.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


BENCHMARK = benchmark()
SAMPLE = (
    "clamp_crossed", "log", "plus_row", "bias_along_width", "where_other", "cat_token", "channel_shuffle_by_hand",
    "frames_of_lines", "nearest_odd", "adaptive_max", "average_without_padding", "transposed_dilated", "softmax",
    "masked_attention", "group_norm", "lstm_both_ways", "cells",
)  # fmt: skip


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_operators_in_every_file(name):
    found = BENCHMARK.row(name, BENCHMARK.INTEGER[name])
    assert (found["float"], found["integer"], found["c"]) == ([], "exact", "exact")
    assert found["onnx"] in ("exact", "within 1")
    assert found["litert"] in ("exact", "within 1")


def test_the_table_has_every_case():
    path = ROOT / "benchmarks" / "results" / "operators.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["case"] for row in rows] == [*BENCHMARK.INTEGER, *BENCHMARK.FLOAT]
    assert {row["case"] for row in rows if row["float"]} == set(BENCHMARK.FLOAT)
    assert {row["integer"] for row in rows if not row["float"]} == {"exact"}
