"""Each kind of layer in a small model of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sigmaquant.graph import trace


class Model(nn.Module):
    """A model from named parts and a function."""

    def __init__(self, forward: Callable[..., object], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = forward

    def forward(self, x: Tensor) -> object:
        return self.function(self, x)


class TwoInputs(Model):
    def forward(self, x: Tensor, y: Tensor) -> object:
        return self.function(self, x, y)


def targets(graph) -> list[str]:
    return [str(node.target) for node in graph.module.graph.nodes]


def reasons(graph) -> dict[str, str]:
    return {parameter.name: parameter.reason for parameter in graph.float_parameters}


def test_convolutions(check, train_one_step):
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3, groups=8, padding="same"),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 16, 3, groups=2, stride=2, dilation=1),
        nn.ConvTranspose2d(16, 4, 3, stride=2, groups=2, output_padding=1),
        nn.BatchNorm2d(4),
        nn.Dropout(0.5),
        nn.Flatten(2),
        nn.Conv1d(4, 6, 3, bias=False),
        nn.BatchNorm1d(6),
        nn.Unflatten(2, (2, 31, 1)),
        nn.Conv3d(6, 2, (1, 3, 1)),
        nn.GroupNorm(1, 2),
    )
    example = torch.zeros(2, 8, 8, 8)
    graph = check(model, example)
    depthwise, grouped, transposed, one, three = graph.layers
    assert (depthwise.kind, depthwise.groups, depthwise.macs) == ("conv2d", 8, 8 * 64 * 9)
    assert (grouped.groups, grouped.macs, grouped.output_shape) == (2, 16 * 9 * 4 * 9, (16, 3, 3))
    assert (transposed.kind, transposed.channel_axis, transposed.channels) == ("conv_transpose2d", 1, 2)
    assert transposed.macs == 16 * 9 * (4 // 2) * 9
    assert transposed.batch_norm == "4"
    assert (one.kind, one.has_bias, one.batch_norm, one.macs) == ("conv1d", False, "8", 6 * 62 * 4 * 3)
    assert (three.kind, three.macs) == ("conv3d", 2 * 2 * 29 * 6 * 3)
    assert "aten.relu.default" in targets(graph)  # was in place
    train_one_step(graph, example)


@pytest.mark.parametrize(("kind", "shape"), [(nn.ConvTranspose1d, (3, 7)), (nn.ConvTranspose3d, (3, 2, 3, 4))])
def test_transposed_convolutions(check, kind, shape):
    graph = check(nn.Sequential(kind(3, 4, 2, stride=2)), torch.zeros(1, *shape))
    positions = torch.Size(shape[1:]).numel()
    dims = len(shape) - 1
    assert graph.layers[0].kind == f"conv_transpose{dims}d"
    assert graph.layers[0].macs == 3 * positions * 4 * 2**dims


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_with_copies(check, train_one_step, mode):
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=(1, 2), stride=2, groups=2, padding_mode=mode),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 4, 3, padding=0, padding_mode=mode),
        nn.Flatten(2),
        nn.Conv1d(4, 6, 4, padding="same", padding_mode=mode),
    )
    example = torch.zeros(2, 4, 8, 8)
    graph = check(model, example)
    assert [(spec.name, spec.kind, spec.groups) for spec in graph.layers] == [
        ("0", "conv2d", 2), ("2", "conv2d", 1), ("4", "conv1d", 1)
    ]  # fmt: skip
    first, _, last = graph.layers
    assert (first.macs, first.input_shape, first.output_shape) == (8 * 20 * 18, (4, 8, 8), (8, 4, 5))
    assert (first.batch_norm, first.has_bias, last.macs) == ("1", True, 6 * 6 * 16)
    assert not any("pad" in target for target in targets(graph))
    train_one_step(graph, example)


def test_padding_of_volumes_with_copies(check):
    graph = check(nn.Conv3d(2, 3, 3, padding=1, padding_mode="replicate"), torch.zeros(2, 2, 3, 3, 3))
    assert graph.layers[0].kind == "parameter"  # the model itself, which is no module of it
    graph = check(nn.Sequential(nn.Conv3d(2, 3, 3, padding=1, padding_mode="replicate")), torch.zeros(2, 2, 3, 3, 3))
    assert (graph.layers[0].kind, graph.layers[0].macs) == ("conv3d", 3 * 27 * 2 * 27)


def test_padding_by_hand_is_that_of_a_module_only_where_it_is_the_same(check):
    def forward(m, x):
        same = F.pad(x, (1, 1, 1, 1), "reflect")
        wider = F.pad(x, (2, 2, 2, 2), "reflect")
        other = F.pad(x, (1, 1, 1, 1), "circular")
        padded = (same, wider, other, x)
        return [F.conv2d(y, m.layers[i].weight, m.layers[i].bias) for i, y in enumerate(padded)], same.sum()

    layers = nn.ModuleList(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect") for _ in range(4))
    graph = check(Model(forward, layers=layers), torch.zeros(2, 3, 6, 6))
    assert [spec.kind for spec in graph.layers] == ["conv2d", "parameter", "parameter", "parameter"]
    assert targets(graph).count("aten.pad.default") == 3  # the first one's values are read elsewhere, too


def test_modules_with_hooks_stay_operators(check):
    conv = nn.Conv2d(3, 4, 3)
    conv.register_forward_hook(lambda module, inputs, output: output * 2)
    graph = check(nn.Sequential(conv, nn.ReLU()), torch.zeros(2, 3, 6, 6))
    assert graph.layers[0].kind == "parameter"


def test_subclass_with_own_forward_is_the_layer_that_it_computes_with(check):
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class Renamed(nn.Linear):
        pass

    graph = check(nn.Sequential(Doubled(4, 4), Renamed(4, 4)), torch.zeros(2, 4))
    assert [(spec.name, spec.kind) for spec in graph.layers] == [("0", "linear"), ("1", "linear")]


def test_root_module(check):
    graph = check(nn.Linear(4, 3), torch.zeros(2, 4))
    assert graph.layers[0].name == graph.layers[0].parameter == "weight"


def test_linear_before_batch_norm_of_positions(check):
    # BatchNorm1d normalises axis 1; after a linear layer on [N, positions, features] those are positions
    graph = check(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(3)), torch.zeros(2, 3, 4))
    assert graph.layers[0].batch_norm is None
    graph = check(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), torch.zeros(2, 4))
    assert graph.layers[0].batch_norm == "1"


def test_batch_norm_with_two_layers_or_two_users(check):
    def shared_norm(m, x):
        return m.norm(m.a(x)) + m.norm(m.b(x))

    parts = {"a": nn.Conv2d(3, 3, 1), "b": nn.Conv2d(3, 3, 1), "norm": nn.BatchNorm2d(3)}
    assert [s.batch_norm for s in check(Model(shared_norm, **parts), torch.zeros(2, 3, 4, 4)).layers] == [None, None]

    def two_users(m, x):
        y = m.a(x)
        return m.norm(y) + y

    graph = check(Model(two_users, a=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3)), torch.zeros(2, 3, 4, 4))
    assert graph.layers[0].batch_norm is None


def test_attention(check, train_one_step):
    def forward(m, x, y):
        z = m.own(x, x, x, need_weights=False)[0]
        return m.cross(z, y, y)[0] + m.packed(z, y[..., :8], y[..., :8])[0]

    model = TwoInputs(
        forward,
        own=nn.MultiheadAttention(8, 2, batch_first=True),
        cross=nn.MultiheadAttention(8, 2, batch_first=True, kdim=10, vdim=10),
        packed=nn.MultiheadAttention(8, 2, batch_first=True, bias=False),
    )
    examples = (torch.zeros(2, 5, 8), torch.zeros(2, 7, 10))
    graph = check(model, *examples)
    spec = graph.layer["own.in_proj_weight"]
    assert (spec.kind, spec.weight_shape, spec.channel_axis, spec.has_bias) == ("parameter", (24, 8), 0, True)
    assert (spec.macs, spec.calls) == (5 * 24 * 8, 1)
    packed = graph.layer["packed.in_proj_weight"]  # split in one piece for the query and two for key and value
    assert (packed.macs, packed.calls, packed.has_bias) == (5 * 64 + 2 * 7 * 64, 1, False)
    assert {"own.out_proj", "cross.q_proj_weight", "cross.k_proj_weight", "cross.v_proj_weight"} <= set(graph.layer)
    assert graph.weightless_macs == 2 * 5 * 5 * 8 + 2 * 2 * 5 * 7 * 8
    assert graph.input_shapes == ((5, 8), (7, 10))
    train_one_step(graph, *examples)


def test_encoder_layer_without_gradients(check):
    # frozen parameters would select torch's fused encoder operator, which hides every layer
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).requires_grad_(False)
    graph = check(model, torch.zeros(2, 5, 8))
    assert list(graph.layer) == ["self_attn.in_proj_weight", "self_attn.out_proj", "linear1", "linear2"]
    assert reasons(graph)["norm1.weight"] == "LayerNorm"


def test_recurrent(check, train_one_step):
    def forward(m, x):
        y, _ = m.lstm(x)
        y, _ = m.gru(y)
        state = None
        for step in range(3):
            state = m.cell(y[:, step], state)
        return state[0]

    model = Model(
        forward,
        lstm=nn.LSTM(8, 4, num_layers=2, bidirectional=True, batch_first=True, dropout=0.5),
        gru=nn.GRU(8, 5, batch_first=True),
        cell=nn.LSTMCell(5, 2),
    )
    example = torch.zeros(2, 3, 8)
    graph = check(model, example)
    assert {spec.kind for spec in graph.layers} == {"recurrent"}
    assert len(graph.layers) == 8 + 2 + 2
    first = graph.layer["lstm.weight_ih_l0"]
    assert (first.macs, first.weight_shape, first.input_shape) == (3 * 16 * 8, (16, 8), (3, 8))
    assert (first.output_shape, first.has_bias, first.calls) == ((3, 4), True, 1)  # of one direction
    cell = graph.layer["cell.weight_hh"]
    assert (cell.macs, cell.calls) == (3 * 8 * 2, 1)  # three steps are one layer over a sequence
    assert set(reasons(graph).values()) == {"bias"}
    train_one_step(graph, example)


def test_tied_weights_and_repeated_calls(check, train_one_step):
    def forward(m, x):
        hidden = m.embed(x) + m.position
        hidden = m.mix(m.mix(hidden))
        return {"tokens": m.out(hidden), "more": [F.linear(hidden, m.embed.weight)]}

    model = Model(
        forward,
        unused=nn.Linear(2, 2),
        mix=nn.Linear(8, 8),
        embed=nn.Embedding(11, 8),
        out=nn.Linear(8, 11),
        position=nn.Parameter(torch.zeros(1, 4, 8)),
    )
    model.out.weight = model.embed.weight
    example = torch.full((2, 4), 10)
    graph = check(model, example)
    embed, mix = graph.layers
    assert (embed.name, embed.kind, embed.tied) == ("embed", "embedding", ("out", "embed_weight"))
    assert (embed.calls, embed.macs, embed.has_bias) == (3, 2 * 4 * 8 * 11, False)
    assert (mix.calls, mix.macs) == (2, 2 * 4 * 64)
    assert mix.batch_norm is None
    assert reasons(graph)["unused.weight"] == "not used by the forward pass"
    assert reasons(graph)["position"].startswith("added")
    train_one_step(graph, example)


def test_parameters_as_weights(check):
    def forward(m, x):
        x = F.conv2d(x.unsqueeze(1), m.kernel)[:, :, 0]
        x = x @ m.right
        x = torch.einsum("bcf,fd->bcd", x, m.einsum).transpose(1, 2)
        x = F.pad(x, (0, 2))[:, :3]
        x = torch.bmm(x.transpose(0, 1), m.experts).transpose(0, 1)
        x = F.linear(x, m.transposed.t())
        return (m.query @ x.transpose(1, 2)).sum(1) * m.scale + (x @ m.vector)

    model = Model(
        forward,
        kernel=nn.Parameter(torch.randn(4, 1, 3, 3)),
        right=nn.Parameter(torch.randn(8, 6)),
        einsum=nn.Parameter(torch.randn(6, 4)),
        experts=nn.Parameter(torch.randn(3, 6, 5)),
        transposed=nn.Parameter(torch.randn(5, 7)),
        query=nn.Parameter(torch.randn(2, 7)),
        scale=nn.Parameter(torch.randn(3)),
        vector=nn.Parameter(torch.randn(7)),
    )
    graph = check(model, torch.zeros(2, 5, 10))
    axes = {spec.name: spec.channel_axis for spec in graph.layers}
    assert axes == {"kernel": 0, "right": 1, "einsum": 1, "experts": 2, "transposed": 1, "query": 0}
    macs = {spec.name: spec.macs for spec in graph.layers}
    assert macs == {
        "kernel": 4 * 3 * 8 * 9, "right": 4 * 6 * 8, "einsum": 4 * 4 * 6, "experts": 3 * 5 * 6,
        "transposed": 3 * 7 * 5, "query": 2 * 3 * 7,
    }  # fmt: skip
    assert graph.weightless_macs == 3 * 7  # the vector
    assert "element by element" in reasons(graph)["scale"]
    assert "no axis" in reasons(graph)["vector"]


def test_in_place_operators(check):
    def forward(m, x):
        kept = m.a(x)
        view = kept[:, :2]
        out = m.b(x)
        out += kept
        out.relu_()
        kept.mul_(2)  # must stay in place: `view` sees it
        return out.view(-1, 4), view

    graph = check(Model(forward, a=nn.Linear(3, 4), b=nn.Linear(3, 4)), torch.zeros(2, 3))
    found = targets(graph)
    assert "aten.add.Tensor" in found
    assert "aten.relu.default" in found
    assert "aten.mul_.Tensor" in found


def test_input_is_not_changed_by_an_in_place_model():
    graph = trace(Model(lambda m, x: m.a(x.add_(1)), a=nn.Linear(3, 4)), torch.zeros(2, 3))
    x = torch.zeros(2, 3)
    graph.module(x)
    assert torch.equal(x, torch.zeros(2, 3))


def test_created_tensors_follow_the_input_device(check):
    def forward(m, x):
        y = m.a(x)
        start = torch.zeros(y.shape[0], 1, device=y.device)
        return torch.cat([start, y], 1) + torch.arange(5)

    graph = check(Model(forward, a=nn.Linear(3, 4)), torch.zeros(2, 3))
    moved = copy.deepcopy(graph.module).to("meta")  # a second device that every machine has
    assert moved(torch.zeros(3, 3, device="meta")).device.type == "meta"


def test_buffers_are_shared_and_keep_their_persistence(check):
    model = Model(lambda m, x: m.a(x) * m.saved + m.unsaved, a=nn.Linear(3, 4))
    model.register_buffer("saved", torch.ones(4))
    model.register_buffer("unsaved", torch.ones(4), persistent=False)
    graph = check(model, torch.zeros(2, 3))
    assert graph.module.saved is model.saved
    assert set(graph.module.state_dict()) == set(model.state_dict())


def test_sequence_first(check):
    # the batch is dimension 0 of the input, and dimension 1 where the model puts it there
    model = Model(lambda m, x: m.rnn(x.transpose(0, 1))[0], rnn=nn.RNN(3, 4))
    graph = check(model, torch.zeros(2, 7, 3))
    spec = graph.layer["rnn.weight_ih_l0"]
    assert (spec.input_shape, spec.output_shape, spec.macs) == ((7, 3), (7, 4), 7 * 12)


def test_input_without_batch():
    model = TwoInputs(lambda m, x, table: m.a(x) @ table, a=nn.Linear(3, 4))
    graph = trace(model, (torch.zeros(2, 3), torch.zeros(4, 6)))
    assert graph.input_shapes == ((3,), (4, 6))
    assert graph.weightless_macs == 24
    assert graph.module(torch.zeros(5, 3), torch.zeros(4, 6)).shape == (5, 6)


def test_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Sequential(nn.Linear(4, 4)))
    model[2].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    graph = trace(model, torch.zeros(1, 3))
    assert [m.training for m in model.modules()] == [True, True, True, False, False]
    assert graph.module.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()


def test_attributes_stored_by_forward_do_not_leak():
    def forward(m, x):
        m.last = m.a(x)
        return m.last

    model = Model(forward, a=nn.Linear(3, 4))
    trace(model, torch.zeros(2, 3))
    assert not hasattr(model, "last")


def test_layers_without_gradients_are_layers_and_stay_untrained(check):
    def forward(m, x):
        with torch.no_grad():
            frozen = torch.relu(m.norm(m.a(x)))
            with torch.enable_grad():
                trained = m.b(x)
            doubled = frozen * 2
        return m.c(frozen + trained + doubled)

    parts = {"a": nn.Linear(3, 4), "norm": nn.BatchNorm1d(4), "b": nn.Linear(3, 4), "c": nn.Linear(4, 2)}
    model = Model(forward, **parts)
    graph = check(model, torch.zeros(2, 3))
    assert {spec.name: (spec.macs, spec.batch_norm) for spec in graph.layers} == {
        "a": (12, "norm"),
        "b": (12, None),
        "c": (8, None),
    }
    assert graph.float_operators == ()
    graph.module.train()
    graph.module(torch.randn(4, 3)).sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {"b.weight", "b.bias", "c.weight", "c.bias"}


def test_products_in_regions_of_another_precision_are_counted():
    def forward(m, x):
        with torch.autocast("cpu", torch.bfloat16):
            inside = m.a(x)
        return m.b(inside.float())

    def nested(m, x):
        with torch.no_grad():
            return forward(m, x)

    for function in (forward, nested):
        graph = trace(Model(function, a=nn.Linear(3, 4), b=nn.Linear(4, 2)), torch.zeros(2, 3))
        assert (graph.weightless_macs, graph.float_macs, [spec.name for spec in graph.layers]) == (0, 12, ["b"])
        assert "wrap_with_autocast" in graph.float_operators[0]
        x = torch.randn(3, 3)
        copy.deepcopy(graph.module)(x)


def test_of_two_branches_the_larger_one_counts():
    def forward(m, x):
        return m.b(torch.cond(x.sum() > 0, lambda x: x @ m.a.weight @ m.c.weight, lambda x: x @ m.a.weight, (x,)))

    model = Model(forward, a=nn.Linear(4, 4), c=nn.Linear(4, 4), b=nn.Linear(4, 2))
    assert trace(model, torch.zeros(2, 4)).float_macs == 32
