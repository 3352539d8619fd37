"""Peak activation memory, against buffers counted by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sigmaquant.graph import trace
from sigmaquant.graph.buffers import ActivationBuffer, activation_buffers, peak_activation_bytes


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.second(x) + x)
        return self.head(torch.nn.functional.max_pool2d(x, 4).flatten(1))


@pytest.fixture(scope="module")
def graph():
    return trace(Residual().eval(), (torch.zeros(2, 2, 4, 4),))


def peak(graph, bits=8, container=1, **other):
    widths = {**dict.fromkeys(graph.activation_names, bits), **other}
    return peak_activation_bytes(activation_buffers(graph), widths, container)


def test_chains_are_one_buffer_and_a_residual_stays_alive(graph):
    buffers = activation_buffers(graph)
    sizes = [(buffer.activation, buffer.elements) for buffer in buffers]
    # conv-bn-relu is one buffer; the flattened pooling result is a view of the pool's own buffer
    assert [elements for _, elements in sizes] == [32, 64, 64, 64, 4, 3]
    # conv2 alone; its input, which the addition needs, and the sum: 3 x 64 at once
    assert peak(graph) == 192
    assert peak(graph, 4) == 96
    assert peak(graph, 4, container=8) == 192


def test_the_max_pool_keeps_its_source_s_grid(graph):
    pooled = activation_buffers(graph)[4]
    assert pooled.activation == activation_buffers(graph)[3].activation


def test_slices_that_cut_nothing_are_views():
    class Slices(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x):
            return self.conv(x[:, :, ::2, ::2])

    buffers = activation_buffers(trace(Slices(), (torch.zeros(2, 2, 8, 8),)))
    assert [buffer.elements for buffer in buffers] == [128, 64, 32, 32]


def test_what_stays_float_takes_four_bytes():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x):
            return torch.cumsum(torch.tanh(self.fc(x)), 1)

    graph = trace(Odd(), (torch.zeros(2, 8),))
    assert graph.float_operators
    last = activation_buffers(graph)[-1]
    assert last.activation is None
    assert last.size_bytes({}) == 32


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 20), st.integers(0, 9)), max_size=20))
def test_the_sweep_finds_the_largest_sum_of_any_step(rows):
    buffers = [ActivationBuffer("a", size, 32, born, born + life) for size, born, life in rows]
    sums = [sum(b.elements for b in buffers if b.born <= step <= b.dies) for step in range(31)]
    assert peak_activation_bytes(buffers, {"a": 8}) == max(sums)
