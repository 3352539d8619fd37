"""Small networks of many kinds, as users export them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def block(inner: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: type = nn.ReLU) -> nn.Module:
    convolution = nn.Conv2d(inner, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), act())


class Residual(nn.Module):
    def __init__(self, inner: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = block(inner, out, 3, stride)
        self.second = block(out, out, act=nn.Identity)
        self.skip = block(inner, out, 1, stride, act=nn.Identity) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.skip(x))


class Squeeze(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, length, width)
        x = x + self.proj(mixed)
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 17, 16))
        self.blocks, self.head = nn.ModuleList([Attention(16), Attention(16)]), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        for each in self.blocks:
            x = each(x)
        return self.head(x[:, 0])


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = block(3, 8), block(8, 16, 3, 2), block(16, 8)
        self.up, self.out = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.first(x)
        deep = self.second(wide)
        smooth = F.interpolate(deep, scale_factor=2, mode="bilinear")
        coarse = F.interpolate(deep, scale_factor=2)
        return self.out(self.third(torch.cat([wide, self.up(deep)], 1))) + smooth[:, :2] + coarse[:, 2:4]


class Shuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch, self.out = block(3, 8), block(4, 4, groups=4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).chunk(2, 1)
        x = torch.cat([left, self.branch(right)], 1)
        batch, channels, height, width = x.shape
        x = x.reshape(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return self.out(x.mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self, kind: type, bidirectional: bool) -> None:
        super().__init__()
        self.cell = kind(6, 8, batch_first=True, bidirectional=bidirectional, num_layers=2)
        self.out = nn.Linear(16 if bidirectional else 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x)[0][:, -1])


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.out = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Dropout(), nn.Linear(16, 3))

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.embed(words).mean(1))


class Arithmetic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = (self.conv(x).clamp(-1, 1) ** 2 + 1).sqrt().log().exp()
        return y.amax((2, 3)) * (1 - x.mean((2, 3)))[:, :1] / 3, y.flip(3)[:, :, ::2, 1:-1]


IMAGE = (3, 16, 16)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (
        lambda: nn.Sequential(
            block(3, 8), Residual(8, 8, 1), Residual(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
        ),
        IMAGE,
    ),
    "mobile": (
        lambda: nn.Sequential(
            block(3, 8, 3, 2, act=nn.ReLU6), block(8, 8, groups=8, act=nn.Hardswish), Squeeze(8), nn.Conv2d(8, 4, 1),
            nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
        ),
        IMAGE,
    ),
    "vision transformer": (VisionTransformer, IMAGE),
    "segmenter": (Segmenter, IMAGE),
    "shuffle": (Shuffle, IMAGE),
    "lstm": (lambda: Recurrent(nn.LSTM, False), (7, 6)),
    "gru, both ways": (lambda: Recurrent(nn.GRU, True), (7, 6)),
    "words": (Words, (5,)),
    "encoder": (
        lambda: nn.Sequential(
            nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1), nn.Flatten(),
            nn.Linear(80, 2),
        ),
        (5, 16),
    ),
    "norms": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU(0.1), nn.GroupNorm(2, 8), nn.PReLU(8),
            nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.ELU(), nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(8, 4, 3),
            nn.PixelShuffle(2), nn.Softmax(1),
        ),
        IMAGE,
    ),
    "one-dimensional": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 8, 5, 2), nn.BatchNorm1d(8), nn.Softplus(), nn.MaxPool1d(2), nn.Conv1d(8, 8, 3, padding=1),
            nn.Tanh(), nn.Flatten(), nn.Linear(56, 5), nn.BatchNorm1d(5),
        ),
        (4, 32),
    ),
    "arithmetic": (Arithmetic, IMAGE),
}  # fmt: skip


def network(name: str) -> tuple[nn.Module, Tensor]:
    """A network with statistics that are not the first ones, in evaluation mode, and three examples."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    found = make().eval()
    for module in found.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return found, torch.randint(0, 20, (3, *shape)) if name == "words" else torch.randn(3, *shape)
