"""Weights that a network computes in every inference, or keeps as buffers, are layers with the values they have."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm

from sigmaquant.graph import trace


class Standardized(nn.Conv2d):
    """Weight standardisation, as normaliser-free networks have it: by a BatchNorm over the weight, with a gain."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, self.out_channels)[:, None, None, None])

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, weight=self.gain.view(-1), training=True, momentum=0.0)
        return self._conv_forward(x, weight.reshape_as(self.weight), self.bias)


class Equalized(nn.Linear):
    """A learning rate equalized at run time: constants in front of weight and bias."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * 0.3, self.bias * 0.1)


class Adapted(nn.Linear):
    """A low-rank update that is added to the weight."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.down, self.up = nn.Parameter(torch.randn(2, sizes[0])), nn.Parameter(torch.randn(sizes[1], 2))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + 0.5 * (self.up @ self.down), self.bias)


class Blur(nn.Module):
    """Fixed filters: one for all channels, or one each, not saved."""

    def __init__(self, channels: int, each: bool) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0])
        kernel = (line[:, None] * line / 16)[None, None]
        self.register_buffer("kernel", kernel.repeat(channels, 1, 1, 1) if each else kernel, persistent=not each)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.kernel.expand(channels, 1, 3, 3), stride=2, groups=channels)


class Filters(nn.Module):
    """A filter bank on flat inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bank", torch.rand(3, 8).t())

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) @ self.bank


def network(convolution: nn.Module, *, between: nn.Module | None = None, linear: nn.Module | None = None) -> nn.Module:
    pool: list[nn.Module] = [nn.ReLU(), between or nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(convolution, *pool, linear or nn.Linear(8, 4))


def pruned() -> nn.Module:
    layer = nn.Conv2d(3, 8, 3)
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


CASES = {
    "weight standardisation": (lambda: network(Standardized(3, 8, 3)), ("0", "5"), {"0.gain"}),
    "equalized": (lambda: network(nn.Conv2d(3, 8, 3), linear=Equalized(8, 4)), ("0", "5"), set()),
    "low rank": (lambda: network(nn.Conv2d(3, 8, 3), linear=Adapted(8, 4)), ("0", "5"), {"5.up", "5.down"}),
    "spectral norm": (lambda: network(parametrizations.spectral_norm(nn.Conv2d(3, 8, 3))), ("0", "5"), set()),
    "old spectral norm": (lambda: network(spectral_norm(nn.Conv2d(3, 8, 3))), ("0", "5"), set()),
    "orthogonal": (
        lambda: network(nn.Conv2d(3, 8, 3), linear=parametrizations.orthogonal(nn.Linear(8, 4))), ("0", "5"), set()
    ),
    "pruned": (lambda: network(pruned()), ("0", "5"), set()),
    "blur": (lambda: network(nn.Conv2d(3, 8, 3), between=Blur(8, True)), ("0", "2.kernel", "5"), set()),
    "one blur": (lambda: network(nn.Conv2d(3, 8, 3), between=Blur(8, False)), ("0", "2.kernel", "5"), set()),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_gives_the_same_weight_each_time_is_a_layer(case):
    torch.manual_seed(0)
    make, layers, gone = CASES[case]
    model = make().eval()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(3, 3, 12, 12)
    graph = trace(model, x[:2])
    assert tuple(graph.layer) == layers
    torch.testing.assert_close(graph.module.eval()(x), model(x), rtol=1e-6, atol=1e-6)  # memory may lie otherwise
    assert not gone & {name for name, _ in graph.module.named_parameters()}
    assert {p.name.rpartition(".")[2] for p in graph.float_parameters} == {"bias"}
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    again = trace(graph.module, x[:2])  # a graph that is read again
    assert tuple(again.layer) == layers
    graph.module.train()(x).square().mean().backward()
    frozen = {f"{name}.weight" for name in layers if "kernel" in name}
    assert {n for n, p in graph.module.named_parameters() if p.grad is None} == frozen


def test_a_matrix_that_is_a_buffer_is_a_layer():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Filters(), nn.ReLU(), nn.Linear(3, 2)).eval()
    graph = trace(model, torch.zeros(2, 3, 6, 6))
    assert list(graph.layer) == ["0", "1.bank", "3"]
    assert not graph.weight("1.bank").requires_grad


class Shared(nn.Module):
    """A parameter that is a weight as it is and, computed with, two others; a random weight is none."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.randn(4, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.raw) + F.linear(x, self.raw * 2) + F.linear(x, self.raw.tanh()) + F.linear(x, self.raw * 2)
        return self.head(F.linear(x, torch.rand(4, 4) - 0.5 + 0 * self.raw))


def test_a_parameter_that_others_need_stays_and_what_is_random_is_no_weight():
    graph = trace(Shared(), torch.zeros(2, 4))
    assert list(graph.layer) == ["raw", "raw_2", "raw_3", "head"]
    assert torch.equal(graph.weight("raw_2"), graph.weight("raw") * 2)
    assert torch.equal(graph.weight("raw_3"), graph.weight("raw").tanh())
    assert graph.layer["raw_2"].calls == 2


def test_of_several_parametrizations_of_a_module_none_is_taken_away():
    layer = nn.Linear(8, 4)
    for name in ("weight", "bias"):
        nn.utils.parametrize.register_parametrization(layer, name, nn.Tanh())
    model = network(nn.Conv2d(3, 8, 3), linear=layer)
    graph = trace(model, torch.zeros(2, 3, 6, 6))
    assert list(graph.layer) == ["0"]
    reasons = {p.name: p.reason for p in graph.float_parameters}
    assert "computed" in reasons["5.parametrizations.weight.original"]
