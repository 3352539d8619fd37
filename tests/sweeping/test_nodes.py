"""A Ray cluster of two nodes, both on this machine: work goes to each, and one that dies costs its step only."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

import tiny
from sigmaquant import Budget, sweep
from sigmaquant.runs import RunFiles

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'sigmaquant[ray]'")
SIZES = ("6x", "9x", "12x")


def test_a_node_that_dies_costs_its_step_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    lost: list[str] = []

    def lose() -> None:
        end = time.monotonic() + 240
        while time.monotonic() < end:
            begun = [size for size in SIZES if RunFiles(tmp_path / "s" / f"size-{size}").state_path.exists()]
            if len(begun) >= 2:  # so a run on each node has a complete step
                lost.extend(begun)
                cluster.remove_node(second, allow_graceful=False)
                return
            time.sleep(0.02)

    killer = threading.Thread(target=lose, daemon=True)
    killer.start()
    options: dict[str, Any] = {**tiny.QUICK, "final_epochs": 8.0, "validation_data": tiny.validation_data()}
    budgets = [Budget(size=size, size_counts="weights") for size in SIZES]
    try:
        found = sweep(
            tiny.trained(),
            tiny.train_data(),
            budgets=budgets,
            out=tmp_path / "s",
            jobs=2,
            address=cluster.address,
            **options,
        )
    finally:
        ray.shutdown()
        cluster.shutdown()
    killer.join(1)
    assert lost, "no node was lost, so nothing was tested"
    assert found.failed == {}
    assert len(found.points) == len(SIZES)
    logs = [(found.path / f"size-{size}" / "log.txt").read_text() for size in SIZES]
    assert sum("resumed after step" in log for log in logs) == 1
    for point in found.points:
        steps = RunFiles(found.path / point.run).read_trajectory()
        assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
