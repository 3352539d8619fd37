"""Normalizations written by hand: which are recognised, and that the graph computes the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sigmaquant.exported.nodes import operator
from sigmaquant.graph import trace

Body = Callable[[nn.Module, Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, body: Body, places: bool) -> None:
        super().__init__()
        self.body = body
        self.layer = nn.Conv2d(8, 8, 1) if places else nn.Linear(8, 8)
        self.w, self.b = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, self.layer(x)).relu()


def mean(x: Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
    return x.mean(dim, keepdim=True)


def channels(net: nn.Module, x: Tensor) -> Tensor:
    centred = x - mean(x, 1)
    return centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6)


def grouped(net: nn.Module, x: Tensor) -> Tensor:
    y = x.reshape(-1, 2, 4, 36)
    return ((y - mean(y, (2, 3))) / torch.sqrt(y.var((2, 3), keepdim=True, unbiased=False) + 1e-5)).view(x.shape)


def with_var_mean(net: nn.Module, x: Tensor) -> Tensor:
    variance, average = torch.var_mean(x, -1, keepdim=True, correction=0)
    return (x - average) * torch.rsqrt(variance + 1e-5)


def over(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return (x - mean(x, dims)) / torch.sqrt(x.var(dims, keepdim=True, unbiased=False) + 1e-5)


IMAGES: dict[str, Body] = {
    "channels": channels,
    "channels, affine": lambda net, x: net.w[:, None, None] * channels(net, x) + net.b[:, None, None],
    "groups": grouped,
    "instances, affine": lambda net, x: over(x, (2, 3)) * net.w.view(1, -1, 1, 1) + net.b.view(1, -1, 1, 1),
}
SEQUENCES: dict[str, Body] = {
    "T5": lambda net, x: net.w * (x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)),
    "unbiased": lambda net, x: (x - mean(x)) / torch.sqrt(x.var(-1, keepdim=True) + 1e-3),
    "biased, affine": lambda net, x: net.w * over(x, (-1,)) + net.b,
    "var_mean": with_var_mean,
    "mean of squares without square of mean": lambda net, x: (x - mean(x)) / (mean(x * x) - mean(x) ** 2 + 1e-5).sqrt(),
    "a sum over a count": lambda net, x: x / torch.sqrt((x * x).sum(-1, keepdim=True) / 8 + 1e-5),
    "a power": lambda net, x: x * (x.square().mean(-1, keepdim=True) + 1e-5) ** -0.5,
    "a reciprocal": lambda net, x: x * (1 / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5)),
}
OTHERS: dict[str, Body] = {
    "eps beside the root": lambda net, x: (x - mean(x)) / (x.std(-1, keepdim=True) + 1e-6),
    "a sum over another count": lambda net, x: x / torch.sqrt((x * x).sum(-1, keepdim=True) / 7 + 1e-5),
    "the variance of another": lambda net, x: (x - mean(x)) / torch.sqrt((2 * x).var(-1, keepdim=True) + 1e-5),
    "other dimensions": lambda net, x: (x - mean(x, 1)) / torch.sqrt(x.var(-1, keepdim=True) + 1e-5),
    "not centred": lambda net, x: x / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5),
}


def traced(body: Body, x: Tensor) -> tuple[list[str], float]:
    """The norms of the graph, and how far it is from the network."""
    torch.manual_seed(0)
    net = Net(body, x.dim() == 4).eval()
    graph = trace(net, x)
    with torch.no_grad():
        wanted, found = net(x), graph.module(x)
    names = [operator(node) for node in graph.module.graph.nodes if "norm" in operator(node)]
    return names if not graph.float_operators else [], float((wanted - found).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("name", IMAGES)
def test_norms_of_images(name: str) -> None:
    norms, apart = traced(IMAGES[name], torch.randn(2, 8, 6, 6))
    assert norms == ["layer_norm"]
    assert apart < 1e-6


@pytest.mark.parametrize("name", SEQUENCES)
def test_norms_of_sequences(name: str) -> None:
    norms, apart = traced(SEQUENCES[name], torch.randn(2, 7, 8))
    assert norms in (["layer_norm"], ["rms_norm"])
    assert apart < 1e-6


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_none(name: str) -> None:
    norms, apart = traced(OTHERS[name], torch.randn(2, 8, 8))
    assert norms == []
    assert apart == 0
