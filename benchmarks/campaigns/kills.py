"""Kills at random moments: what is resumed, as often as it takes, ends as what was never interrupted."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from campaigns.subject import quantize, sweep


@dataclass(frozen=True)
class Killed:
    """What became of one run.

    Attributes:
        kills: how often it was killed.
        difference: the first file or value that is another one; ``""``: none.
    """

    kills: int
    difference: str


def _result(path: Path) -> dict[str, object]:
    found = json.loads((path / "result.json").read_text())
    return {key: found[key] for key in ("status", "scores", "float_scores", "cost", "weights", "control", "violations")}


def differs(path: Path, whole: Path) -> str:
    """Where a run is not the one that was never interrupted; what it left half written counts too."""
    for name in ("plan.json", "checkpoint.safetensors", "layers.json"):
        if (path / name).read_bytes() != (whole / name).read_bytes():
            return name
    mine, theirs = _result(path), _result(whole)
    for key in mine:
        if mine[key] != theirs[key]:
            return key
    missing = {p.name for p in whole.iterdir()} - {p.name for p in path.iterdir()}
    left = [p.name for p in path.rglob("*") if p.suffix == ".tmp" or p.name.startswith(".writing-")]
    return ", ".join([*(f"{name} is missing" for name in sorted(missing)), *(f"{name} is left" for name in left)])


def prepare(folder: Path) -> float:
    """A run and a sweep that nothing interrupts; the seconds of the run."""
    ending = quantize(folder / "whole", "--export", "packed")
    assert ending.code == 0, ending.err
    swept = sweep(folder / "whole-sweep")
    assert swept.code == 0, swept.err
    return ending.seconds


def trial(folder: Path, work: Path, seed: int, seconds: float) -> Killed:
    """One run or sweep, killed up to three times."""
    draw = random.Random(seed)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    whole_sweep = draw.random() < 0.3
    kills = 0
    for turn in range(4):
        after = None if turn == 3 else draw.uniform(0.02, 1.0) * seconds
        if whole_sweep:
            ending = sweep(work / "s", "--resume", kill_after=after)
        else:
            ending = quantize(work / "r", "--resume", "--export", "packed", kill_after=after)
        if ending.code == 0:
            break
        if ending.code != -9:
            return Killed(kills, f"exit {ending.code}: {ending.err.strip().splitlines()[-1:]}")
        kills += 1
    if whole_sweep:
        runs = [p.name for p in (folder / "whole-sweep").iterdir() if (p / "plan.json").exists()]
        found = [differs(work / "s" / run, folder / "whole-sweep" / run) for run in runs]
        return Killed(kills, "; ".join(filter(None, found)))
    return Killed(kills, differs(work / "r", folder / "whole"))
