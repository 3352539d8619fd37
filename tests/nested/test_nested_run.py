"""Several plans from one set of weights: whole runs, their files, and bad input."""

from __future__ import annotations

import json
import shutil
from functools import cache
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from sigmaquant import Budget, QuantizationResult, load_quantized, quantize
from sigmaquant.errors import BudgetError, CheckpointError, PlanError, RunDirectoryError, SigmaQuantError
from sigmaquant.export.nested import load_nested, read_plans
from sigmaquant.export.packed import export_packed, load_packed
from sigmaquant.lowering import IntegerExecutor, lower
from sigmaquant.quant.nesting import narrowed
from sigmaquant.runs import RunFiles
from sigmaquant.runs.weights import load_tensors

SIZES = [Budget(size=size, size_counts="weights") for size in ("5x", "8x", "14x")]


def run(plans=None, **options) -> QuantizationResult:
    options = {"validation_data": tiny.validation_data(), "test_data": tiny.test_data(), **tiny.QUICK, **options}
    options = {"post_training": True, "strategy": "ilp", "sensitivity": "divergence", **options}
    return quantize(tiny.trained(), tiny.train_data(), plans=SIZES if plans is None else plans, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("nested") / "run"
    return run(run_dir=path), path


def test_every_plan_meets_its_budget_and_is_a_mask(made):
    result, _ = made
    assert result.met
    assert [row.name for row in result.plans] == ["5x", "8x", "14x"]
    for row in result.plans:
        assert row.met
        assert row.scores.test is not None
        assert row.alone is not None
    for wide, narrow in pairwise(result.plans):
        assert narrow.cost.weight_bytes < wide.cost.weight_bytes
        for name, bits in narrow.plan.weights.items():
            assert bits <= wide.plan.weights[name]
            codes = narrowed(wide.network.codes(name), wide.plan.weights[name], bits)
            assert torch.equal(codes, narrow.network.codes(name))


def test_plans_score_about_as_alone(made):
    result, _ = made
    for row in result.plans:
        assert row.scores.validation >= row.alone.validation - 0.05


def test_the_result_is_about_the_largest(made):
    result, path = made
    first = result.plans[0]
    assert result.plan == first.plan
    document = RunFiles(path).read_result()
    assert document["weights"] == dict(first.plan.weights)
    assert [row["name"] for row in document["plans"]] == ["5x", "8x", "14x"]
    x = tiny.test_data()[0]
    network = load_quantized(tiny.trained(), x[:2], path)
    with torch.no_grad():
        assert torch.equal(network(x), first.network(x))


def test_every_plan_comes_back_from_the_one_file(made):
    result, path = made
    file, x = RunFiles(path).nested_path, tiny.test_data()[0]
    assert [(item.name, item.plan) for item in read_plans(file)] == [(row.name, row.plan) for row in result.plans]
    for number, row in enumerate(result.plans):
        for key in (number, row.name):
            network = load_nested(tiny.untrained(), x[:2], file, key)
            assert tiny.same_tensors(network.state(), row.network.state())
        ours, theirs = (IntegerExecutor(lower(net)) for net in (network, row.network))
        with torch.no_grad():
            assert torch.equal(ours(x), theirs(x))


def test_planes_of_other_plans_do_not_matter(made, tmp_path):
    """The smallest plan is the same where all planes that it does not use are noise."""
    result, path = made
    tensors, metadata = load_tensors(RunFiles(path).nested_path)
    for name, bits in result.plans[-1].plan.weights.items():
        planes = tensors[f"{name}.planes"]
        assert len(planes) == result.plans[0].plan.weights[name]
        planes[bits:] = torch.randint(0, 256, planes[bits:].shape, dtype=torch.uint8)
    save_file(tensors, tmp_path / "noise.safetensors", metadata)
    network = load_nested(tiny.untrained(), tiny.test_data()[0][:2], tmp_path / "noise.safetensors", "14x")
    assert tiny.same_tensors(network.state(), result.plans[-1].network.state())


def test_files_of_earlier_releases_are_told_by_their_versions(made):
    """No reader takes new content for old: grids that it does not know have another version."""
    _, path = made
    assert json.loads(RunFiles(path).plan_path.read_text())["version"] == 2
    document = json.loads(RunFiles(path).plans_path.read_text())
    assert (document["schema"], document["version"]) == ("sigmaquant.plans", 1)
    with pytest.raises(CheckpointError, match="no packed checkpoint"):
        load_packed(tiny.untrained(), tiny.test_data()[0][:2], RunFiles(path).nested_path)


def test_the_file_costs_little_more_than_the_largest_plan(made, tmp_path):
    """What a plan adds are numbers for each channel: the tiny network has as many of them as bytes of weights."""
    result, path = made
    export_packed(result.network, tmp_path / "alone.safetensors")
    channels = sum(spec.channels for spec in result.network.graph.layers)
    added = RunFiles(path).nested_path.stat().st_size - (tmp_path / "alone.safetensors").stat().st_size
    assert added < 2 * (16 * channels + 700)


@cache
def interrupted() -> type[Exception]:
    return type("Interrupted", (Exception,), {})


def test_a_killed_run_goes_on(made, tmp_path, monkeypatch):
    result, _ = made
    from sigmaquant.nested import run as module

    def stop(*args, **kwargs):
        raise interrupted()

    with monkeypatch.context() as patch:
        patch.setattr(module, "round_nested_", stop)
        with pytest.raises(interrupted()):
            run(run_dir=tmp_path / "run")
    searched = [json.loads((tmp_path / "run" / "plans" / str(k) / "state.json").read_text()) for k in range(3)]
    again = run(run_dir=tmp_path / "run", resume=True)
    assert searched == [json.loads((tmp_path / "run" / "plans" / str(k) / "state.json").read_text()) for k in range(3)]
    for one, other in zip(again.plans, result.plans, strict=True):
        assert one.plan == other.plan
        assert tiny.same_tensors(one.network.state(), other.network.state())
    with pytest.raises(RunDirectoryError, match="another configuration"):
        run(SIZES[:2], run_dir=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"plans": ["8x"]}, SigmaQuantError, "two or more budgets"),
        ({"plans": "8x,16x"}, SigmaQuantError, "two or more budgets"),
        ({"plans": ["8x", "8x"]}, SigmaQuantError, "two plans '8x'"),
        ({"plans": ["8x", "8 parsecs"]}, SigmaQuantError, "8 parsecs"),
        ({"budget": "8x"}, SigmaQuantError, "either a budget"),
        ({"midrise_up_to": 2}, SigmaQuantError, "mid-rise grids only"),
        ({"accept_control": True}, SigmaQuantError, "no uniform control"),
        ({"plans": [SIZES[0], Budget(size="40x", size_counts="weights")]}, BudgetError, "cannot be met"),
    ],
)
def test_bad_input(options, error, text):
    with pytest.raises(error, match=text):
        run(**options)


