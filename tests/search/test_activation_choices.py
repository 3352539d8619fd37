"""Which widths activations may have, and a search that uses them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sigmaquant
from sigmaquant.errors import SigmaQuantError, UnknownLayerError
from sigmaquant.graph import trace
from sigmaquant.search.choices import activation_choices
from sigmaquant.search.settings import Settings


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(288, 4),
    ).eval()  # fmt: skip


def test_ends_keep_their_bits() -> None:
    graph = trace(model(), torch.zeros(2, 3, 6, 6))
    choices = activation_choices(graph, Settings(activation_bitwidths=(8, 4, 5), activation_pin={"1": 6}))
    assert choices == {"input": (8,), "1": (6,), "3": (4, 5, 8), "5": (8,)}
    assert set(activation_choices(graph, Settings(activation_bits=5)).values()) == {(5,)}
    with pytest.raises(UnknownLayerError, match="activation pin"):
        activation_choices(graph, Settings(activation_pin={"relu": 6}))
    with pytest.raises(SigmaQuantError, match="bitwidth 9"):
        Settings(activation_bitwidths=(4, 9))


def test_limits_that_depend_on_activations_lower_them() -> None:
    x, y = torch.randn(96, 3, 6, 6), torch.arange(96) % 4
    options = {"strategy": "ilp", "post_training": True, "activation_bitwidths": (4, 6, 8), "bitwidths": (4, 8)}
    data = {"validation_data": (x, y)}
    loose = sigmaquant.quantize(model(), (x, y), budget="2x", **data, **options)  # type: ignore[arg-type]
    assert set(loose.plan.activations.values()) == {8}
    memory = loose.cost.ram_bytes
    assert memory is not None
    budget = sigmaquant.Budget(ram=int(0.8 * memory))
    tight = sigmaquant.quantize(model(), (x, y), budget=budget, **data, **options)  # type: ignore[arg-type]
    assert tight.met
    assert tight.plan.activations["input"] == tight.plan.activations["5"] == 8
    assert min(tight.plan.activations.values()) < 8
    with pytest.raises(SigmaQuantError, match="activation memory"):
        sigmaquant.quantize(model(), (x, y), budget=sigmaquant.Budget(ram=100), **data, **options)  # type: ignore[arg-type]


def test_what_single_activations_cost_is_told() -> None:
    x, y = torch.randn(64, 3, 6, 6), torch.arange(64) % 4
    options = {"strategy": "uniform", "post_training": True, "activation_bits": 2}
    data = {"validation_data": (x, y)}
    result = sigmaquant.quantize(model(), (x, y), budget="4x", **data, **options)  # type: ignore[arg-type]
    harm = result.activation_harm
    assert set(harm) == set(result.plan.activations)
    assert list(harm.values()) == sorted(harm.values(), reverse=True)
    (note,) = [note for note in result.notes if "quantized activations alone" in note]
    assert f"most of all {next(iter(harm))} (2 bits)" in note
    assert result.to_dict()["activation_harm"] == harm
