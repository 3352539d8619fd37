"""Lowering, operator by operator: the integers give what the fake-quantized network gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lowering_cases import noise, quantized
from torch import nn

from sigmaquant.errors import CoverageError, LoweringError
from sigmaquant.export.fidelity import FidelityCheck
from sigmaquant.graph import trace
from sigmaquant.lowering import IntegerExecutor, lower
from sigmaquant.operators import Affine, Convolution, Lookup, Move, Pad, Slice, Take
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_


class Call(nn.Module):
    """Layers and a function of them, such that each case fits on a line."""

    def __init__(self, function, **layers):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def conv(i=4, o=4, k=3, **options):
    return nn.Conv2d(i, o, k, **options)


torch.manual_seed(0)  # the weights below, whatever else was imported before
CASES = {
    "convolution": (Call(lambda m, x: m.a(x), a=conv(padding=1)), (4, 6, 6)),
    "convolution-bn-relu": (
        Call(lambda m, x: F.relu(m.n(m.a(x))), a=conv(o=6, stride=2), n=nn.BatchNorm2d(6)),
        (4, 7, 7),
    ),
    "convolution-relu6": (Call(lambda m, x: F.relu6(m.a(x)), a=conv()), (4, 6, 6)),
    "grouped": (Call(lambda m, x: m.a(x), a=conv(o=6, groups=2, dilation=2)), (4, 8, 8)),
    "depthwise": (Call(lambda m, x: m.n(m.a(x)), a=conv(o=8, groups=4, bias=False), n=nn.BatchNorm2d(8)), (4, 6, 6)),
    "same padding": (Call(lambda m, x: m.a(x), a=conv(k=4, padding="same")), (4, 6, 6)),
    "reflected": (Call(lambda m, x: m.a(x), a=conv(padding=(1, 2), padding_mode="reflect")), (4, 6, 6)),
    "replicated": (
        Call(lambda m, x: m.n(m.a(x)), a=conv(k=4, padding="same", padding_mode="replicate"), n=nn.BatchNorm2d(4)),
        (4, 6, 6),
    ),
    "wound": (Call(lambda m, x: m.a(x), a=nn.Conv1d(3, 5, 3, padding=1, padding_mode="circular")), (3, 9)),
    "reflected by hand": (Call(lambda m, x: m.a(F.pad(x, (1, 1, 1, 1), "reflect")), a=conv()), (4, 6, 6)),
    "convolution 1d": (Call(lambda m, x: m.n(m.a(x)), a=nn.Conv1d(3, 5, 3), n=nn.BatchNorm1d(5)), (3, 9)),
    "convolution 3d": (Call(lambda m, x: m.a(x), a=nn.Conv3d(2, 3, 2)), (2, 4, 4, 4)),
    "transposed": (
        Call(
            lambda m, x: m.n(m.a(x)),
            a=nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
            n=nn.BatchNorm2d(6),
        ),
        (4, 5, 5),
    ),
    "linear": (Call(lambda m, x: m.a(x), a=nn.Linear(12, 7)), (12,)),
    "linear of sequences": (Call(lambda m, x: F.relu(m.a(x)), a=nn.Linear(12, 7, bias=False)), (5, 12)),
    "residual": (Call(lambda m, x: F.relu(m.a(x) + x), a=conv(padding=1)), (4, 6, 6)),
    "difference": (Call(lambda m, x: m.a(x) - x, a=conv(padding=1)), (4, 6, 6)),
    "numbers": (Call(lambda m, x: m.b(2 * m.a(x) - 0.5), a=conv(), b=conv()), (4, 8, 8)),
    "reversed difference": (Call(lambda m, x: 1 - m.a(x), a=conv()), (4, 6, 6)),
    "gate": (Call(lambda m, x: x * torch.sigmoid(m.a(x.mean((2, 3), keepdim=True))), a=conv(k=1)), (4, 6, 6)),
    "concatenation": (Call(lambda m, x: m.b(torch.cat([x, m.a(x)], 1)), a=conv(padding=1), b=conv(8, 3)), (4, 6, 6)),
    "concatenation-relu": (Call(lambda m, x: F.relu(torch.cat([m.b(x), m.a(x)], 2)), a=conv(), b=conv()), (4, 6, 6)),
    "norm before": (
        Call(lambda m, x: m.b(F.relu(m.n(m.a(x)))), a=nn.MaxPool2d(2), n=nn.BatchNorm2d(4), b=conv()),
        (4, 8, 8),
    ),
    "max pool": (Call(lambda m, x: F.max_pool2d(m.a(x), 3, 2, 1), a=conv()), (4, 8, 8)),
    "average pool": (Call(lambda m, x: F.avg_pool2d(m.a(x), 2, padding=1), a=conv()), (4, 8, 8)),
    "global pool": (
        Call(lambda m, x: m.b(F.adaptive_avg_pool2d(m.a(x), 1).flatten(1)), a=conv(), b=nn.Linear(4, 3)),
        (4, 8, 8),
    ),
    "adaptive pool": (Call(lambda m, x: F.adaptive_avg_pool2d(m.a(x), (3, 2)), a=conv()), (4, 8, 8)),
    "hardswish": (Call(lambda m, x: F.hardswish(m.a(x)), a=conv()), (4, 6, 6)),
    "silu": (Call(lambda m, x: m.b(F.silu(m.n(m.a(x)))), a=conv(), n=nn.BatchNorm2d(4), b=conv()), (4, 8, 8)),
    "leaky": (Call(lambda m, x: F.leaky_relu(m.a(x), 0.1), a=conv()), (4, 6, 6)),
    "slices and pads": (Call(lambda m, x: F.pad(m.a(x)[:, 1:3, ::2, 1:], (0, 1, 2, 0)), a=conv()), (4, 8, 8)),
    "transposition": (
        Call(lambda m, x: m.b(m.a(x).flatten(2).transpose(1, 2)), a=conv(), b=nn.Linear(4, 5)),
        (4, 6, 6),
    ),
    "shared weight": (Call(lambda m, x: m.a(F.relu(m.a(x))), a=conv(padding=1)), (4, 6, 6)),
    "bias added by hand": (
        Call(lambda m, x: m.a(x) + m.b.bias.view(1, -1, 1, 1), a=conv(bias=False), b=conv()),
        (4, 6, 6),
    ),
}


@pytest.mark.parametrize(("bits", "activation_bits"), [(8, 8), (2, 8), (3, 4)])
@pytest.mark.parametrize("case", CASES)
def test_operators(case, bits, activation_bits):
    network, shape = (
        quantized(CASES[case][0], *CASES[case][1], bits=bits, activation_bits=activation_bits),
        CASES[case][1],
    )
    model = lower(network)
    assert not model.float_operators
    x = noise(64, *shape, seed=2)
    found = IntegerExecutor(model)(x)
    expected = network(x).detach()
    steps = ((found - expected) / model.edges[model.outputs[0]].scale).abs()
    # what rounding takes to one side here and to the other there: rare, and one step for each layer it goes through
    assert float(steps.max()) <= 2.01, steps.max()
    assert float((steps > 0.5).float().mean()) < 0.08
    assert torch.equal(IntegerExecutor(model, "integer")(x), found)


def test_every_edge_is_in_its_range_and_written_once():
    network = quantized(CASES["concatenation"][0], 4, 6, 6, activation_bits=3)
    model = lower(network)
    seen = []

    def watch(edge, codes):
        seen.append(edge.name)
        assert codes.dtype == torch.int8
        assert tuple(codes.shape[1:]) == edge.shape
        assert -4 <= int(codes.min()) <= int(codes.max()) <= 3

    executor = IntegerExecutor(model)
    executor.run_codes(*executor.quantize_inputs(noise(3, 4, 6, 6)), watch=watch)
    assert sorted(seen) == sorted(model.edges)


def test_batch_norm_changes_signs_not_magnitudes():
    network = quantized(CASES["convolution-bn-relu"][0], 4, 7, 7, bits=3)
    (layer,) = lower(network).weighted
    gamma = network.body.get_submodule("n").weight
    assert bool((gamma < 0).any())
    assert bool((gamma > 0).any())
    signs = gamma.sign().view(-1, 1, 1, 1).to(torch.int8)
    assert torch.equal(torch.from_numpy(layer.codes), network.codes("a") * signs)
    assert (layer.scale > 0).all()


@pytest.mark.parametrize("midrise_up_to", [0, 2])
def test_a_vanished_channel_gives_its_constant(midrise_up_to):
    network = quantized(
        Call(lambda m, x: m.n(m.a(x)), a=conv(), n=nn.BatchNorm2d(4)), 4, 6, 6, bits=2, midrise_up_to=midrise_up_to
    )
    with torch.no_grad():
        network.body.get_submodule("n").weight[1] = 0
    x = noise(4, 4, 6, 6)
    found, expected = IntegerExecutor(lower(network))(x)[:, 1], network(x)[:, 1].detach()
    assert expected.min() == expected.max()
    step = lower(network).edges[lower(network).outputs[0]].scale
    assert float((found - expected).abs().max()) <= 1.01 * step


def test_the_gain_uses_the_room_up_to_64():
    for bits, midrise_up_to, gain in ((8, 2, 1), (4, 2, 8), (3, 2, 16), (2, 0, 64), (2, 2, 16)):
        network = quantized(CASES["convolution"][0], 4, 6, 6, bits=bits, midrise_up_to=midrise_up_to)
        (layer,) = lower(network).weighted
        assert layer.gain == gain
        assert gain == 1 or np.abs(layer.codes.astype(int) * gain).max() <= 64
        assert lower(network, fine_bias=False).weighted[0].gain == 1


def test_kinds_of_operators():
    assert isinstance(lower(quantized(CASES["norm before"][0], 4, 8, 8)).operators[1], Affine)
    lookups = [op for op in lower(quantized(CASES["gate"][0], 4, 6, 6)).operators if isinstance(op, Lookup)]
    assert [op.function for op in lookups] == ["sigmoid"]
    model = lower(quantized(CASES["shared weight"][0], 4, 6, 6))
    layers = model.weighted
    assert [layer.layer for layer in layers] == ["a", "a"]
    assert layers[0].name != layers[1].name
    moves = [op for op in lower(quantized(CASES["slices and pads"][0], 4, 8, 8)).operators if isinstance(op, Move)]
    assert [type(move) for move in moves] == [Slice, Slice, Slice, Pad]
    assert (moves[-1].before, moves[-1].after) == ((0, 2, 0), (0, 0, 1))
    for case in ("reflected", "replicated", "wound"):
        *moves, layer = lower(quantized(CASES[case][0], *CASES[case][1])).operators
        assert {type(move) for move in moves} == {Take}
        assert (moves[0].name, layer.name) == ("a.take", "a")
    (first, *_) = lower(quantized(CASES["reflected by hand"][0], 4, 6, 6)).operators
    assert (first.axis, first.indices[:2]) == (1, (1, 0))
    same = lower(quantized(CASES["same padding"][0], 4, 6, 6)).weighted[0]
    assert isinstance(same, Convolution)
    assert same.padding == ((1, 2), (1, 2))


def test_what_stays_float_is_listed_and_computed():
    model = Call(
        lambda m, x: m.b(torch.sort(m.a(x), 1)[0] + torch.cumsum(torch.tanh(m.a(x)), 1)),
        a=nn.Linear(6, 6),
        b=nn.Linear(6, 3),
    )
    network = quantized(model, 6)
    lowered = lower(network)
    assert any("sort" in name for name in lowered.float_operators)
    assert any("cumsum" in name for name in lowered.float_operators)
    x = noise(8, 6, seed=3)
    step = lowered.edges[lowered.outputs[0]].scale
    assert float((IntegerExecutor(lowered)(x) - network(x).detach()).abs().max()) <= 2.01 * step


def test_a_network_without_a_plan_or_not_at_it_is_refused():
    network = prepare(trace(CASES["convolution"][0].eval(), (noise(2, 4, 6, 6),)))
    with pytest.raises(LoweringError, match="no plan yet"):
        lower(network)
    graph = network.graph
    set_plan_(network, BitwidthPlan(dict.fromkeys(graph.layer, 4), dict.fromkeys(graph.activation_names, 8)))
    with pytest.raises(CoverageError, match="not calibrated"):
        lower(network)


def test_sums_that_no_accumulator_holds_are_refused():
    model = nn.Sequential(nn.Linear(300_000, 1))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    network = quantized(model, 300_000)
    with torch.no_grad():
        next(iter(network.weight_quantizers.values())).scale.fill_(1 / 127)
    with pytest.raises(LoweringError, match="more than an int32 accumulator holds"):
        lower(network)


@pytest.mark.parametrize("name", ["akamaster_resnet20_cifar10", "mlperf_resnet8_cifar10"])
def test_trained_networks_agree_on_images(shared_loader, name):
    network, _ = shared_loader.network(name)
    quantizable = prepare(trace(network.eval(), (noise(2, 3, 32, 32),)))
    graph = quantizable.graph
    widths = [8, 5, 4, 6, 7, 3, 2]
    plan = BitwidthPlan(
        {spec.name: widths[i % 7] for i, spec in enumerate(graph.layers)},
        dict.fromkeys(graph.activation_names, 8),
        "",
        2,
    )
    set_plan_(quantizable, plan)
    images = noise(64, 3, 32, 32, seed=5)
    calibrate_(quantizable, [images[:32]])
    model = lower(quantizable)
    assert not model.float_operators
    assert {op.bits for op in model.weighted} == set(widths)
    x = images[32:48]
    found, expected = IntegerExecutor(model)(x), quantizable.eval()(x).detach()
    steps = ((found - expected) / model.edges[model.outputs[0]].scale).abs()
    assert float(steps.mean()) < 3
    assert float((found - expected).std() / expected.std()) < 0.1


@pytest.mark.parametrize("first", [True, False])
def test_a_stock_encoder_layer_is_integers_alone(first):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=first, activation="gelu")

    def forward(m, x):
        return m.a(x) if first else m.a(x.transpose(0, 1)).transpose(0, 1)

    network = quantized(Call(forward, a=layer), 5, 8)
    model = lower(network)
    assert not model.float_operators
    assert FidelityCheck(network, model).run([(noise(16, 5, 8, seed=2),)]) is None
    assert sum(isinstance(operator, Move) for operator in model.operators) < 30


def test_moves_that_follow_each_other_are_one():
    body = Call(
        lambda m, x: m.a(x).flatten(2).permute(0, 2, 1).permute(0, 2, 1).reshape(-1, 6, 24).view(-1, 144), a=conv()
    )
    network = quantized(body, 4, 8, 8)
    model = lower(network)
    assert [type(operator).__name__ for operator in model.operators][1:] == ["Reshape", "Permute", "Reshape"]
    x = noise(8, 4, 8, 8, seed=2)
    assert torch.equal(IntegerExecutor(model)(x), network(x).detach())
