"""From a graph to a network at a plan."""

from __future__ import annotations

import pytest
import torch
from quant_cases import Residual, Tied, graph_of, images, plan_of, quantized
from torch import nn

from sigmaquant.errors import CoverageError, DataError, PlanError, UnknownLayerError
from sigmaquant.quant import calibrate_, prepare, set_plan_
from sigmaquant.quant.coverage import coverage
from sigmaquant.quant.observers import MinMaxObserver


def test_prepare_leaves_the_graph_alone():
    graph = graph_of(Residual(), images())
    code, state = graph.module.code, {k: v.clone() for k, v in graph.module.state_dict().items()}
    network = prepare(graph)
    assert torch.equal(network.eval()(images()), graph.module.eval()(images()))
    set_plan_(network, plan_of(graph, 2))
    calibrate_(network, [images()])
    network.train()(images()).sum().backward()
    assert graph.module.code == code
    assert all(torch.equal(graph.module.state_dict()[key], value) for key, value in state.items())
    assert not any("quantizer" in name for name, _ in graph.module.named_modules())
    assert all(p.grad is None for p in graph.module.parameters())


def test_quantization_changes_outputs_less_with_more_bits(fresh):
    x = images(32, seed=1)
    exact = fresh.graph.module.eval()(x)
    distances = []
    for bits in (2, 3, 4, 6, 8):
        set_plan_(fresh, plan_of(fresh.graph, bits))
        distances.append((fresh(x) - exact).norm().item())
    assert distances[0] > distances[2] > distances[4] > 0
    assert distances[4] < 0.1 * exact.norm().item()


def test_set_plan_touches_only_layers_whose_bits_change(fresh):
    with torch.no_grad():
        for quantizer in fresh.weight_quantizers.values():
            quantizer.scale.mul_(1.01)  # as if trained
    before = {key: value.clone() for key, value in fresh.state().items()}
    set_plan_(fresh, fresh.plan.with_weights({"conv2": 2}))
    changed = {key for key, value in fresh.state().items() if not torch.equal(value, before[key])}
    assert changed == {"conv2.weight_quantizer.scale"}
    assert {name: q.bits for name, q in fresh.weight_quantizers.items()} == {"conv1": 4, "conv2": 2, "fc": 4}


def test_plans_of_other_models_are_refused(fresh):
    plan = fresh.plan
    with pytest.raises(UnknownLayerError, match="conv1"):
        set_plan_(fresh, type(plan)({"conv11": 4, **plan.weights}, plan.activations))
    with pytest.raises(PlanError, match="no bitwidth"):
        set_plan_(fresh, type(plan)({"conv1": 4}, plan.activations))
    with pytest.raises(PlanError, match="another model"):
        set_plan_(fresh, type(plan)(plan.weights, plan.activations, "0123456789abcdef"))
    assert fresh.plan is plan


def test_coverage_errors_name_layer_and_bitwidths(fresh):
    fresh.check_coverage(fresh.plan)
    with pytest.raises(CoverageError, match=r"layer 'fc' is planned at 2 bits but is at 4"):
        fresh.check_coverage(fresh.plan.with_weights({"fc": 2}))
    with pytest.raises(CoverageError, match=r"activation 'relu' is planned at 4 bits but is at 8 bits"):
        fresh.check_coverage(fresh.plan.with_activations({"relu": 4}))
    blank = prepare(fresh.graph)
    with pytest.raises(CoverageError, match=r"layer 'conv1' is planned at 4 bits but is at float"):
        blank.check_coverage(fresh.plan)
    set_plan_(blank, fresh.plan)
    with pytest.raises(CoverageError, match=r"activation 'input' .* float \(not calibrated\)"):
        blank.check_coverage(fresh.plan)


