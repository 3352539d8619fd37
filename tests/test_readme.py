"""The README's example is a program that runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_has_about_twenty_lines() -> None:
    lines = [line for line in examples()[0].splitlines() if line.strip()]
    assert len(examples()) == 1
    assert 10 <= len(lines) <= 22


def test_the_example_runs_and_leaves_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(examples()[0], str(README), "exec"), names)
    result = names["result"]
    assert result.status in ("met", "not met")  # type: ignore[attr-defined]
    assert result.cost.total_bytes * 5 <= result.reference.total_bytes  # type: ignore[attr-defined]
    for name in ("plan.json", "checkpoint.safetensors", "result.json", "trajectory.jsonl", "config.json", "log.txt"):
        assert (tmp_path / "runs" / "first" / name).stat().st_size > 0
