"""`quantize` on a tiny network: budgets, strategies, objectives, and what the result says."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tiny
from sigmaquant import Budget, QuantizationResult
from sigmaquant.errors import TrainingError, UnreachableBudgetError
from sigmaquant.numerics import weight_qmax
from sigmaquant.training import student
from sigmaquant.workflow.exporting import export_run
from sigmaquant.workflow.loading import evaluate_run

NAMES = ("0", "3", "5", "9")


@torch.no_grad()
def validation_outputs(network: nn.Module) -> torch.Tensor:
    return network(tiny.validation_data()[0])


def check_accounting(result: QuantizationResult, model: nn.Module) -> None:
    """Every parameter exactly once, with its bitwidth or a reason; and the network really is at the plan."""
    parameters = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert sorted(row.parameter for row in result.coverage) == sorted(parameters)
    for row in result.coverage:
        assert row.elements == parameters[row.parameter]
        assert (row.bits is None) == bool(row.reason)
        if row.bits is not None:
            assert row.bits == result.plan.weights[row.parameter.removesuffix(".weight")]
    quantizers = result.network.weight_quantizers
    assert {name: quantizer.bits for name, quantizer in quantizers.items()} == dict(result.plan.weights)
    for name, quantizer in quantizers.items():
        most = weight_qmax(result.plan.weights[name], result.plan.is_midrise(name))
        assert int(quantizer.codes(result.network.weight(name)).abs().max()) <= most


@pytest.mark.parametrize(
    "budget",
    [
        Budget(size="8x"),
        Budget(size="10x", size_counts="weights"),
        Budget(size=2000),
        Budget(bops="30x"),
        Budget(accuracy="-3 %"),
        Budget(size="6x", bops="25x", accuracy="-2 %"),
    ],
    ids=repr,
)
def test_a_reachable_budget_is_met(budget: Budget) -> None:
    model = tiny.trained()
    result = tiny.run(budget, model)
    assert result.met
    assert result.status == "met"
    assert result.violations == {}
    limits = budget.resolve(result.reference, result.float_scores.validation)
    assert dict(result.limits) == {
        **limits.upper,
        **({} if limits.accuracy_floor is None else {"accuracy": limits.accuracy_floor}),
    }
    for resource, limit in limits.upper.items():
        assert result.cost.resource(resource, budget.size_counts) <= limit
    if limits.accuracy_floor is not None:
        assert result.scores.validation >= limits.accuracy_floor
    check_accounting(result, model)
    assert not result.network.training


@pytest.mark.parametrize("strategy", ["uniform", "greedy", "ilp", "random"])
def test_every_strategy_fits_the_budget(strategy: str) -> None:
    result = tiny.run("8x", strategy=strategy, final_epochs=0.5)
    assert result.met
    assert result.cost.total_bytes <= result.reference.total_bytes / 8
    assert result.scores.validation > 0.5
    if strategy == "uniform":
        assert set(result.plan.weights.values()) == {2}


@pytest.mark.parametrize("strategy", ["sigma", "uniform", "greedy", "ilp", "random"])
def test_pins_and_allowed_bitwidths_are_respected(strategy: str) -> None:
    options = {"pin": {"0": 5}, "allowed": {"9": (3, 7)}, "bitwidths": (2, 4), "activation_pin": {"input": 6}}
    result = tiny.run("5x", strategy=strategy, post_training=True, **options)
    assert result.met
    assert result.plan.weights["0"] == 5
    assert result.plan.weights["9"] in (3, 7)
    assert {result.plan.weights[name] for name in ("3", "5")} <= {2, 4}
    assert result.plan.activations["input"] == 6
    check_accounting(result, tiny.trained())


def test_smallest_is_smaller_than_feasible_and_keeps_the_accuracy() -> None:
    budget = Budget(accuracy="-4 %")
    feasible, smallest = tiny.run(budget), tiny.run(budget, objective="smallest", max_cycles=10)
    assert feasible.met
    assert smallest.met
    assert smallest.cost.total_bytes < feasible.cost.total_bytes


def test_accurate_goes_on_where_feasible_stops() -> None:
    budget = Budget(size="6x", accuracy="50 %")
    feasible = tiny.run(budget, post_training=True)
    accurate = tiny.run(budget, post_training=True, objective="accurate", max_cycles=8)
    assert feasible.met
    assert accurate.met
    outputs = [validation_outputs(result.network) for result in (feasible, accurate)]
    wanted = validation_outputs(tiny.trained())
    near = [float((out.log_softmax(1) - wanted.log_softmax(1)).square().mean()) for out in outputs]
    assert near[1] < near[0]


def test_the_precision_of_training_can_be_chosen_and_is_written(tmp_path: Path) -> None:
    results = {}
    for bf16 in (False, True):
        path = tmp_path / str(bf16)
        results[bf16] = tiny.run("5x", strategy="uniform", bf16=bf16, run_dir=path)
        written = json.loads((path / "result.json").read_text())
        assert (written["bf16"], written["threads"], written["device"]) == (bf16, torch.get_num_threads(), "cpu")
        assert f"training runs in {'bfloat16' if bf16 else 'float32'} on cpu" in (path / "log.txt").read_text()
    assert not torch.equal(*(validation_outputs(result.network) for result in results.values()))
    tiny.run("5x", strategy="uniform", bf16=True, post_training=True, run_dir=tmp_path / "untrained")
    assert json.loads((tmp_path / "untrained" / "result.json").read_text())["bf16"] is False


@pytest.mark.parametrize("rounding", ["nearest", "compensated"])
def test_post_training_trains_nothing(monkeypatch: pytest.MonkeyPatch, rounding: str) -> None:
    monkeypatch.setattr(student, "train_", lambda *_, **__: pytest.fail("trained"))
    model = tiny.trained()
    result = tiny.run("8x", model, post_training=True, control=True, rounding=rounding)
    body = result.network.body
    same = [torch.equal(body.get_parameter(name), parameter) for name, parameter in model.named_parameters()]
    assert all(same) == (rounding == "nearest")
    assert result.scores.validation > 0.8


def test_the_control_may_use_bitwidths_between_the_allowed_ones() -> None:
    result = tiny.run(Budget(size="10x", size_counts="weights"), post_training=True, control=True)
    assert result.control is not None
    assert set(result.control.plan.weights.values()) == {3}, "32 / 10 bits, although only 2, 4, 6 and 8 are searched"


def test_without_a_limited_cost_the_control_is_no_larger_than_the_network(tmp_path: Path) -> None:
    options: dict[str, Any] = {"control": True, "post_training": True, "rounding": "nearest"}
    result = tiny.run(Budget(accuracy="-5 %"), run_dir=tmp_path, **options)
    assert result.control is not None
    assert max(result.plan.weights.values()) > min(result.plan.weights.values())
    assert 0.8 * result.cost.total_bytes < result.control.cost.total_bytes <= result.cost.total_bytes
    assert tiny.trajectory(tmp_path / "control")[0]["limits"]["size_bytes"] == result.cost.total_bytes


def test_a_uniform_control_is_trained_for_as_many_examples(tmp_path: Path) -> None:
    result = tiny.run(Budget(size="7x", accuracy="-1 %"), control=True, run_dir=tmp_path / "run", batch_size=64)
    control = result.control
    assert control is not None
    assert len(set(control.plan.weights.values())) == 1
    assert control.cost.total_bytes <= result.limits["size_bytes"]
    examples = [tiny.state(path)["trained_examples"] for path in (tmp_path / "run", tmp_path / "run" / "control")]
    assert examples[0] > 400, "the search trains too"
    assert examples[1] == pytest.approx(examples[0], abs=4), "one for each segment at most"
    assert result.to_dict()["control"]["scores"]["validation"] == control.scores.validation


def test_a_refused_run_overwrites_nothing(tmp_path: Path) -> None:
    tiny.run("6x", tiny.single(), post_training=True, run_dir=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(UnreachableBudgetError):
        tiny.run("90x", tiny.single(), post_training=True, run_dir=tmp_path, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("changed", [{"seed": 1}, {"train_data": tiny.data(400, 7)}])
def test_the_control_of_an_overwritten_run_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"control": True, "post_training": True}
    tiny.run("6x", tiny.single(), run_dir=tmp_path / "run", **options)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    options.update(changed)
    with monkeypatch.context() as patch:
        patch.setattr("sigmaquant.workflow.job.run_control", stop)
        with pytest.raises(KeyboardInterrupt):
            tiny.run("6x", tiny.single(), run_dir=tmp_path / "run", overwrite=True, **options)
    result = tiny.run("6x", tiny.single(), run_dir=tmp_path / "run", resume=True, **options)
    assert result.control == tiny.run("6x", tiny.single(), **options).control


@pytest.mark.parametrize("sizes", [(64, 6), (64, 16, 6)])
def test_fewer_layers_than_bitwidths(sizes: tuple[int, ...]) -> None:
    result = tiny.run(Budget(size="5x", accuracy="-20 %"), tiny.perceptron(*sizes))
    assert len(result.plan.weights) == len(sizes) - 1
    assert result.met


def test_a_network_without_batch_norm_ends_with_its_training(tmp_path: Path) -> None:
    result = tiny.run("6x", tiny.single(), run_dir=tmp_path)
    *_, last = (json.loads(line) for line in (tmp_path / "trajectory.jsonl").read_text().splitlines())
    assert (last["stage"], last["move"]) == ("final", "final training")
    assert result.trained_examples > 0


def test_equal_sigmas() -> None:
    model = tiny.perceptron(64, 64, 64, 64, 6)
    with torch.no_grad():
        for layer in (model[3], model[5]):
            layer.weight.copy_(model[1].weight)
    result = tiny.run("6x", model, pin={"7": 4}, post_training=True)
    assert result.cost.total_bytes <= result.reference.total_bytes / 6


def test_all_layers_pinned() -> None:
    bits = dict(zip(NAMES, (3, 5, 7, 8), strict=True))
    result = tiny.run("3x", pin=bits, control=True)
    assert dict(result.plan.weights) == bits
    assert result.control is not None
    assert dict(result.control.plan.weights) == bits
    assert result.met


def test_an_accuracy_out_of_reach_is_said_and_the_nearest_network_returned(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="sigmaquant"):
        result = tiny.run(Budget(size="5x", accuracy="100 %"))
    assert not result.met
    assert result.status == "not met"
    assert set(result.violations) == {"accuracy"}
    assert result.violations["accuracy"] == pytest.approx(1 - result.scores.validation)
    assert result.scores.validation > 0.85
    assert result.cost.total_bytes <= result.limits["size_bytes"]
    assert "the budget is not met: accuracy is off by" in caplog.text


def test_nothing_of_the_users_is_changed() -> None:
    model = tiny.trained()
    model[3].train()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    model[9].weight.requires_grad_(False)
    torch.manual_seed(123)
    random = torch.get_rng_state()
    tiny.run("8x", model)
    assert tiny.same_tensors(model.state_dict(), before)
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def outcome(result: QuantizationResult) -> tuple[Any, ...]:
    return dict(result.plan.weights), result.scores.validation, result.network.state()


def test_test_data_decide_nothing() -> None:
    budget = Budget(size="7x", accuracy="-1 %")
    other = (tiny.test_data()[0].flip(0) * 3, tiny.test_data()[1])
    plain, tested, swapped = (tiny.run(budget, test_data=data) for data in (None, tiny.test_data(), other))
    assert plain.scores.test is None
    assert tested.scores.test > 0.8
    assert swapped.scores.test < 0.6
    assert tested.float_scores.test != swapped.float_scores.test
    for result in (tested, swapped):
        assert outcome(result)[:2] == outcome(plain)[:2]
        assert tiny.same_tensors(outcome(result)[2], outcome(plain)[2])


def test_the_same_seed_gives_the_same_network_and_another_one_another(tmp_path: Path) -> None:
    results = [tiny.run("8x", run_dir=tmp_path / str(index), seed=seed) for index, seed in enumerate((0, 0, 1))]
    files = [(tmp_path / str(index) / "checkpoint.safetensors").read_bytes() for index in range(3)]
    lines = [tiny.trajectory(tmp_path / str(index)) for index in range(3)]
    assert files[0] == files[1]
    assert lines[0] == lines[1]
    assert results[0].plan == results[1].plan
    assert files[0] != files[2]
    assert lines[0] != lines[2]


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_a_network_in_another_precision_and_its_data(tmp_path: Path, kind: torch.dtype) -> None:
    model, (inputs, targets) = tiny.single().to(kind), tiny.train_data()
    pair = (inputs.to(kind), targets)
    result = tiny.run("4x", model, train_data=pair, validation_data=pair, post_training=True, run_dir=tmp_path / "run")
    assert result.notes == (
        f"the network was read as float32, because its parameter '1.weight' is {str(kind).removeprefix('torch.')}; "
        "floating inputs are given to it as float32",
    )
    assert {tensor.dtype for tensor in result.network.parameters()} == {torch.float32}
    assert model[1].weight.dtype == kind
    again = evaluate_run(model, pair, tmp_path / "run")
    assert again["quantized"] == result.scores.validation
    verdict = export_run(model, tmp_path / "run", pair, to=("packed",), examples=50)
    assert verdict[0].passed


def test_the_network_comes_back_ready_to_be_used() -> None:
    result = tiny.run("8x", post_training=True, test_data=tiny.test_data())
    inputs, targets = tiny.test_data()
    with torch.no_grad():
        right = (result.network(inputs).argmax(1) == targets).double().mean().item()
    assert right == pytest.approx(result.scores.test)
    assert not any(module.training for module in result.network.modules())


def test_a_network_that_nothing_reaches_is_trained_by_nobody() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = tiny.trained()

        @torch.no_grad()
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x)

    assert tiny.run("8x", Frozen(), post_training=True).met
    with pytest.raises(TrainingError, match="nothing can be trained: no gradient reaches a parameter"):
        tiny.run("8x", Frozen())
