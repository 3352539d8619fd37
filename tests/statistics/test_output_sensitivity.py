import copy
import math
from collections import OrderedDict

import pytest
import torch
from statistics_cases import Tied, branches, graph_of, images, resnet20
from torch import nn

from sigmaquant.errors import DataError, ModelError
from sigmaquant.graph import trace
from sigmaquant.numerics import dequantize_weight, mse_weight_scales, quantize_weight
from sigmaquant.statistics import fisher_sensitivities, output_sensitivity
from sigmaquant.tasks import as_task


def naive(graph, bits, batches):
    """The same, by writing each quantized weight into a copy of the network and running all of it."""
    with torch.no_grad():
        module = copy.deepcopy(graph.module).eval()
        reference = [module(x.clone()) for x in batches]
        result = {}
        for spec in graph.layers:
            module = copy.deepcopy(graph.module).eval()
            weight = module.get_submodule(spec.name).weight
            scale = mse_weight_scales(weight, bits, spec.channel_axis)
            codes = quantize_weight(weight, scale, bits, spec.channel_axis)
            weight.copy_(dequantize_weight(codes, scale, spec.channel_axis))
            total, norm = 0.0, 0.0
            for before, x in zip(reference, batches, strict=True):
                after = module(x.clone())
                if before.dim() == 2:
                    p, q = before.double().log_softmax(1), after.double().log_softmax(1)
                    total += max(0.0, float((p.exp() * (p - q)).sum()))
                    norm += len(x)
                else:
                    total += float((after.double() - before.double()).square().sum())
                    norm += float(before.double().square().sum())
            result[spec.name] = total / norm
        return result


def check_equal(graph, batches, bitwidths=(2, 4)):
    table = output_sensitivity(graph, bitwidths, batches)
    assert list(table) == [spec.name for spec in graph.layers]
    for bits in bitwidths:
        expected = naive(graph, bits, batches)
        assert {name: row[bits] for name, row in table.items()} == expected
    return table


@pytest.mark.parametrize("writes", [False, True], ids=["functional", "in place"])
def test_equals_full_forward_passes_exactly(writes):
    graph, x = branches(writes)
    table = check_equal(graph, [x, x[:3] + 1])
    assert min(row[2] for row in table.values()) > 0


def test_a_tied_weight_changes_wherever_it_is_used():
    torch.manual_seed(0)
    graph = graph_of(Tied())
    assert [spec.name for spec in graph.layers] == ["embedding", "middle"]
    check_equal(graph, [torch.randint(0, 7, (5, 4))])


def test_other_outputs_get_the_relative_squared_error():
    torch.manual_seed(0)
    graph = graph_of(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.ConvTranspose2d(3, 2, 3)))
    check_equal(graph, [torch.randn(4, 1, 6, 6), torch.randn(2, 1, 6, 6)])


def test_two_dimensional_values_can_be_declared():
    torch.manual_seed(0)
    graph = graph_of(nn.Sequential(nn.Linear(4, 3, bias=False)))
    x = torch.randn(5, 4)
    weight = graph.weight("0").detach()
    scale = mse_weight_scales(weight, 3)
    change = dequantize_weight(quantize_weight(weight, scale, 3), scale) - weight
    expected = float((x @ change.T).square().sum() / (x @ weight.T).square().sum())
    assert output_sensitivity(graph, (3,), [x], task=as_task(outputs="values"))["0"][3] == pytest.approx(
        expected, rel=1e-5
    )


def test_nothing_is_left_behind():
    graph, x = branches()
    graph.module.train()
    graph.module.get_submodule("norm").eval()
    modes = {name: part.training for name, part in graph.module.named_modules()}
    state = {name: value.clone() for name, value in graph.module.state_dict().items()}
    kept = x.clone()
    output_sensitivity(graph, (2, 8), [(x, torch.zeros(len(x)))])
    assert modes == {name: part.training for name, part in graph.module.named_modules()}
    assert all(torch.equal(value, state[name]) for name, value in graph.module.state_dict().items())
    assert torch.equal(x, kept)
    assert all(parameter.grad is None for parameter in graph.module.parameters())


def test_a_network_that_writes_into_its_input_does_not_write_into_the_batch():
    torch.manual_seed(0)
    graph = graph_of(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)))
    x = torch.randn(5, 4)
    kept = x.clone()
    check_equal(graph, [x])
    assert torch.equal(x, kept)


def test_only_what_lies_downstream_runs_again():
    torch.manual_seed(0)
    graph = graph_of(nn.Sequential(*(nn.Linear(4, 4) for _ in range(5))))
    calls = []
    for index, layer in enumerate(graph.module.children()):
        layer.register_forward_hook(lambda *_, index=index: calls.append(index))
    output_sensitivity(graph, (2, 3), [torch.randn(3, 4)])
    # The reference and the sweep once each (the sweep ends before the last layer); then, per bitwidth, the suffix.
    assert [calls.count(index) for index in range(5)] == [2 + 2 * (index + 1) for index in range(4)] + [1 + 2 * 5]


class Returning(nn.Module):
    """One layer, and something made of what it gives."""

    def __init__(self, form):
        super().__init__()
        self.layer, self.form = nn.Linear(3, 2), form

    def forward(self, x):
        return self.form(self.layer(x))


def test_of_several_outputs_the_scored_one_counts():
    torch.manual_seed(0)
    plain = Returning(lambda y: y)
    x = torch.randn(4, 3)
    expected = output_sensitivity(graph_of(plain), (2, 4), [x])
    for form in (
        lambda y: (y, y.square()),
        lambda y: {"features": y.square(), "logits": y},
        lambda y: OrderedDict(features=y.square(), logits=y),  # not in the graph itself, as a library's own classes
    ):
        several = Returning(form)
        several.load_state_dict(plain.state_dict())
        graph = trace(several, x)
        assert output_sensitivity(graph, (2, 4), [x]) == expected
        both = fisher_sensitivities(graph, (2, 4), [x])
        assert both.curvature == fisher_sensitivities(graph_of(plain), (2, 4), [x]).curvature


def test_errors():
    graph, x = branches()
    with pytest.raises(DataError, match="no calibration batches"):
        output_sensitivity(graph, (4,), [])
    with pytest.raises(DataError, match="batch 2 is empty"):
        output_sensitivity(graph, (4,), [x, x[:0]])
    with pytest.raises(DataError, match="contains NaN"):
        output_sensitivity(graph, (4,), [torch.full_like(x, math.nan)])
    with pytest.raises(DataError, match="has 2 input tensor"):
        output_sensitivity(graph, (4,), [((x, x), None)])
    with pytest.raises(DataError, match="type str"):
        output_sensitivity(graph, (4,), ["images"])
    with pytest.raises(DataError, match="cannot be 'classes'"):
        output_sensitivity(graph, (4,), [x], task=as_task(outputs="classes"))
    with pytest.raises(DataError, match="no floating-point tensor"):
        output_sensitivity(graph_of(Returning(lambda y: y.argmax(1))), (4,), [torch.randn(2, 3)])
    with pytest.raises(DataError, match="Wrap the model"):
        output_sensitivity(graph_of(Returning(lambda y: {"y": y, "twice": 2 * y})), (4,), [torch.randn(2, 3)])
    with torch.no_grad():
        graph.weight("head")[0, 0] = math.nan
    with pytest.raises(ModelError, match="layer 'head'"):
        output_sensitivity(graph, (4,), [x])


def test_resnet20_equals_full_forward_passes(shared_data):
    _, graph = resnet20(shared_data)
    check_equal(graph, [images(shared_data, 4)], (3,))
