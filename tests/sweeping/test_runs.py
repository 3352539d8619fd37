"""The runs of a sweep, read from their files."""

from __future__ import annotations

from pathlib import Path

import pytest

from sigmaquant import Budget
from sigmaquant.errors import RunDirectoryError
from sigmaquant.runs import RunDirectory
from sigmaquant.sweeping.files import SweepDirectory
from sigmaquant.sweeping.requests import Request, Requests
from sigmaquant.sweeping.runs import Runs


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    budget = Budget(size="8x")
    with SweepDirectory(tmp_path, {}, resume=False, overwrite=False) as directory:
        with RunDirectory(tmp_path / "size-8x", config={"budget": budget.to_dict()}) as run:
            run.write_result({"status": "met", "scores": {"validation": "high"}})
        asked = Requests(("size",), {"size-8x": Request(budget)})
        runs = Runs(directory, asked, {"size-8x": [100.0]}, {"": {}}, linked=[])
        assert runs.finished == ["size-8x"]
        with pytest.raises(RunDirectoryError, match=r"result\.json is damaged, at 'scores\.validation'"):
            runs.points()
