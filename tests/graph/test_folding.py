"""What no input's value enters is computed once, and nothing else is."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sigmaquant.graph import QuantGraph, trace


def operators(graph: QuantGraph) -> list[str]:
    return [str(node.target) for node in graph.module.graph.nodes if node.op == "call_function"]


class Anchors(nn.Module):
    """A detector's head: positions in the map, their stride read out of a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, stride=2, padding=1)
        self.stride = torch.tensor([8.0])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        h, w = y.shape[2:]
        rows = torch.arange(h, device=y.device, dtype=y.dtype) + 0.5
        columns = torch.arange(w, device=y.device).type_as(y) + 0.5
        grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))
        strides = y.new_full((1, 1), self.stride[0].item())
        return (y + grid) * strides, torch.zeros_like(grid) + self.stride


def test_positions_are_constants():
    model = Anchors()
    graph = trace(model, torch.zeros(2, 3, 8, 6))
    for batch in (1, 3):
        x = torch.randn(batch, 3, 8, 6)
        for module in (graph.module, copy.deepcopy(graph.module)):
            for expected, found in zip(model(x), module(x), strict=True):
                assert torch.equal(expected, found)
    assert sorted(set(operators(graph))) == ["aten.add.Tensor", "aten.mul.Tensor"]
    assert list(graph.module.state_dict()) == list(model.state_dict()), "constants are not saved"
    assert graph.float_operators == ()


def test_constants_follow_the_model():
    graph = trace(Anchors(), torch.zeros(2, 3, 8, 6))
    moved = copy.deepcopy(graph.module).to(torch.float64)
    assert moved(torch.zeros(1, 3, 8, 6, dtype=torch.float64))[0].dtype == torch.float64


class Own(nn.Module):
    """Parameters and buffers may change, random numbers must, and what is written into is no constant."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.offset = nn.Parameter(torch.ones(4))
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 1.0]))
        self.register_buffer("count", torch.zeros(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(4, device=x.device)
        total[1] = 3.0
        noise = torch.rand(4, device=x.device) * 0
        return self.linear(x) * (1 - self.mask) + self.offset * 2 + total + noise + (self.count + 1)


def test_what_may_change_stays():
    model = Own()
    graph, x = trace(model, torch.zeros(2, 4)), torch.randn(3, 4)
    assert torch.equal(graph.module(x), model(x))
    with torch.no_grad():
        model.mask.fill_(0.5)
        model.offset.fill_(7.0)
        model.count.fill_(2.0)
    assert torch.equal(graph.module(x), model(x))
    assert any("rand" in name for name in operators(graph))


class Mask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(10, 4), nn.Linear(4, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        steps = tokens.shape[1]
        causal = torch.triu(torch.full((steps, steps), float("-inf"), device=x.device), diagonal=1)
        scores = x @ x.transpose(1, 2) + causal
        rows = torch.zeros(tokens.shape[0], 1, 1, device=x.device)  # as many as the batch has
        return self.out(torch.softmax(scores, dim=-1) @ x) + rows


def test_a_mask_is_a_constant_and_the_batch_is_none():
    model = Mask()
    graph = trace(model, torch.zeros(2, 5, dtype=torch.int64))
    tokens = torch.randint(0, 10, (4, 5))
    assert torch.equal(graph.module(tokens), model(tokens))
    assert not {"aten.triu.default", "aten.full.default", "aten.zeros.default"} & set(operators(graph))
    assert "aten.expand.default" in operators(graph)  # one example's zeros
