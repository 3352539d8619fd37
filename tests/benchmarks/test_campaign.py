"""A small part of the campaigns: damaged documents of a run, and random networks in integers."""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from command import main

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def campaigns() -> Iterator[dict[str, ModuleType]]:
    """The benchmark's modules by name; afterwards they are gone."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield {
            name: importlib.import_module(f"campaigns.{name}")
            for name in ("documents", "networks", "subject", "program", "kills")
        }
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in [name for name in sys.modules if name.split(".")[0] == "campaigns"]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def run(campaigns: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, untrained, made in this process."""
    path = tmp_path_factory.mktemp("campaign") / "run"
    done = main("quantize", *campaigns["subject"].SEARCH, "--post-training", "--size", "6x", "--out", path)
    assert done.code == 0, done
    return path


def test_damaged_documents_end_in_one_line(campaigns: dict[str, ModuleType], run: Path) -> None:
    codes = set()
    kept = {path: path.read_bytes() for path in sorted(run.iterdir()) if path.suffix in (".json", ".jsonl")}
    for seed in range(60):
        draw = random.Random(seed)
        path = draw.choice(list(kept))
        done = campaigns["documents"].damage(path, draw)
        for verb in (("compare", run, run), ("report", run)):
            outcome = main(*verb)
            assert outcome.code in (0, 2), (seed, verb[0], path.name, done, outcome.err)
            assert "Traceback" not in outcome.err
            codes.add(outcome.code)
        path.write_bytes(kept[path])
    assert codes == {0, 2}


def test_a_process_that_dies_is_told_from_one_that_ends(campaigns: dict[str, ModuleType], run: Path) -> None:
    call = campaigns["program"].call
    whole = call("compare", str(run), str(run), "--json")
    assert (whole.code, whole.well) == (0, True)
    assert len(json.loads(whole.out)) == 2
    killed = call("report", str(run), kill_after=0.0)
    assert (killed.code, killed.well) == (-9, False)
    assert call("report", str(run / "nothing")).code == 2


@pytest.mark.parametrize("seed", range(3))
def test_random_networks_in_integers(campaigns: dict[str, ModuleType], seed: int, tmp_path: Path) -> None:
    assert campaigns["networks"].trial(tmp_path, seed, compiled=False) == "same"


def test_what_differs_is_seen(campaigns: dict[str, ModuleType], run: Path, tmp_path: Path) -> None:
    import shutil

    differs = campaigns["kills"].differs
    shutil.copytree(run, tmp_path / "run")
    assert differs(tmp_path / "run", run) == ""
    (tmp_path / "run" / ".writing-abc").mkdir()
    assert differs(tmp_path / "run", run) == ".writing-abc is left"
    document = json.loads((tmp_path / "run" / "result.json").read_text())
    document["scores"]["validation"] = 0.123
    (tmp_path / "run" / "result.json").write_text(json.dumps(document))
    assert differs(tmp_path / "run", run) == "scores"
