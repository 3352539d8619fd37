"""What files and programs take is known before they are written, and checked again when they are."""

from __future__ import annotations

import itertools
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

import command
import tiny
from sigmaquant import Budget
from sigmaquant.errors import BudgetError
from sigmaquant.export.c import export_c
from sigmaquant.export.c.flash import COMPILER, code_bytes, functions_of
from sigmaquant.export.deployed import DeployedCosts
from sigmaquant.export.holding import Held
from sigmaquant.graph import trace
from sigmaquant.hardware.profile import load_profile
from sigmaquant.lowering import lower
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_
from sigmaquant.workflow import exporting
from sigmaquant.workflow.exporting import export_run

NEEDS = {"onnx": "onnx", "litert": "ai_edge_litert", "tflm": "tflite_micro"}


class Residual(nn.Module):
    """Layers of several kinds, two of them with the same size, and a function of single values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.left, self.right = nn.Conv2d(24, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1)
        self.depthwise = nn.Conv2d(24, 24, 3, groups=24)
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = nn.functional.silu(self.left(x))
        return self.head(nn.functional.silu(self.depthwise(x + self.right(y))).mean((2, 3)))


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    return trace(Residual().eval(), (torch.randn(2, 3, 10, 10),))


def calibrated(graph, widths, scale=1.0):
    network = prepare(graph)
    weights = dict(zip(graph.layer, itertools.cycle(widths), strict=False))
    plan = BitwidthPlan(weights, dict.fromkeys(graph.activation_names, 8), graph.fingerprint, 2)
    set_plan_(network, plan)
    calibrate_(network, [scale * torch.randn(8, 3, 10, 10, generator=torch.Generator().manual_seed(3))])
    return lower(network.eval()), plan


@pytest.mark.parametrize("widths", [(3, 2, 8, 5), (4,)])
def test_c_is_known_to_the_byte(graph, widths, tmp_path):
    costs = DeployedCosts(graph, load_profile("cortex-m4")).counting("c")
    for scale in (1.0, 40.0):
        model, plan = calibrated(graph, widths, scale)
        report, found = export_c(model, tmp_path / str(scale)), costs.cost(plan)
        constants = report.weight_bytes + report.table_bytes
        assert found.file_bytes == constants
        assert found.ram_bytes == report.arena_bytes + report.input_bytes + report.output_bytes
        used = set().union(*(functions_of(bits, bits <= 2) for bits in (*plan.weights.values(), 8)))
        code = code_bytes(report.folder)
        assert found.flash_bytes == constants + code.total(used)
        assert code.measured == (shutil.which(COMPILER) is not None)


@pytest.mark.parametrize("target", NEEDS)
def test_files_are_known_to_two_per_cent(graph, target, tmp_path):
    if find_spec(NEEDS[target]) is None:
        pytest.skip(f"needs {NEEDS[target]}")
    from sigmaquant.export.targets import TARGETS, ExportOptions

    costs = DeployedCosts(graph, load_profile("ideal")).counting(target)
    for widths in ((3, 2, 8, 5), (4,)):
        model, plan = calibrated(graph, widths)
        TARGETS[target].write(None, model, tmp_path / "file", ExportOptions())
        assert costs.cost(plan).file_bytes == pytest.approx((tmp_path / "file").stat().st_size, rel=0.02)
        added = sum(costs.layer(name, bits, plan, target)["size_bytes"] for name, bits in plan.weights.items())
        assert 0 < added < costs.cost(plan).file_bytes


def test_without_a_compiler_the_code_is_bounded(graph, tmp_path, monkeypatch):
    model, _ = calibrated(graph, (4,))
    export_c(model, tmp_path / "c")
    real = code_bytes(tmp_path / "c")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    bound = code_bytes(tmp_path / "c")
    assert not bound.measured
    assert bound.total(()) > real.total(real.of_widths) or not real.measured


def test_what_cannot_be_written_cannot_be_limited():
    graph = trace(nn.Sequential(nn.Conv3d(2, 3, 3), nn.ReLU()).eval(), torch.zeros(2, 2, 4, 4, 4))
    costs = DeployedCosts(graph, load_profile("ideal")).counting("litert")
    with pytest.raises(BudgetError, match="litert files, which cannot hold the network: '0'"):
        costs.cost(BitwidthPlan(dict.fromkeys(graph.layer, 8), dict.fromkeys(graph.activation_names, 8)))


def test_limits_of_the_program_are_searched_and_checked_again(tmp_path):
    budget = Budget(size="3.2 KB", ram="4 KB", flash="64 KB", size_counts="c")
    result = tiny.run(budget, post_training=True, run_dir=tmp_path / "run", hardware="cortex-m4")
    assert result.met
    assert result.cost.file_bytes <= 3200
    (verdict,) = export_run(tiny.trained(), tmp_path / "run", tiny.test_data(), to=["c"], examples=20)
    assert verdict.accepted
    assert verdict.real_bytes == result.cost.file_bytes
    assert verdict.ram_bytes == result.cost.ram_bytes


def test_a_file_over_its_limit_is_told_in_one_line(tmp_path, monkeypatch):
    run = tmp_path / "run"
    tiny.run(Budget(size="4 KB", size_counts="c"), post_training=True, run_dir=run)
    monkeypatch.setattr(exporting, "_held", lambda path: Held({"size_bytes": 1000.0}, "c", False))
    found = command.main("export", run, "--model", command.MODEL, "--data", command.TEST, "--to", "c", "--quiet")
    assert found.code == 1
    assert "where the budget allows 1,000" in " ".join(found.out.split())
    assert "is over a limit" in Path(run / "report.html").read_text()
