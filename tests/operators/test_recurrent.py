"""Recurrent layers: tables of gate functions, the integers against torch and against the quantized network."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sigmaquant.errors import GraphExportError
from sigmaquant.export.fidelity import FidelityCheck
from sigmaquant.graph import QuantGraph, trace
from sigmaquant.lowering import IntegerExecutor, lower
from sigmaquant.operators import Recurrent
from sigmaquant.operators.recurrent import gate_table, knots, spacing_bits
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import QuantizedNetwork, calibrate_, prepare, set_plan_
from sigmaquant.quant.recurrent import QRecurrent


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_functions_of_all_gates_are_within_their_bound(name):
    """Of each of the 65,536 gates, in units of 2**-15; and neither function ever falls."""
    gates = np.arange(-(2**15), 2**15) / 2.0**12
    exact = (1 / (1 + np.exp(-gates)) if name == "sigmoid" else np.tanh(gates)) * 2.0**15
    found = gate_table(name).numpy().astype(np.float64)
    assert np.abs(found - exact).max() <= 1.6
    assert (np.diff(found) >= 0).all()
    assert len(knots(name)) == (2**15 >> spacing_bits(name)) + 1


class Net(nn.Module):
    """A body over layers that it is given."""

    def __init__(self, body: Any, **layers: nn.Module) -> None:
        super().__init__()
        self.body = body
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: Tensor) -> Any:
        return self.body(self, *inputs)


def steps(m: Any, x: Tensor, h: Tensor, c: Tensor) -> Any:
    """Two cells in the user's loop, one on the other's outputs, with a state that goes in and out."""
    outputs, second = [], torch.zeros(x.shape[0], 6)
    for t in range(x.shape[1]):
        h, c = m.cell(x[:, t], (h, c))
        second = m.second(h, second)
        outputs.append(m.head(second))
    return torch.stack(outputs, 1), h, c


def decoder(m: Any, x: Tensor) -> Any:
    """A cell that reads what it wrote: no sequence is known before."""
    _, h = m.encoder(x)
    state, value, outputs = h[0], x[:, -1], []
    for _ in range(3):
        state = m.cell(value, state)
        value = m.head(state)
        outputs.append(value)
    return torch.stack(outputs, 1)


def learned(m: Any, x: Tensor) -> Any:
    """Initial states that are parameters."""
    h, c = (p[None, None].expand(1, x.shape[0], 6) for p in (m.start.weight[0], m.start.weight[1]))
    return m.rnn(x, (h, c))[0]


X = (5, 4)
NETS: dict[str, tuple[Any, tuple[tuple[int, ...], ...]]] = {
    "lstm": (lambda: Net(lambda m, x: m.head(m.rnn(x)[0]), rnn=nn.LSTM(4, 6, batch_first=True), head=nn.Linear(6, 3)),
             (X,)),
    "lstm_last": (lambda: Net(lambda m, x: m.head(m.rnn(x)[1][0][0]), rnn=nn.LSTM(4, 6, batch_first=True),
                              head=nn.Linear(6, 3)), (X,)),
    "lstm_cell_state": (lambda: Net(lambda m, x: m.head(torch.cat([s[-1] for s in m.rnn(x)[1]], 1)),
                                    rnn=nn.LSTM(4, 6, 2, batch_first=True), head=nn.Linear(12, 3)), (X,)),
    "lstm_sequence_first": (lambda: Net(lambda m, x: m.rnn(x.transpose(0, 1))[0], rnn=nn.LSTM(4, 6, bias=False)), (X,)),
    "lstm_both_ways": (lambda: Net(lambda m, x: m.head(m.rnn(x.transpose(0, 1))[0][-1]),
                                   rnn=nn.LSTM(4, 6, 2, bidirectional=True, dropout=0.3), head=nn.Linear(12, 3)), (X,)),
    "lstm_states": (lambda: Net(lambda m, x, h, c: m.rnn(x, (h[None], c[None]))[1],
                                rnn=nn.LSTM(4, 6, batch_first=True)), (X, (6,), (6,))),
    "lstm_learned_states": (lambda: Net(learned, rnn=nn.LSTM(4, 6, batch_first=True), start=nn.Linear(6, 2)), (X,)),
    "gru": (lambda: Net(lambda m, x: m.head(m.rnn(x)[0]), rnn=nn.GRU(4, 6, batch_first=True), head=nn.Linear(6, 3)),
            (X,)),
    "gru_both_ways": (lambda: Net(lambda m, x: torch.cat(tuple(m.rnn(x)[1]), 1),
                                  rnn=nn.GRU(4, 6, 2, bidirectional=True, batch_first=True)), (X,)),
    "gru_state": (lambda: Net(lambda m, x, h: m.rnn(x, h[None])[0], rnn=nn.GRU(4, 6, bias=False, batch_first=True)),
                  (X, (6,))),
    "scores_sequence_first": (lambda: Net(lambda m, x: m.head(m.rnn(x.transpose(0, 1))[0]).log_softmax(2),
                                          rnn=nn.GRU(4, 6), head=nn.Linear(6, 3)), (X,)),
    "rnn_tanh": (lambda: Net(lambda m, x: m.rnn(x)[0], rnn=nn.RNN(4, 6, 2, batch_first=True)), (X,)),
    "rnn_relu": (lambda: Net(lambda m, x: m.rnn(x)[0], rnn=nn.RNN(4, 6, nonlinearity="relu", batch_first=True)), (X,)),
    "cells": (lambda: Net(steps, cell=nn.LSTMCell(4, 6), second=nn.GRUCell(6, 6), head=nn.Linear(6, 3)),
              (X, (6,), (6,))),
    "one_step": (lambda: Net(lambda m, x: m.cell(x), cell=nn.RNNCell(4, 6)), ((4,),)),
    "decoder": (lambda: Net(decoder, encoder=nn.GRU(4, 6, batch_first=True), cell=nn.GRUCell(4, 6),
                            head=nn.Linear(6, 4)), (X,)),
}  # fmt: skip


def inputs(shapes: tuple[tuple[int, ...], ...], count: int, seed: int = 1) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, *shape, generator=generator) for shape in shapes)


@cache
def net(name: str) -> tuple[QuantGraph, tuple[tuple[int, ...], ...]]:
    torch.manual_seed(0)
    make, shapes = NETS[name]
    return trace(make().eval(), inputs(shapes, 2)), shapes


def quantized(graph: QuantGraph, data: tuple[Tensor, ...], bits: int, activation_bits: int) -> QuantizedNetwork:
    network = prepare(graph)
    plan = (dict.fromkeys(n, b) for n, b in ((graph.layer, bits), (graph.activation_names, activation_bits)))
    set_plan_(network, BitwidthPlan(*plan))
    calibrate_(network, [data])
    return network.eval()


@pytest.mark.parametrize("name", NETS)
def test_integers_compute_what_the_quantized_network_computes(name):
    graph, shapes = net(name)
    assert graph.float_operators == ()
    assert any(spec.kind == "recurrent" for spec in graph.layers)
    for bits, activation_bits in ((8, 8), (3, 5)):
        network = quantized(graph, inputs(shapes, 32), bits, activation_bits)
        model = lower(network)
        assert model.float_operators == ()
        data = inputs(shapes, 7, 2)
        check = FidelityCheck(network, model)
        assert check.run([data]) is None
        assert check.largest_beyond < 0.3
        assert check.mean_beyond < 1e-3
        found = IntegerExecutor(model)(*data)
        pairs = zip(*(torch.utils._pytree.tree_leaves(r) for r in (found, network(*data))), strict=True)
        for (mine, theirs), edge in zip(pairs, (model.edges[name] for name in model.outputs), strict=True):
            assert mine.shape == theirs.shape
            assert float(((mine - theirs).abs() > 2.01 * edge.scale).double().mean()) < 0.01


@pytest.mark.parametrize("name", ["lstm_both_ways", "gru_both_ways", "rnn_tanh", "rnn_relu", "cells"])
def test_eight_bits_are_close_to_the_float_network(name):
    graph, shapes = net(name)
    network = quantized(graph, inputs(shapes, 64), 8, 8)
    data = inputs(shapes, 64, 3)
    with torch.no_grad():
        real, found = (torch.utils._pytree.tree_leaves(m(*data))[0] for m in (graph.module, network))
    assert float((real - found).square().mean() / real.square().mean()) < 1e-3


def test_a_wrong_layer_is_found_although_each_step_is_given_the_networks_hidden_states():
    graph, shapes = net("lstm_states")
    network, data = quantized(graph, inputs(shapes, 16), 8, 8), inputs(shapes, 9, 5)
    model = lower(network)
    (sequence, cell) = (op for op in model.operators if isinstance(op, Recurrent))
    for operator in (sequence, cell):
        for change in ("hidden_matrix", "input_matrix"):
            matrix = getattr(operator, change)
            wrong = replace(operator, **{change: replace(matrix, codes=-matrix.codes)})
            broken = replace(model, operators=tuple(wrong if op is operator else op for op in model.operators))
            parting = FidelityCheck(network, broken).run([data])
            assert parting is not None
            assert parting.operator == f"Recurrent {operator.name!r}"


def test_the_reference_is_the_same_with_integer_kernels():
    for name in ("lstm_both_ways", "gru_state"):
        graph, shapes = net(name)
        model = lower(quantized(graph, inputs(shapes, 16), 4, 8))
        data = inputs(shapes, 5, 4)
        pairs = (IntegerExecutor(model, exact)(*data) for exact in ("float", "integer"))
        first, second = (torch.utils._pytree.tree_leaves(result) for result in pairs)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_steps_of_a_loop_are_one_layer_and_a_decoder_is_not():
    graph, shapes = net("cells")
    model = lower(quantized(graph, inputs(shapes, 8), 8, 8))
    found = [op for op in model.operators if isinstance(op, Recurrent)]
    assert [(op.kind, op.result) for op in found] == [("lstm", "sequence"), ("lstm", "cell"), ("gru", "sequence")]
    assert {op.given for op in found} == {("hidden", "cell"), ()}
    graph, shapes = net("decoder")
    model = lower(quantized(graph, inputs(shapes, 8), 8, 8))
    found = [op for op in model.operators if isinstance(op, Recurrent)]
    assert [len(op.inputs) for op in found] == [1, 2, 2, 2]


def test_a_state_of_many_units_has_a_coarser_unit():
    """A cell that counts far beyond eight is kept whole, not clipped."""
    model = nn.LSTM(1, 2, batch_first=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.bias_ih_l0[:6] = 6.0  # input, forget and cell gates are open: about one is added at each step
    data = (torch.ones(4, 18, 1),)
    graph = trace(Net(lambda m, x: m.rnn(x)[1], rnn=model), (data[0][:2],))
    network = quantized(graph, data, 8, 8)
    layers = [module for module in network.body.modules() if isinstance(module, QRecurrent)]
    assert {layer.state_bits for layer in layers} == {5}
    again = prepare(graph)
    set_plan_(again, network.plan)
    again.load_state_(network.state())
    assert {m.state_bits for m in again.body.modules() if isinstance(m, QRecurrent)} == {5}
    _, cell = IntegerExecutor(lower(network))(*data)
    with torch.no_grad():
        assert float((cell - graph.module(*data)[1]).abs().max()) < 0.02 * float(cell.abs().max())


def test_packed_sequences_are_refused_with_what_to_do():
    def packed(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
        sequence = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(m.rnn(sequence)[0], batch_first=True)[0]

    model = Net(packed, rnn=nn.GRU(4, 6, batch_first=True))
    with pytest.raises(GraphExportError, match=r"Packed sequences .* Give the recurrent layer the padded sequences"):
        trace(model, (torch.zeros(2, 5, 4), torch.tensor([5, 3])))


def test_projections_are_listed_by_name():
    model = Net(lambda m, x: m.rnn(x)[0], rnn=nn.LSTM(4, 6, proj_size=3, batch_first=True))
    (place,) = trace(model.eval(), inputs((X,), 2)).float_places
    assert str(place) == "rnn: lstm"
    assert "self.body(self, *inputs)" in place.line


def test_a_cell_alone_is_listed_and_computed_in_float():
    """Hidden states have the grid of the outputs; where nothing reads these, there is none."""
    model = Net(lambda m, x: m.rnn(x)[1][1][0], rnn=nn.LSTM(4, 6, batch_first=True))
    graph = trace(model.eval(), inputs((X,), 2))
    assert graph.float_operators == ("rnn: lstm",)
    network, data = quantized(graph, inputs((X,), 16), 8, 8), inputs((X,), 5)
    model = lower(network)
    assert "rnn: lstm" in model.float_operators
    with torch.no_grad():
        assert torch.allclose(IntegerExecutor(model)(*data), network(*data), atol=1e-5)


def test_training_moves_every_recurrent_matrix_and_scale():
    graph, shapes = net("lstm_cell_state")
    network = quantized(graph, inputs(shapes, 16), 4, 8).train()
    data = inputs(shapes, 16)
    result = network(*data)
    result.square().sum().backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):  # its 8 bits would leave nothing of a gate
        half = network(*data)
    assert torch.allclose(half.float(), result, atol=0.02)
    trained = [(n, p) for n, p in network.body.named_parameters() if n.startswith("rnn.")]
    assert len(trained) == 2 * (2 + 2 + 2)  # matrices, their scales, biases
    for name, parameter in trained:
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.any()), name