def test_neither_budget_nor_plans():
    with pytest.raises(SigmaQuantError, match="either a budget"):
        quantize(tiny.single(), tiny.train_data())


def test_bad_files(made, tmp_path):
    _, path = made
    x, file = tiny.test_data()[0][:2], RunFiles(path).nested_path
    with pytest.raises(PlanError, match="It has 0 \\('5x'\\)"):
        load_nested(tiny.untrained(), x, file, "12x")
    with pytest.raises(CheckpointError, match="no nested checkpoint"):
        load_nested(tiny.untrained(), x, RunFiles(path).checkpoint_path)
    tensors, metadata = load_tensors(file)
    damaged = tmp_path / "damaged.safetensors"
    for change, text in (
        ({"version": "9"}, "version '9'"),
        ({"plans": "{}"}, "plans are damaged"),
        ({"plans": metadata["plans"].replace("14x", "14x").replace("[", "[1,", 1)}, "damaged"),
    ):
        save_file(tensors, damaged, {**metadata, **change})
        with pytest.raises(CheckpointError, match=text):
            load_nested(tiny.untrained(), x, damaged)
    name = next(key for key in tensors if key.endswith(".planes"))
    for change, number in (({name: tensors[name][1:]}, 0), ({"plan.1": tensors["plan.1"][:-1]}, 1)):
        save_file({**tensors, **change}, damaged, metadata)
        with pytest.raises(CheckpointError, match=r"planes of layer|has \d+ bytes"):
            load_nested(tiny.untrained(), x, damaged, number)
    shutil.copy(file, damaged)
    assert load_file(damaged)


TRAINED = {"post_training": False, "final_epochs": 2.0, "lr": 0.01}


def test_plans_are_trained_together_and_go_on_where_they_were_killed(tmp_path, monkeypatch):
    """The same networks whether the run was killed or not."""
    from sigmaquant.training.together import Together

    sizes = [Budget(size=size, size_counts="weights") for size in ("6x", "16x")]
    rounded = run(sizes)
    whole = run(sizes, **TRAINED, control=True, run_dir=tmp_path / "whole")
    assert whole.trained_examples > 0
    means = [sum(row.scores.validation for row in result.plans) for result in (whole, rounded)]
    assert means[0] >= means[1], "what is kept is no worse than what training began with"
    for row in whole.plans:
        assert row.alone is not None
        assert row.scores.validation >= row.alone.validation - 0.06
    segment, calls = Together.segment, []

    def twice(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise interrupted()
        return segment(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Together, "segment", twice)
        with pytest.raises(interrupted()):
            run(sizes, **TRAINED, run_dir=tmp_path / "killed")
    again = run(sizes, **TRAINED, run_dir=tmp_path / "killed", resume=True)
    assert again.plans[0].alone is None
    for one, other in zip(again.plans, whole.plans, strict=True):
        assert tiny.same_tensors(one.network.state(), other.network.state())
    file = RunFiles(tmp_path / "whole").nested_path
    for number, row in enumerate(whole.plans):
        network = load_nested(tiny.untrained(), tiny.test_data()[0][:2], file, number)
        assert tiny.same_tensors(network.state(), row.network.state())
