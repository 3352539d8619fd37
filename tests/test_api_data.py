"""What `quantize` takes: data in every form, models with several inputs, metrics and losses of the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import tiny
from sigmaquant import Budget, evaluate_run, load_quantized, quantize
from sigmaquant.data import Keys, as_source
from sigmaquant.errors import DataError, MetricError
from sigmaquant.search.session import Data
from sigmaquant.training.devices import choose_device
from sigmaquant.workflow.exporting import read_inputs
from sigmaquant.workflow.job import trace_copy

QUICK = {**tiny.QUICK, "final_epochs": 0.5, "max_cycles": 1}


def test_validation_data_are_held_out_and_that_is_said() -> None:
    seen: list[int] = []

    def counting(outputs: Tensor, targets: Tensor) -> float:
        seen.append(len(targets))
        return float((outputs.argmax(1) == targets).double().mean())

    result = tiny.run("6x", validation_data=None, metric=counting, validation_fraction=0.25, post_training=True)
    assert result.notes == (
        "no validation data were given: 100 training examples were held out for validation, 300 are left for training",
    )
    assert result.to_dict()["notes"] == list(result.notes)
    assert set(seen) == {100}


@pytest.mark.parametrize("form", ["loader", "list"])
def test_validation_data_are_held_out_of_batches_too(form: str) -> None:
    loader = DataLoader(TensorDataset(*tiny.train_data()), batch_size=40, shuffle=True)
    data = loader if form == "loader" else list(loader)
    result = tiny.run("6x", tiny.single(), train_data=data, validation_data=None, post_training=True)
    held_out, few = result.notes
    assert held_out == (
        "no validation data were given: 40 training examples were held out for validation, 360 are left for training"
    )
    assert few.startswith("40 validation examples decide everything")
    assert result.scores.validation > 0.8


def test_a_metric_of_the_users_own_judges_everything() -> None:
    def negative_loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return -nn.functional.cross_entropy(outputs, targets)

    result = tiny.run(Budget(size="5x", accuracy=-0.3), metric=negative_loss)
    assert result.float_scores.validation < 0
    assert result.met
    assert result.scores.validation >= result.limits["accuracy"] == pytest.approx(result.float_scores.validation - 0.3)


def test_a_loss_of_the_users_own_is_minimised() -> None:
    calls: list[tuple[int, ...]] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(tuple(outputs.shape))
        return nn.functional.multi_margin_loss(outputs, targets).reshape(1)

    result = tiny.run("6x", loss=loss, distill=0.0, **{"strategy": "uniform", "final_epochs": 0.5})
    assert calls == [(50, 6)] * 4
    assert result.notes == ()


def test_a_loss_that_is_not_used_is_mentioned() -> None:
    result = tiny.run("6x", loss=nn.CrossEntropyLoss(), strategy="uniform", final_epochs=0.1)
    assert result.notes == ("the loss was not used: the networks learn from the float network alone (distill=1)",)
    untrained = tiny.run("6x", tiny.single(), loss=nn.CrossEntropyLoss(), distill=0.5, post_training=True)
    assert untrained.notes == ("the loss was not used: nothing is trained",)


def test_data_loaders_data_sets_and_lists_of_batches_give_a_network() -> None:
    train, validation = tiny.train_data(), tiny.validation_data()
    loader = DataLoader(TensorDataset(*train), batch_size=40, shuffle=True)
    batches = list(DataLoader(TensorDataset(*validation), batch_size=100))
    for data in (loader, TensorDataset(*train), list(loader)):
        result = quantize(tiny.trained(), data, budget="6x", validation_data=batches, **QUICK)
        assert result.met
        assert result.scores.validation > 0.8
        assert result.float_scores.validation == pytest.approx(0.92, abs=0.01)


@pytest.mark.parametrize("form", ["pair", "list"])
def test_batches_of_one_example_are_trained_on(form: str) -> None:
    inputs, targets = (part[:24] for part in tiny.train_data())
    data = (inputs, targets) if form == "pair" else [(inputs[i : i + 1], targets[i : i + 1]) for i in range(24)]
    options = {**QUICK, "batch_size": 1, "cycle_examples": 12, "calibration_examples": 12, "batch_norm_examples": 12}
    result = quantize(tiny.trained(), data, budget="6x", validation_data=tiny.data(40, 2), **options)
    assert result.met


def test_a_last_batch_of_one_example_is_left_out(tmp_path: Path) -> None:
    inputs, targets = tiny.train_data()
    single = [(inputs[:1], targets[:1])]
    batches = single + [(inputs[i : i + 50], targets[i : i + 50]) for i in range(1, 351, 50)] + single
    options = {**QUICK, "cycle_examples": 500, "strategy": "uniform", "final_epochs": 2.0}
    seen: list[int] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(len(targets))
        return nn.functional.cross_entropy(outputs, targets)

    quantize(
        tiny.trained(),
        batches,
        budget="6x",
        validation_data=tiny.validation_data(),
        loss=loss,
        distill=0.5,
        run_dir=tmp_path / "run",
        **options,
    )
    assert min(seen) >= 2
    state = tiny.state(tmp_path / "run")
    assert sum(seen) == state["trained_examples"] + state["discarded_examples"] == pytest.approx(2 * 352, abs=4)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.vector, self.head = nn.Conv2d(1, 4, 3, stride=2), nn.Linear(5, 8), nn.Linear(44, 3)

    def forward(self, image: Tensor, vector: Tensor) -> dict[str, Tensor]:
        hidden = torch.cat((self.image(image).relu().flatten(1), self.vector(vector).relu()), 1)
        return {"logits": self.head(hidden)}


def test_a_model_with_several_inputs_and_a_mapping_as_output(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 1, 8, 8, generator=generator), torch.randn(200, 5, generator=generator)
    model = Two()
    with torch.no_grad():
        targets = model(*inputs)["logits"].argmax(1)
    result = quantize(model, (inputs, targets), budget="3x", test_data=(inputs, targets), run_dir=tmp_path, **QUICK)
    assert result.met
    assert set(result.plan.weights) == {"image", "vector", "head"}
    assert sum(row.elements for row in result.coverage) == sum(p.numel() for p in model.parameters())
    assert evaluate_run(model, (inputs, targets), tmp_path)["quantized"] == result.scores.test


class Keywords(Two):
    """Takes its inputs by name alone, and flattens by a view that tensors in channels-last memory would refuse."""

    def forward(self, *, image: Tensor, vector: Tensor) -> dict[str, Tensor]:
        hidden = self.image(image).relu()
        return {"logits": self.head(torch.cat((hidden.view(hidden.size(0), -1), self.vector(vector).relu()), 1))}


def test_a_model_that_takes_keywords_alone_and_is_no_friend_of_channels_last(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 1, 8, 8, generator=generator), torch.randn(200, 5, generator=generator)
    model = Keywords()
    with torch.no_grad():
        targets = model(image=inputs[0], vector=inputs[1])["logits"].argmax(1)
    result = quantize(model, (inputs, targets), budget="3x", test_data=(inputs, targets), run_dir=tmp_path, **QUICK)
    assert result.met
    network = load_quantized(model, {"image": inputs[0][:2], "vector": inputs[1][:2]}, tmp_path)
    assert float((network(*inputs)["logits"].argmax(1) == targets).float().mean()) == result.scores.test
    assert evaluate_run(model, (inputs, targets), tmp_path)["quantized"] == result.scores.test


def test_a_run_is_evaluated_and_loaded_exactly(tmp_path: Path) -> None:
    result = tiny.run("8x", run_dir=tmp_path, test_data=tiny.test_data(), **{"max_cycles": 1})
    scores = evaluate_run(tiny.trained(), tiny.test_data(), tmp_path)
    assert scores == {"quantized": result.scores.test, "float": result.float_scores.test, "examples": 150}
    other = tiny.untrained()  # the float weights do not matter
    network = load_quantized(other, tiny.test_data()[0][:1], tmp_path)
    assert tiny.same_tensors(network.state(), result.network.state())
    assert network.plan == result.plan
    assert not network.training


def test_a_run_is_evaluated_by_its_own_metric(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def agreement(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        return -float(nn.functional.cross_entropy(outputs, targets))

    result = tiny.run("4x", post_training=True, run_dir=tmp_path, test_data=tiny.test_data(), metric=agreement)
    with pytest.raises(MetricError, match=r"scored by 'agreement', a function that is not part of it\. Give it"):
        evaluate_run(tiny.trained(), tiny.test_data(), tmp_path)
    scores = evaluate_run(tiny.trained(), tiny.test_data(), tmp_path, metric=agreement)
    assert scores["quantized"] == result.scores.test
    assert "was scored by" not in caplog.text
    evaluate_run(tiny.trained(), tiny.test_data(), tmp_path, metric="top1")
    assert "was scored by 'agreement', not by 'top1': do not compare the two" in caplog.text


class Endless:
    """Batches for ever."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        images, labels = tiny.train_data()
        while True:
            yield images[:8], labels[:8]


