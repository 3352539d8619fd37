"""Rewrites of integer models: the same codes, without what a form lacks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sigmaquant.export.rewriting import without_transposed
from sigmaquant.graph import trace
from sigmaquant.lowering import IntegerExecutor, lower
from sigmaquant.operators import Convolution
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_

KINDS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FORMS: list[tuple[int, tuple[int, ...], dict[str, Any]]] = [
    (1, (7,), {"kernel_size": 3}),
    (1, (5,), {"kernel_size": 4, "stride": 2, "padding": 1}),
    (1, (6,), {"kernel_size": 1, "stride": 3, "output_padding": 1}),
    (1, (8,), {"kernel_size": 2, "padding": 2}),
    (1, (1,), {"kernel_size": 3, "stride": 2}),
    (2, (3, 5), {"kernel_size": 4, "stride": 2, "padding": 1}),
    (2, (5, 4), {"kernel_size": (3, 2), "stride": (1, 3), "padding": (0, 1), "output_padding": (0, 2)}),
    (2, (4, 4), {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
    (2, (4, 3), {"kernel_size": 3, "stride": 2, "padding": 3, "dilation": 2, "output_padding": 1, "groups": 4}),
    (2, (4, 4), {"kernel_size": 2, "stride": 4, "padding": 2, "groups": 2}),
    (3, (2, 3, 3), {"kernel_size": 3, "stride": (2, 1, 2), "padding": 1, "output_padding": (1, 0, 0), "groups": 2}),
]


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize(("rank", "space", "form"), FORMS, ids=str)
def test_transposed_convolutions_become_ordinary_ones_of_the_same_codes(
    rank: int, space: tuple[int, ...], form: dict[str, Any], bits: int
) -> None:
    torch.manual_seed(rank + bits)
    network = nn.Sequential(KINDS[rank - 1](4, 8, **form), nn.ReLU())
    x = torch.randn(6, 4, *space)
    graph = trace(network, (x[:2],))
    prepared = prepare(graph)
    weights = {layer.name: bits for layer in graph.layers}
    set_plan_(prepared, BitwidthPlan(weights, dict.fromkeys(graph.activation_names, 8), graph.fingerprint, 4))
    calibrate_(prepared, [x])
    model = lower(prepared)
    assert any(isinstance(op, Convolution) and op.transposed for op in model.operators)

    found = without_transposed(model)

    assert not any(isinstance(op, Convolution) and op.transposed for op in found.operators)
    codes = IntegerExecutor(model).quantize_inputs(x)
    shapes: dict[str, tuple[int, ...]] = {}
    (ours,) = IntegerExecutor(found, "integer").run_codes(
        *codes, watch=lambda edge, value: shapes.update({edge.name: tuple(value.shape[1:])})
    )
    (theirs,) = IntegerExecutor(model, "integer").run_codes(*codes)
    assert torch.equal(ours, theirs)
    assert len(theirs.unique()) > 3
    assert shapes == {name: edge.shape for name, edge in found.edges.items()}  # edges say what they carry
    assert len({op.name for op in found.operators}) == len(found.operators)


def test_other_networks_stay_the_same_object() -> None:
    network = nn.Sequential(nn.Linear(4, 3))
    graph = trace(network, (torch.zeros(2, 4),))
    prepared = prepare(graph)
    set_plan_(prepared, BitwidthPlan({"0": 8}, dict.fromkeys(graph.activation_names, 8), graph.fingerprint))
    calibrate_(prepared, [torch.randn(8, 4)])
    model = lower(prepared)
    assert without_transposed(model) is model
