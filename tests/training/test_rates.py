"""Training that does not depend on the unit of inputs and outputs, and that cannot ruin a network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sigmaquant import Budget, QuantizationResult, quantize
from sigmaquant.graph import trace
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_
from sigmaquant.training.rates import clip_and_scale_, rate_factors


def network(inputs: float = 1.0, outputs: float = 1.0) -> tuple[nn.Module, Tensor, Tensor]:
    """A fitted regression, its inputs and outputs in other units."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 8, generator=generator)
    y = torch.tanh(x @ torch.randn(8, 1, generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for step in range(200):
            part = slice(128 * (step % 6), 128 * (step % 6) + 128)
            optimizer.zero_grad()
            F.mse_loss(model(x[part]), y[part]).backward()
            optimizer.step()
    with torch.no_grad():
        model[0].weight.div_(inputs)
        model[4].weight.mul_(outputs)
        model[4].bias.mul_(outputs)
    return model.eval(), x * inputs, y * outputs


def r2(outputs: Tensor, targets: Tensor) -> float:
    return float(1 - (outputs - targets).pow(2).mean() / targets.var())


def trained(inputs: float = 1.0, outputs: float = 1.0, **options: Any) -> QuantizationResult:
    model, x, y = network(inputs, outputs)
    options = {"final_epochs": 4.0, "cycle_examples": 256, "max_cycles": 2, "sensitivity_limit": 512, **options}
    return quantize(
        model,
        (x[:800], y[:800]),
        validation_data=(x[800:], y[800:]),
        metric=r2,
        bf16=False,
        budget=Budget(size="5x", size_counts="weights"),
        **options,
    )


@pytest.mark.parametrize("units", [{}, {"outputs": 0.01}, {"outputs": 1e4}, {"inputs": 1e-5}, {"inputs": 1e4}])
def test_the_unit_of_inputs_and_outputs_does_not_matter(units: dict[str, float]) -> None:
    result = trained(**units)
    untrained = trained(**units, post_training=True)
    assert result.scores.validation is not None
    assert untrained.scores.validation is not None
    assert result.scores.validation > 0.97
    assert result.scores.validation > untrained.scores.validation - 0.005


def test_a_rate_that_ruins_is_backed_off_and_told() -> None:
    result = trained(lr=300.0, cycle_lr=300.0)
    assert result.scores.validation is not None
    assert result.scores.validation > trained(post_training=True).scores.validation - 0.005  # type: ignore[operator]
    assert result.discarded_examples > 0
    assert any("was thrown away" in note for note in result.notes)
    assert result.to_dict()["discarded_examples"] == result.discarded_examples


def test_an_untrained_network_that_is_returned_has_seen_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sigmaquant.search.search_state._LOWEST_RATE", 1.0)  # no second try
    result = trained(lr=300.0, cycle_lr=300.0)
    assert result.trained_examples == 0
    assert result.discarded_examples >= 256
    assert result.scores.validation > 0.97  # type: ignore[operator]


def quantized(model: nn.Module, x: Tensor) -> Any:
    graph = trace(model, (x[:2],))
    found = prepare(graph)
    set_plan_(found, BitwidthPlan(dict.fromkeys(graph.layer, 8), dict.fromkeys(graph.activation_names, 8)))
    calibrate_(found, [x[:256]])
    return found


def test_factors_go_with_the_square_of_the_size_and_are_one_for_usual_weights() -> None:
    usual, x, _ = network()
    assert rate_factors(quantized(usual, x)) == {}
    small, x, _ = network(outputs=1e-3)
    smaller, _, _ = network(outputs=1e-4)
    one, other = rate_factors(quantized(small, x)), rate_factors(quantized(smaller, x))
    assert len(one) == len(other) > 0
    for before, after in zip(one.values(), other.values(), strict=True):
        assert after / before == pytest.approx(0.01, rel=1e-3)
    tiny_inputs, x, _ = network(inputs=1e-5)
    found = quantized(tiny_inputs, x)
    factors = rate_factors(found)
    first = found.body.get_submodule("0")
    assert factors[first.weight] > 1e6
    assert first.bias not in factors


def test_without_factors_it_is_torchs_clipping() -> None:
    one, other = (nn.Parameter(torch.ones(3)) for _ in range(2))
    one.grad, other.grad = torch.tensor([3.0, 4.0, 0.0]), torch.tensor([3.0, 4.0, 0.0])
    norm = clip_and_scale_([one], {}, 1.0)
    assert torch.equal(norm, nn.utils.clip_grad_norm_([other], 1.0))
    assert torch.equal(one.grad, other.grad)
    one.grad = torch.tensor([300.0, 400.0, 0.0])  # in units of the usual size 3, 4, 0
    assert float(clip_and_scale_([one], {one: 1e-4}, 10.0)) == pytest.approx(5)
    assert torch.allclose(one.grad, torch.tensor([0.03, 0.04, 0.0]))