@pytest.mark.parametrize("which", ["train_data", "validation_data", "test_data"])
def test_data_that_never_end_are_told_before_the_search(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sigmaquant.data.streams._MOST_BATCHES", 50)
    with pytest.raises(DataError, match=r"gave 50 batches in one pass and did not end\. If it is endless, end it"):
        tiny.run("8x", run_dir=tmp_path, **{which: Endless()})
    assert not (tmp_path / "trajectory.jsonl").exists()


def test_endless_training_data_are_fine_where_nothing_is_trained() -> None:
    assert tiny.run("4x", post_training=True, train_data=Endless()).met


def test_other_float_weights_than_the_runs_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny.run("4x", post_training=True, run_dir=tmp_path)
    evaluate_run(tiny.trained(), tiny.test_data(), tmp_path)
    assert "float model's weights" not in caplog.text
    other = tiny.trained()
    with torch.no_grad():
        next(other.parameters()).mul_(1.5)
    evaluate_run(other, tiny.test_data(), tmp_path)
    assert "float model's weights are not those" in caplog.text


def test_a_network_of_several_values_is_fitted_to_values() -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    inputs = torch.randn(256, 6, generator=generator)
    targets = model(inputs).detach()

    def metric(outputs: Tensor, wanted: Tensor) -> float:
        return -float((outputs - wanted).square().mean() / wanted.var())

    options = {**QUICK, "cycle_examples": 0, "final_epochs": 4.0, "lr": 0.003}
    scores = {}
    for kind in ("auto", "logits"):
        budget = Budget(size="6x", size_counts="weights")
        result = quantize(model, (inputs, targets), budget=budget, metric=metric, outputs=kind, **options)
        scores[kind] = result.scores.validation
    assert scores["auto"] > -0.1
    # a softmax does not see what all outputs have in common: its training is thrown away, or is worse
    assert scores["auto"] >= scores["logits"]


def test_a_run_is_loaded_onto_the_cpu_wherever_the_model_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.single()
    tiny.run("8x", model, post_training=True, run_dir=tmp_path)
    moved: list[nn.Module] = []
    real = nn.Module.cpu
    monkeypatch.setattr(nn.Module, "cpu", lambda self: moved.append(self) or real(self))
    network = load_quantized(model, tiny.test_data()[0][:2], tmp_path)
    assert len(moved) == 1
    assert moved[0] is not model
    assert all(tensor.device.type == "cpu" for tensor in network.state().values())


class Elsewhere(Tensor):
    """Stands for a tensor on a GPU: only what `cpu` gives is an ordinary one."""

    def cpu(self) -> Tensor:
        return self.as_subclass(Tensor)


def test_what_is_traced_and_verified_on_the_cpu_is_moved_there() -> None:
    inputs, targets = tiny.test_data()
    data = (inputs.as_subclass(Elsewhere), targets.as_subclass(Elsewhere))
    seen: list[type] = []
    model = tiny.single()
    model.register_forward_pre_hook(lambda _, given: seen.append(type(given[0])))
    source = as_source(data)
    trace_copy(model, Data(source, source), choose_device("cpu"))
    assert seen[0] is Tensor
    example, batches, found = read_inputs(data, Keys(), None)
    flat = [tensor for batch in batches for tensor in batch]
    assert {type(tensor) for tensor in (*example, *flat, found)} == {Tensor}
