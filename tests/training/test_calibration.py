"""Outliers among the calibration examples, and ranges chosen by what they do to the outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import tiny
from sigmaquant.data import as_source
from sigmaquant.graph import trace
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant.observers import ExampleObserver, MinMaxObserver, MseObserver
from sigmaquant.tasks import as_task
from sigmaquant.training.calibration import choose_observer, without_outliers
from sigmaquant.training.devices import Device

CPU = Device("cpu", bf16=False)


def images(count: int = 200, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_an_image_that_was_not_divided_by_255_is_left_out() -> None:
    x = images()
    x[70] *= 255
    kept, count = without_outliers(list(x.split(64)))
    assert count == 1
    assert torch.equal(torch.cat(kept), torch.cat([x[:70], x[71:]]))
    pairs, count = without_outliers([(part, torch.arange(len(part))) for part in x.split(64)])
    assert count == 1
    assert isinstance(pairs[1], tuple)
    assert pairs[1][1].tolist() == [*range(6), *range(7, 64)]


def test_what_is_how_the_data_are_stays() -> None:
    x = images()
    x[::20] *= 255  # one in twenty
    assert without_outliers(list(x.split(64)))[1] == 0
    heavy = torch.randn(200, 5, generator=torch.Generator().manual_seed(1)) ** 3
    assert without_outliers([heavy])[1] == 0
    assert without_outliers([torch.arange(200)[:, None]])[1] == 0  # indices
    assert without_outliers([images(4) * torch.tensor([1.0, 1, 1, 99]).view(4, 1, 1, 1)])[1] == 0


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e5])
def test_the_unit_of_the_inputs_does_not_matter(scale: float) -> None:
    x = images() * scale
    x[3] *= 100
    assert without_outliers([x])[1] == 1


def test_one_bad_example_decides_no_range() -> None:
    x = torch.randn(128, 50, generator=torch.Generator().manual_seed(0))
    clean, spoiled, plain = ExampleObserver(), ExampleObserver(), MinMaxObserver()
    clean(x)
    x[5] *= 255
    spoiled(x)
    plain(x)
    for bits in (4, 8):
        assert spoiled.affine(bits)[0] == pytest.approx(clean.affine(bits)[0], rel=0.2)
        assert plain.affine(bits)[0] > 50 * clean.affine(bits)[0]


def test_examples_that_all_reach_the_same_values_keep_them() -> None:
    """Such as masked places of an attention: far from the others, in every example."""
    x = torch.randn(64, 40, generator=torch.Generator().manual_seed(0))
    x[:, :10] = -1000.0
    observer = ExampleObserver()
    observer(x)
    scale, zero_point = observer.affine(8)
    assert (-128 - zero_point) * scale == pytest.approx(-1000, rel=0.02)


class Spread(nn.Module):
    """One input in sixty has values fifty times as large, which the outputs hardly depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(x))


class Beyond(nn.Module):
    """Only large values reach the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(x.abs() - 40))


def test_ranges_are_chosen_by_what_they_do_to_the_outputs() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 16)
    spread = x.clone()
    spread[::60] *= 50
    batches = list(spread.split(32))
    model = Spread().eval()
    graph = trace(model, (x[:2],))
    plan = BitwidthPlan(dict.fromkeys(graph.layer, 8), dict.fromkeys(graph.activation_names, 8), graph.fingerprint)
    assert choose_observer(graph, plan, batches, CPU, as_task(outputs="logits"), 0) is ExampleObserver
    model = Beyond().eval()
    graph = trace(model, (x[:2],))
    plan = BitwidthPlan(dict.fromkeys(graph.layer, 8), dict.fromkeys(graph.activation_names, 8), graph.fingerprint)
    spread = x.clone()
    spread[::6] *= 50
    assert choose_observer(graph, plan, list(spread.split(32)), CPU, as_task(outputs="values"), 0) is MseObserver


def test_one_image_in_two_hundred_costs_nothing_and_is_told() -> None:
    inputs, targets = tiny.train_data()
    clean = tiny.run("4x", post_training=True, strategy="uniform")
    inputs[as_source((inputs, targets), name="x").examples // 2] *= 255
    spoiled = tiny.run(
        "4x", post_training=True, strategy="uniform", train_data=(inputs, targets), calibration_examples=400
    )
    assert spoiled.scores.validation >= clean.scores.validation - 0.01
    assert any("1 of the training data's examples" in note for note in spoiled.notes)
    assert not any("calibrate ranges" in note for note in clean.notes)
