"""Plans of one set of weights in the report: rows, means, and their frontier."""

from __future__ import annotations

from pathlib import Path

import pytest
import report_cases

from sigmaquant.report import write_report
from sigmaquant.report.gather import gather


def test_plans_have_their_means_and_frontier(tmp_path: Path) -> None:
    (run,) = gather([report_cases.with_plans(report_cases.write_run(tmp_path / "run"))]).runs
    assert [plan.name for plan in run.plans] == ["8x", "12x", "<b>16x</b>"]
    assert run.mean_bits == pytest.approx(run.plans[0].mean_bits)
    means = [plan.mean_bits or 0.0 for plan in run.plans]
    assert means == sorted(means, reverse=True)
    assert ["weight_bytes" in plan.front for plan in run.plans] == [True, True, False]


def test_the_page_shows_every_plan_and_escapes_its_name(tmp_path: Path) -> None:
    path = report_cases.with_plans(report_cases.write_run(tmp_path / "run"))
    page = write_report([path]).read_text(encoding="utf-8")
    assert "Plans of one set of weights" in page
    assert "&lt;b&gt;16x" in page
    assert "<b>16x" not in page
    assert "90.30" in page, "the first plan for itself"


def test_a_run_without_plans_has_no_such_part(tmp_path: Path) -> None:
    path = report_cases.write_run(tmp_path / "run")
    assert gather([path]).runs[0].plans == ()
    assert "Plans of one set of weights" not in write_report([path]).read_text(encoding="utf-8")