def test_calibration_sees_unquantized_activations_and_sets_every_grid(fresh):
    plan = fresh.plan.with_activations(dict.fromkeys(fresh.plan.activations, 3))
    set_plan_(fresh, plan)
    fresh.train()
    statistics = fresh.body.bn1.running_mean.clone()
    calibrate_(fresh, [images(8, seed=4), (images(8, seed=5),)], MinMaxObserver)
    fresh.check_coverage(plan)
    assert fresh.training
    assert torch.equal(fresh.body.bn1.running_mean, statistics)
    assert all(q.observer is None for q in fresh.activation_quantizers.values())
    x = torch.cat([images(8, seed=4), images(8, seed=5)])
    step = float(x.max() - x.min()) / 7
    assert float(fresh.activation_quantizers["input"].scale.detach()) == pytest.approx(step)


def test_calibration_names_the_activation_that_is_not_finite(fresh):
    before = {key: value.clone() for key, value in fresh.state().items()}
    with torch.no_grad():
        fresh.body.bn2.weight[0] = float("inf")
        before["bn2.weight"][0] = float("inf")
    with pytest.raises(DataError, match=r"activation 'bn2': .*NaN or infinite"):
        calibrate_(fresh, [images()])
    assert all(torch.equal(value, before[key]) for key, value in fresh.state().items())
    assert all(q.observer is None for q in fresh.activation_quantizers.values())
    with pytest.raises(DataError, match="at least one batch"):
        calibrate_(fresh, [])


def test_scales_and_weights_are_all_parameters_once():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.gate = nn.Module()
            self.gate.scale = nn.Parameter(-torch.ones(4))

        def forward(self, x):
            return self.fc(x) * self.gate.scale

    network = quantized(Scaled(), torch.randn(3, 4))
    assert {id(p) for p in network.scales()} | {id(p) for p in network.weights()} == {
        id(p) for p in network.parameters()
    }
    assert len(network.scales()) == 1 + 2  # fc's weight; input, and fc with the factor after it
    assert any(p is network.body.gate.scale for p in network.weights())  # the user's own scale may be negative


def test_activation_names_may_be_attributes_of_containers_or_collide():
    class Awkward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.values, self.keys = nn.Linear(4, 4), nn.Linear(4, 4)
            self.a = nn.ModuleDict({"b": nn.Linear(4, 4)})
            self.a__b = nn.Linear(4, 4)

        def forward(self, x):
            return self.values(x) * self.keys(x) + self.a__b(self.a["b"](x))

    network = quantized(Awkward(), torch.randn(3, 4))
    quantizers = network.activation_quantizers
    assert {"values", "keys", "a.b", "a__b"} <= set(quantizers)
    assert len({id(q) for q in quantizers.values()}) == len(quantizers)
    network.check_coverage(network.plan)


def test_one_activation_feeds_several_consumers_through_one_quantizer():
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right = (nn.Conv2d(2, 2, 1) for _ in range(3))

        def forward(self, x):
            x = self.stem(x)
            return self.left(x) + self.right(x) + x

    network = quantized(Fork(), images())
    assert [spec.name for spec in network.graph.activations] == ["input", "stem", "left", "right", "add", "add_1"]
    calls = [node for node in network.body.graph.nodes if str(node.target) == "activation_quantizers.stem"]
    assert len(calls) == 1
    assert len(calls[0].users) == 3
    seen = []
    network.activation_quantizers["stem"].register_forward_hook(lambda *a: seen.append(a[2]))
    network(images())
    codes = seen[0] / network.activation_quantizers["stem"].scale.detach()
    assert torch.allclose(codes, codes.round(), atol=1e-3)


def test_in_place_operators_after_a_reshape_can_be_trained():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(50, 3))
    network = quantized(model, images()).train()
    network(images()).square().sum().backward()
    assert bool(network.weight("0").grad.any())


def test_coverage_lists_every_parameter_once(network):
    rows = coverage(network.graph, network.plan)
    assert sorted(row.parameter for row in rows) == sorted(name for name, _ in Residual().named_parameters())
    assert {row.parameter: row.bits for row in rows if row.bits} == {
        "conv1.weight": 4,
        "conv2.weight": 4,
        "fc.weight": 4,
    }
    assert all(row.reason for row in rows if row.bits is None)


def test_tied_weights_are_one_layer():
    network = quantized(Tied(), torch.randint(0, 7, (4, 3)))
    assert list(network.weight_quantizers) == ["embedding", "middle"]
    assert len(network.scales()) == 2 + len(network.activation_quantizers)
