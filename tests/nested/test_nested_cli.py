"""`--plans` from the command line."""

from __future__ import annotations

import json

import pytest

from command import main, quantize, refused
from sigmaquant.export.nested import read_plans

PLANS = (
    "--plans",
    "5x, 8x",
    "--size-counts",
    "weights",
    "--post-training",
    "--strategy",
    "ilp",
    "--sensitivity",
    "divergence",
)


def test_plans_are_rows_of_the_result(tmp_path):
    done = quantize(*PLANS, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    assert [row["name"] for row in json.loads(done.out)["plans"]] == ["5x", "8x"]
    assert [item.name for item in read_plans(tmp_path / "run" / "nested.safetensors")] == ["5x", "8x"]
    assert main("report", tmp_path / "run").code == 0
    assert (tmp_path / "run" / "report.html").exists()
    again = quantize(*PLANS, "--out", tmp_path / "run", "--resume")
    assert again.code == 0, again.err
    for text in ("Plans", "alone", "5x", "8x"):
        assert text in again.out


@pytest.mark.parametrize(
    ("options", "text"),
    [(("--plans", "8x"), "two or more budgets"), (("--plans", "5x,8x", "--size", "4x"), "Leave --size out")],
)
def test_bad_options(options, text):
    assert text in refused(quantize(*options, "--post-training"))
