"""Runs that remove channels: budget, files, resuming, refusals."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import tiny
from command import quantize as command
from command import refused
from pruning_networks import network
from sigmaquant import Budget, quantize
from sigmaquant.errors import PruningError, SigmaQuantError, UnreachableBudgetError
from sigmaquant.graph import trace
from sigmaquant.plan import BitwidthPlan
from sigmaquant.runs import RunFiles
from sigmaquant.workflow.loading import evaluate_run, load_quantized

pytest.importorskip("torch_pruning", reason="the extra prune is not installed")
BUDGET = Budget(size="6x", macs="1.4x")
OPTIONS = {**tiny.QUICK, "post_training": True, "prune": 0.6}


def run(path, **options):
    return quantize(
        tiny.trained(),
        tiny.train_data(),
        budget=BUDGET,
        validation_data=tiny.validation_data(),
        test_data=tiny.test_data(),
        run_dir=path,
        **{**OPTIONS, **options},
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("pruned") / "run"
    return run(path, export=("onnx", "packed")), path


def test_both_limits_hold_and_the_plan_says_what_went(made):
    result, path = made
    assert result.met
    assert result.cost.macs <= result.reference.macs / 1.4
    assert result.cost.total_bytes <= result.reference.total_bytes / 6
    plan = BitwidthPlan.from_json((path / "plan.json").read_text())
    assert plan == result.plan
    assert plan.removed
    document = json.loads((path / "result.json").read_text())["pruning"]
    assert document["float_macs"] == result.reference.macs > document["macs"] == result.cost.macs
    assert any(row["removed"] for row in document["groups"])
    assert any("removed channels" in note for note in result.notes)
    assert result.reference.macs == sum(spec.macs for spec in trace(tiny.trained(), tiny.train_data()[0][:2]).layers)


def test_files_hold_the_smaller_network(made):
    result, _ = made
    assert [(verdict.target, verdict.passed) for verdict in result.files] == [("onnx", True), ("packed", True)]


def test_it_is_loaded_and_evaluated(made):
    result, path = made
    inputs = tiny.validation_data()[0]
    loaded = load_quantized(tiny.trained(), inputs[:2], path)
    with torch.no_grad():
        assert torch.equal(loaded(inputs), result.network(inputs))
    scores = evaluate_run(tiny.trained(), tiny.test_data(), path)
    assert scores["quantized"] == pytest.approx(result.scores.test)
    assert scores["float"] == pytest.approx(result.float_scores.test)


def test_a_killed_run_ends_alike(made, tmp_path):
    """Killed when the channels were chosen, and before: nothing else of the run is left."""
    result, path = made
    for kept in (("config.json", "pruning.json"), ("config.json",)):
        again = tmp_path / str(len(kept))
        again.mkdir()
        for name in kept:
            shutil.copy(path / name, again / name)
        other = run(again, resume=True)
        assert other.plan == result.plan
        one, two = (RunFiles(place).read_checkpoint()[0] for place in (path, again))
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_damaged_choice_is_told(made, tmp_path):
    for name in ("config.json", "pruning.json"):
        shutil.copy(made[1] / name, tmp_path / name)
    (tmp_path / "pruning.json").write_text("{}")
    with pytest.raises(SigmaQuantError, match=r"pruning.json is damaged"):
        run(tmp_path, resume=True)


def test_limits_out_of_reach_are_told():
    with pytest.raises(UnreachableBudgetError, match="largest share"):
        quantize(tiny.trained(), tiny.train_data(), budget=Budget(macs="20x"), **OPTIONS)
    with pytest.raises(UnreachableBudgetError, match="no weight bitwidth changes it"):
        quantize(tiny.trained(), tiny.train_data(), budget=Budget(macs="2x"), **{**OPTIONS, "prune": 0.0})


def test_what_does_not_go_together_is_refused():
    for options, text in (
        ({"budget": "6x", "prune": 1.0}, "prune is 1.0"),
        ({"plans": ["5x", "8x"]}, "Leave prune out"),
    ):
        with pytest.raises(SigmaQuantError, match=text):
            quantize(tiny.trained(), tiny.train_data(), **{**OPTIONS, **options})
    data = torch.randn(32, 3, 8, 8), torch.arange(32) % 3
    with pytest.raises(PruningError, match="pinned"):
        quantize(network("flattened"), data, budget="6x", **OPTIONS, pin={"two": 8})


def test_the_command_line(tmp_path):
    done = command("--size", "6x", "--macs", "1.4x", "--prune", "0.6", "--post-training", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "removed channels" in done.out
    assert "20x" not in refused(command("--size", "6x", "--macs", "20x", "--prune", "0.3", "--post-training"))
