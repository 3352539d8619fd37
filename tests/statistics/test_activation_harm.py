"""The estimated harm of activations' grids against what one grid after the other really does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sigmaquant.graph import QuantGraph, trace
from sigmaquant.quant import prepare
from sigmaquant.quant.observers import MseObserver
from sigmaquant.statistics import activation_sensitivities
from sigmaquant.tasks import as_task


def network() -> QuantGraph:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(4 * 36, 5),
    )  # fmt: skip
    return trace(model.eval(), torch.zeros(2, 3, 6, 6))


def measured(graph: QuantGraph, x: Tensor, name: str, bits: int, logits: bool) -> float:
    twin = prepare(graph).eval()
    quantizer, observer = twin.activation_quantizers[name], MseObserver()
    with torch.no_grad():
        quantizer.observer = observer
        reference = twin(x)
        quantizer.observer = None
        quantizer.set_grid_(*observer.affine(bits), bits)
        found = twin(x)
    if not logits:
        return float((found - reference).square().sum() / reference.square().sum())
    p, q = reference.log_softmax(1), found.log_softmax(1)
    return float((p.exp() * (p - q)).sum(1).mean())


def test_it_is_what_one_grid_alone_does() -> None:
    graph, x = network(), torch.randn(128, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    for logits in (True, False):
        kind = "logits" if logits else "values"
        table = activation_sensitivities(graph, (4, 6), [x], draws=16, task=as_task(outputs=kind))
        assert set(table) == set(graph.activation_names)
        for name, row in table.items():
            for bits, estimated in row.items():
                true = measured(graph, x, name, bits, logits)
                assert 0.6 * true < estimated < 1.6 * true, (kind, name, bits)


def test_the_network_is_left_as_it_is() -> None:
    graph, x = network(), torch.randn(16, 3, 6, 6)
    before = {name: value.clone() for name, value in graph.module.state_dict().items()}
    first = activation_sensitivities(graph, (8,), [x], seed=3)
    assert all(torch.equal(value, before[name]) for name, value in graph.module.state_dict().items())
    assert all(parameter.grad is None for parameter in graph.module.parameters())
    assert activation_sensitivities(graph, (8,), [x], seed=3) == first
