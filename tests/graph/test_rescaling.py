"""Channels are rescaled exactly, wherever a graph allows it, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sigmaquant.graph import trace
from sigmaquant.graph.rescaling import find_rescaling


class Wired(nn.Module):
    """Modules in attributes, put together by a function."""

    def __init__(self, wire: Callable[[Wired, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.wire = wire

    def forward(self, x: Tensor) -> Tensor:
        return self.wire(self, x)


def conv(ins: int, outs: int, kernel: int = 1, **options: object) -> nn.Conv2d:
    return nn.Conv2d(ins, outs, kernel, padding=kernel // 2, **options)  # type: ignore[arg-type]


def residual() -> nn.Module:
    """A linear bottleneck between a stem and a head: both of the stream's producers share their factors."""
    parts = {
        "stem": nn.Sequential(conv(3, 6), nn.BatchNorm2d(6)),
        "block": nn.Sequential(
            conv(6, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8, 3, groups=8), conv(8, 6, bias=False), nn.BatchNorm2d(6)
        ),
        "head": conv(6, 4),
    }
    return Wired(lambda m, x: m.head((y := m.stem(x)) + m.block(y)), **parts)


def shuffled() -> nn.Module:
    def wire(m: Wired, x: Tensor) -> Tensor:
        a, b = m.stem(x).chunk(2, 1)
        return m.head(nn.functional.channel_shuffle(torch.cat([m.left(a).relu(), b], 1), 2))

    return Wired(wire, stem=nn.Sequential(conv(3, 8), nn.BatchNorm2d(8)), left=conv(4, 4), head=conv(8, 4))


def gated() -> nn.Module:
    def wire(m: Wired, x: Tensor) -> Tensor:
        y = m.stem(x).relu()
        return m.head(y * m.gate(y.mean((2, 3), keepdim=True)).sigmoid())

    return Wired(wire, stem=conv(3, 8), gate=conv(8, 8), head=conv(8, 4))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.out = nn.LayerNorm(8), nn.Linear(8, 8)
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        n, t, w = x.shape
        y = self.norm(x)
        q, k, v = (m(y).reshape(n, t, 2, w // 2).transpose(1, 2) for m in (self.q, self.k, self.v))
        shares = (q @ k.transpose(-1, -2) * 0.5).softmax(-1)
        return x + self.out((shares @ v).transpose(1, 2).reshape(n, t, w))


class Shared(nn.Module):
    """Functional layers: two read one half of a parameter, so that its factors stay; a third one is free."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(16, 8)), nn.Parameter(torch.randn(16))
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        (one, two), (a, b) = self.weight.chunk(2), self.bias.chunk(2)
        y = nn.functional.linear(nn.functional.linear(x, one, a), one, a)
        return self.last(nn.functional.linear(y, two, b).relu())


PICTURE, SEQUENCE = (3, 8, 8), (5, 8)
CASES: dict[str, tuple[nn.Module, tuple[int, ...], set[str]]] = {
    "relu": (nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 4)), PICTURE, {"2"}),
    "leaky": (nn.Sequential(conv(3, 6), nn.LeakyReLU(0.1), conv(6, 4)), PICTURE, {"0", "1"}),
    "prelu": (nn.Sequential(conv(3, 6), nn.PReLU(6), conv(6, 4)), PICTURE, {"0", "1"}),
    "linear": (nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4)), SEQUENCE, {"0"}),
    "depthwise": (nn.Sequential(conv(3, 6), conv(6, 12, 3, groups=6), nn.ReLU(), conv(12, 4)), PICTURE, {"0", "2"}),
    "grouped": (nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4, groups=2), conv(4, 2)), PICTURE, {"1", "2"}),
    "transposed": (
        nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2), nn.ReLU(), conv(4, 2)),
        PICTURE, {"0", "2"},
    ),
    "pools": (
        nn.Sequential(
            conv(3, 6), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.ZeroPad2d(1), nn.Flatten(), nn.Linear(96, 3)
        ),
        PICTURE, {"1", "3"},
    ),
    "residual": (residual(), PICTURE, {"stem.1", "block.2", "block.3", "block.5", "add"}),
    "shuffled": (shuffled(), PICTURE, {"stem.1", "relu", "cat"}),
    "gated": (gated(), PICTURE, {"relu", "mean", "mul"}),
    "attention": (Attention(), SEQUENCE, {"norm", "v", "matmul"}),
    "transformer": (
        nn.TransformerEncoderLayer(8, 2, 16, norm_first=True, batch_first=True, dropout=0.0), SEQUENCE,
        {"norm1", "self_attn.linear", "self_attn.matmul", "norm2", "relu"},
    ),
    "functions": (Shared(), SEQUENCE, {"relu"}),
    "embedding": (nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 4)), (), {"0"}),
}  # fmt: skip


def example(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(4, *shape) if shape else torch.randint(0, 10, (4, 7))


@pytest.mark.parametrize("name", CASES)
def test_any_factors_leave_the_outputs(name: str) -> None:
    torch.manual_seed(0)
    model, shape, rescaled = CASES[name]
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, -2, 2)
            nn.init.normal_(norm.bias)
            norm.running_var.uniform_(0.5, 2)
            norm.running_mean.normal_()
    graph = trace(model.eval(), example(shape))
    rescaling = find_rescaling(graph)
    assert set(rescaling.activations) == rescaled
    x = example(shape)
    with torch.no_grad():
        before = graph.module(x)
        inner = {name: channels.classes.unique().tolist() for name, channels in rescaling.activations.items()}
        factors = torch.exp(1.5 * torch.randn(rescaling.classes))
        factors[0] = 1
        rescaling.apply_(graph.module, factors)
        after = graph.module(x)
    assert all(len(classes) > 1 for classes in inner.values())
    assert torch.allclose(before, after, rtol=1e-3, atol=1e-4 * float(before.abs().max()))


def tied() -> nn.Module:
    layer = conv(6, 6)
    return Wired(lambda m, x: m.head(m.layer(m.layer(m.stem(x)))), stem=conv(3, 6), layer=layer, head=conv(6, 4))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(conv(3, 6), nn.ReLU6(), conv(6, 4)),
        nn.Sequential(conv(3, 6), nn.Hardswish(), conv(6, 4)),
        nn.Sequential(conv(3, 6), nn.GELU(), conv(6, 4)),
        nn.Sequential(conv(3, 6), nn.ConstantPad2d(1, 0.5), conv(6, 4)),
        nn.Sequential(conv(3, 6), nn.BatchNorm2d(6, affine=False), conv(6, 4)),
        Wired(lambda m, x: m.head(m.stem(x) + 1), stem=conv(3, 6), head=conv(6, 4)),
        Wired(lambda m, x: m.stem(x), stem=conv(3, 6)),
    ],
    ids=["relu6", "hardswish", "gelu", "constant", "norm", "offset", "output"],
)
def test_what_does_not_commute_is_left(model: nn.Module) -> None:
    assert not find_rescaling(trace(model.eval(), example(PICTURE))).activations


def test_layers_of_two_calls_keep_their_factors() -> None:
    assert not find_rescaling(trace(tied().eval(), example(PICTURE))).activations


def test_channels_of_a_sum_share_their_factors() -> None:
    rescaling = find_rescaling(trace(residual().eval(), example(PICTURE)))
    stream = rescaling.activations["add"].classes
    for name in ("stem.1", "block.5"):
        assert torch.equal(rescaling.activations[name].classes, stream)
    assert stream.unique().numel() == 6
