"""Where activations are quantized, under which names, and what feeds each layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sigmaquant.graph import trace
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_

IMAGE = torch.zeros(2, 3, 8, 8)


def placed(model, *examples):
    """(name, kind) of each activation, and the graph."""
    graph = trace(model, examples or (IMAGE,))
    return [(spec.name, spec.producer) for spec in graph.activations], graph


def block(features=4):
    return nn.Sequential(nn.Conv2d(3, features, 3, padding=1), nn.BatchNorm2d(features))


class Of(nn.Module):
    """A model whose forward is a function of its modules and the input."""

    def __init__(self, forward, **modules) -> None:
        super().__init__()
        self.compute = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs):
        return self.compute(self, *inputs)


def test_a_chain_has_one_quantizer_after_its_relu():
    found, graph = placed(nn.Sequential(*block(), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1)))
    assert found == [("input", "input"), ("2", "activation"), ("3", "layer")]
    assert graph.float_operators == ()
    assert [spec.inputs for spec in graph.layers] == [("input",), ("2",)]


def test_input_and_output_of_the_model_are_quantized():
    found, graph = placed(nn.Sequential(nn.Conv2d(3, 2, 1)))
    assert found == [("input", "input"), ("0", "layer")]
    assert [spec.shape for spec in graph.activations] == [(3, 8, 8), (2, 8, 8)]


def test_a_residual_addition_merges_with_its_relu_and_its_branches_are_quantized():
    model = Of(lambda m, x: F.relu(m.b(m.a(x)) + x), a=nn.Conv2d(3, 3, 1), b=nn.BatchNorm2d(3))
    found, _ = placed(model)
    assert found == [("input", "input"), ("b", "norm"), ("relu", "activation")]
    found, _ = placed(Of(lambda m, x: m.a(x) + x, a=nn.Conv2d(3, 3, 1)))
    assert found == [("input", "input"), ("a", "layer"), ("add", "add")]


def test_concatenation_and_pooling_average_are_producers():
    model = Of(lambda m, x: m.f(torch.cat([m.a(x), x], 1).mean((2, 3))), a=nn.Conv2d(3, 2, 1), f=nn.Linear(5, 2))
    found, graph = placed(model)
    assert found == [
        ("input", "input"),
        ("a", "layer"),
        ("cat", "concatenation"),
        ("mean", "pool"),
        ("f", "layer"),
    ]
    assert graph.layer["f"].inputs == ("mean",)
    assert graph.layer["a"].inputs == ("input",)


def test_what_only_moves_values_passes_the_grid_on():
    def forward(m, x):
        x = F.max_pool2d(x, 2)
        x = F.pad(x, (1, 1, 1, 1))[:, :, 1:]
        x = F.interpolate(x, scale_factor=2, mode="nearest").transpose(2, 3).reshape(-1, 3, 4, 30)
        first, second = x.split(2, dim=2)
        return m.a(first) + m.b(torch.flip(second, [3])) + m.c(x.amax(3)).mean()

    model = Of(forward, a=nn.Conv2d(3, 2, 1), b=nn.Conv2d(3, 2, 1), c=nn.Conv1d(3, 2, 1))
    found, graph = placed(model)
    assert [name for name, _ in found] == ["input", "a", "b", "add", "c", "add_1"]
    assert all(spec.inputs == ("input",) for spec in graph.layers)
    # one number for the whole batch has no grid of its own
    assert graph.float_operators == ("model: mean", "model: add")


def test_padding_with_other_values_has_no_grid():
    model = Of(lambda m, x: m.a(F.pad(x, (1, 1), value=-1.0)), a=nn.Conv2d(3, 2, 1))
    _, graph = placed(model)
    assert graph.float_operators == ("model: pad", "a: Conv2d")
    assert graph.layer["a"].inputs == ()


def test_a_value_with_two_users_is_quantized_before_its_relu():
    model = Of(lambda m, x: (lambda y: F.relu(y) * y)(m.a(x)), a=nn.Conv2d(3, 3, 1))
    found, _ = placed(model)
    assert found == [("input", "input"), ("a", "layer"), ("relu", "activation"), ("mul", "multiply")]


def test_reading_a_size_is_no_use_of_the_values():
    def forward(m, x):
        y = m.b(m.a(x))
        count = y.size(0)
        return m.relu(y).reshape(count, -1)

    found, _ = placed(Of(forward, a=nn.Conv2d(3, 3, 1), b=nn.BatchNorm2d(3), relu=nn.ReLU()))
    assert found == [("input", "input"), ("relu", "activation")]


def test_clipping_merges_and_curved_activations_get_their_own():
    for clipping in (nn.ReLU6(), nn.Hardtanh(), nn.ReLU()):
        found, _ = placed(nn.Sequential(*block(), clipping))
        assert found == [("input", "input"), ("2", "activation")], clipping
    for curved in (nn.SiLU(), nn.GELU(), nn.Hardswish(), nn.Hardsigmoid(), nn.LeakyReLU(), nn.PReLU()):
        found, _ = placed(nn.Sequential(*block(), curved))
        assert found == [("input", "input"), ("1", "norm"), ("2", "activation")], curved


@pytest.mark.parametrize("last", [nn.Sigmoid(), nn.Softmax(1), nn.LogSoftmax(1)])
def test_what_ends_a_network_in_float_has_no_grid(last):
    found, graph = placed(nn.Sequential(*block(), last))
    assert found == [("input", "input"), ("1", "norm")]
    assert graph.float_operators == ()


def test_in_place_activations_are_placed_like_others():
    def forward(m, x):
        y = F.relu_(m.a(x))
        y += x
        return F.silu(y, inplace=True)

    found, _ = placed(Of(forward, a=nn.Conv2d(3, 3, 1)))
    assert found == [("input", "input"), ("relu", "activation"), ("add", "add"), ("silu", "activation")]


def test_names_are_the_users_and_unique():
    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, x):
            x = self.relu(self.conv(x))
            return self.relu(F.gelu(x + 1) + x)

    found, graph = placed(nn.Sequential(Stage(), Stage()))
    names = [name for name, _ in found]
    assert names == [
        "input",
        *(f"{stage}.{name}" for stage in (0, 1) for name in ("relu", "add", "gelu", "relu_1")),
    ]
    assert len(set(names)) == len(names)
    assert all("@" not in name for name in names)
    modules = {node.name for node in graph.module.graph.nodes}
    assert {spec.node for spec in graph.activations} <= modules


def test_integer_inputs_are_not_quantized_and_float_ones_are():
    model = Of(lambda m, i, x: m.f(m.e(i) + x), e=nn.Embedding(5, 3), f=nn.Linear(3, 2))
    found, graph = placed(model, torch.zeros(2, dtype=torch.long), torch.zeros(2, 3))
    assert found == [("input", "input"), ("e", "layer"), ("add", "add"), ("f", "layer")]
    assert graph.layer["e"].inputs == ()
    assert graph.layer["f"].inputs == ("add",)


def test_unknown_operators_are_listed_and_feed_float():
    model = Of(lambda m, x: m.f(torch.cumsum(m.a(x), 1).mean((2, 3))), a=nn.Conv2d(3, 2, 1), f=nn.Linear(2, 2))
    _, graph = placed(model)
    assert graph.float_operators == ("model: cumsum", "model: mean")
    assert all(place.line.startswith("test_activations.py:") for place in graph.float_places)
    assert graph.layer["f"].inputs == ("mean",)
    model = Of(lambda m, x: m.a(torch.cumsum(x, 1)), a=nn.Conv2d(3, 2, 1))
    assert placed(model)[1].layer["a"].inputs == ()


def test_expressions_of_parameters_and_sizes_are_not_activations():
    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.fc = nn.Parameter(torch.zeros(1, 1, 3)), nn.Linear(3, 2)

        def forward(self, x):
            count = x.shape[0]
            token = (self.token * 2).expand(count, -1, -1) + torch.zeros(count, 1, 3, device=x.device)
            return self.fc(torch.cat([token, x], 1))

    found, graph = placed(Token(), torch.zeros(2, 4, 3))
    assert [name for name, _ in found] == ["input", "cat", "fc"]
    assert graph.float_operators == ()


def test_masked_scores_stay_float():
    """Scores plus a mask of huge negative numbers have no useful grid; the softmax takes them as they are."""

    def forward(m, x):
        scores = m.q(x) @ m.k(x).transpose(1, 2)
        mask = torch.triu(torch.full((4, 4), torch.finfo(torch.float32).min), 1)
        return torch.softmax(scores + mask, -1) @ x

    found, graph = placed(Of(forward, q=nn.Linear(3, 3), k=nn.Linear(3, 3)), torch.zeros(2, 4, 3))
    assert [name for name, _ in found] == ["input", "q", "k", "matmul", "softmax", "matmul_1"]
    assert graph.float_operators == ()  # a mask of constants is part of the softmax

    def live(m, x):
        scores = m.q(x) @ m.k(x).transpose(1, 2)
        return torch.softmax(scores + (x.mean(2) < 0)[:, None] * -1e9, -1) @ x

    found, graph = placed(Of(live, q=nn.Linear(3, 3), k=nn.Linear(3, 3)), torch.zeros(2, 4, 3))
    assert {"model: add", "model: softmax"} <= set(graph.float_operators)
    assert "add" not in [name for name, _ in found]


def test_one_float_call_of_a_shared_layer_makes_its_input_float():
    shared = nn.Linear(3, 3)
    _, graph = placed(Of(lambda m, x: m.f(m.f(x)), f=shared), torch.zeros(2, 3))
    assert graph.layer["f"].inputs == ("input", "f")
    _, graph = placed(Of(lambda m, x: m.f(torch.cumsum(m.f(x), 1)), f=shared), torch.zeros(2, 3))
    assert graph.layer["f"].inputs == ()


def test_shapes_leave_the_batch_out_wherever_it_is():
    def forward(m, x):
        return m.f(F.relu(m.a(x.transpose(0, 1))).transpose(0, 1).reshape(-1, 4))

    model = Of(forward, a=nn.Linear(3, 4), f=nn.Linear(4, 2))
    shapes, prints = [], []
    for batch in (2, 5):
        _, graph = placed(model, torch.zeros(batch, 6, 3))
        shapes.append([spec.shape for spec in graph.activations])
        prints.append(graph.fingerprint)
    assert shapes[0] == shapes[1] == [(6, 3), (6, 4), (6, 2)]
    assert prints[0] == prints[1]


def test_inputs_of_attention():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.attn(x, x, x, need_weights=False)[0])

    found, graph = placed(Attention(), torch.zeros(2, 5, 8))
    product = "attn.matmul"
    parts = ["attn.mul", "attn.softmax", product]
    assert [name for name, _ in found] == ["input", "attn.linear", *parts, "attn.out_proj", "head"]
    assert {name: spec.inputs for name, spec in graph.layer.items()} == {
        "attn.in_proj_weight": ("input",),
        "attn.out_proj": (product,),
        "head": ("attn.out_proj",),
    }


def test_inputs_of_recurrent_matrices():
    """A matrix of a layer reads what lies on a grid: the layer's input, or its own outputs, a step before."""
    lstm = nn.LSTM(4, 5, num_layers=2, batch_first=True)
    model = Of(lambda m, x: m.head(m.lstm(x)[0][:, -1]), lstm=lstm, head=nn.Linear(5, 2))
    found, graph = placed(model, torch.zeros(2, 6, 4))
    assert found == [("input", "input"), ("lstm", "recurrent"), ("lstm_1", "recurrent"), ("head", "layer")]
    assert {name: spec.inputs for name, spec in graph.layer.items()} == {
        "lstm.weight_ih_l0": ("input",),
        "lstm.weight_hh_l0": ("lstm",),
        "lstm.weight_ih_l1": ("lstm",),
        "lstm.weight_hh_l1": ("lstm_1",),
        "head": ("lstm_1",),
    }
    assert graph.float_operators == ()
    cell = Of(lambda m, x: m.cell(x), cell=nn.GRUCell(4, 5))
    found, graph = placed(cell, torch.zeros(2, 4))
    assert found == [("input", "input"), ("cell.gru", "recurrent")]
    assert graph.layer["cell.weight_ih"].inputs == ("input",)
    assert graph.layer["cell.weight_hh"].inputs == ("cell.gru",)
    again = trace(graph.module, torch.zeros(2, 4))  # a graph is a model like any other, with the same layers
    assert list(again.layer) == list(graph.layer)


def test_results_of_operators_with_several_outputs():
    def forward(m, x):
        values, _ = torch.max(m.a(x), dim=3)
        return values, torch.var_mean(x, dim=(2, 3))[0]

    found, graph = placed(Of(forward, a=nn.Conv2d(3, 2, 1)))
    assert [name for name, _ in found] == ["input", "a"]
    assert graph.float_operators == ("model: var_mean",)


def test_what_is_written_in_place_into_another_tensor_stays_float_and_trains():
    def forward(m, x):
        y = m.a(x)
        y[:, :2] += 1
        y[:, 2:].relu_()
        return m.b(torch.relu(y))

    found, graph = placed(Of(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 2)), torch.zeros(2, 3))
    assert found == [("input", "input"), ("a", "layer"), ("relu", "activation"), ("b", "layer")]
    assert [name.removeprefix("model: ") for name in graph.float_operators if "add" in name or "relu" in name] == [
        "add",
        "relu",
    ]
    network = prepare(graph)
    set_plan_(network, BitwidthPlan({"a": 4, "b": 4}, dict.fromkeys(graph.activation_names, 8), graph.fingerprint))
    calibrate_(network, [torch.randn(8, 3)])
    network.train()
    network(torch.randn(8, 3)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
