"""Operators as users write them, with odd shapes and arguments, many to a network of several outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from c_cases import SANITIZED, check_codes, compiled, lowered, random_codes
from torch import Tensor, nn

from sigmaquant.export.c import export_c

Function = Callable[["Heads", Tensor], Tensor]
MOVES: dict[str, Function] = {
    "flip": lambda m, x: x.flip(3),
    "flip two": lambda m, x: x.flip(1, 2),
    "roll": lambda m, x: torch.roll(x, 1, 2),
    "roll two": lambda m, x: torch.roll(x, (2, -1), (1, 3)),
    "repeat": lambda m, x: x.repeat(1, 2, 1, 3),
    "interleave": lambda m, x: x.repeat_interleave(2, 1),
    "expand": lambda m, x: x[:, :1].expand(-1, 4, -1, -1),
    "index": lambda m, x: x[:, m.index],
    "pick": lambda m, x: x.select(2, 3),
    "steps": lambda m, x: x[:, ::3, 1:-1:2],
    "chunks": lambda m, x: x.chunk(3, 1)[2],
    "shuffle": lambda m, x: F.channel_shuffle(x, 2),
    "pixels": lambda m, x: F.pixel_shuffle(x.repeat(1, 2, 1, 1), 2),
    "no pixels": lambda m, x: F.pixel_unshuffle(x[:, :, :, :4], 2),
    "nearest": lambda m, x: F.interpolate(x, scale_factor=2),
    "nearest odd": lambda m, x: F.interpolate(x, size=(7, 4)),
    "padded": lambda m, x: F.pad(x, (1, 2, 0, 1)),
    "cut": lambda m, x: F.pad(x, (-1, 1)),
    "reflected": lambda m, x: F.pad(x, (1, 2, 2, 1), "reflect"),
    "replicated": lambda m, x: F.pad(x, (1, 2, 2, 1), "replicate"),
    "circular": lambda m, x: F.pad(x, (1, 2, 2, 1), "circular"),
    "turned": lambda m, x: x.permute(0, 3, 1, 2).flatten(1, 2),
    "six axes": lambda m, x: x.unflatten(1, (2, 3)).unflatten(4, (5, 1)).permute(0, 5, 3, 1, 4, 2),
    "joined": lambda m, x: torch.cat([x, x.flip(2), x], 2),
    "stacked": lambda m, x: torch.stack([x, x, -x], 2),
    "joined with a constant": lambda m, x: torch.cat([x, m.channels.expand(x.shape[0], 6, 4, 5)], 1),
}
ARITHMETIC: dict[str, Function] = {
    "channels": lambda m, x: x * m.channels,
    "rows": lambda m, x: x + m.rows,
    "columns": lambda m, x: m.columns - x,
    "places": lambda m, x: x * m.rows + m.columns,
    "channels and columns": lambda m, x: x + m.channels * m.columns,
    "values": lambda m, x: x / m.values,
    "twice": lambda m, x: x + x,
    "square": lambda m, x: x * x,
    "gate": lambda m, x: x * x.mean((2, 3), keepdim=True),
    "less its mean": lambda m, x: x - x.mean(3, keepdim=True),
    "outer sum": lambda m, x: x.mean(2, keepdim=True) + x.mean(3, keepdim=True),
    "outer product": lambda m, x: x[:, :, :1] * x[:, :, :, 1:2],
    "another layout": lambda m, x: x.transpose(2, 3).flatten(2).unflatten(2, (4, 5)) + x,
    "fewer axes": lambda m, x: x + x.mean((1, 2)).unsqueeze(1).unsqueeze(1),
    "larger": lambda m, x: torch.maximum(x, -x),
    "smaller, broadcast": lambda m, x: torch.minimum(x, x.mean(1, keepdim=True)),
    "where": lambda m, x: torch.where(x > 0.1, x, x.flip(3)),
    "where, broadcast": lambda m, x: torch.where(x[:, :1] > 0, x, -x),
    "masked": lambda m, x: x.masked_fill(m.mask, 0.25),
    "prelu": lambda m, x: F.prelu(x, m.slopes),
    "gelu": lambda m, x: F.gelu(x),
    "clamp": lambda m, x: x.clamp(min=-0.3),
    "norm": lambda m, x: F.normalize(x, dim=1),
    "norm of rows": lambda m, x: F.normalize(x, dim=-1, eps=0.5),
}
WINDOWS: dict[str, Function] = {
    "bilinear": lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear corners": lambda m, x: F.interpolate(x, size=(3, 9), mode="bilinear", align_corners=True),
    "linear": lambda m, x: F.interpolate(x[:, :, 1], size=8, mode="linear"),
    "without padding": lambda m, x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "ceil": lambda m, x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "divisor": lambda m, x: F.avg_pool2d(x, 2, divisor_override=3),
    "adaptive": lambda m, x: F.adaptive_avg_pool2d(x, (3, 2)),
    "adaptive, larger": lambda m, x: F.adaptive_avg_pool2d(x, (6, 7)),
    "adaptive maximum": lambda m, x: F.adaptive_max_pool2d(x, (3, 2)),
    "maximum": lambda m, x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "maximum, apart": lambda m, x: F.max_pool2d(x, 2, 1, 1, dilation=2),
    "one dimension": lambda m, x: F.avg_pool1d(x[:, :, 0], 2, 2, 1),
    "largest": lambda m, x: x.amax((2, 3)),
    "mean of two": lambda m, x: x.mean((1, 3), keepdim=True),
    "sum of all": lambda m, x: x.sum((1, 2, 3)),
    "three dimensions": lambda m, x: F.avg_pool3d(x.unsqueeze(1), 2, padding=1, count_include_pad=False),
    "three dimensions, maximum": lambda m, x: F.max_pool3d(x.unsqueeze(1), (3, 2, 2), (2, 1, 2), (1, 0, 1)),
    "transposed": lambda m, x: m.up(x),
    "transposed, grouped": lambda m, x: m.up_grouped(x),
    "of one": lambda m, x: m.up(x[:, :, :1, :1]),
}

SEQUENCES: dict[str, Function] = {
    "scores": lambda m, x: torch.softmax(x @ x.transpose(2, 3) / 2, -1) @ x,
    "product of one row": lambda m, x: x[:, :, :1] @ x.transpose(2, 3),
    "broadcast product": lambda m, x: x[:, :1] @ x.transpose(2, 3),
    "einsum": lambda m, x: torch.einsum("nchw,nkhw->nck", x, x),
    "einsum of channels": lambda m, x: torch.einsum("nchw,ncvw->nvch", x, x),
    "batched": lambda m, x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)),
    "attention": lambda m, x: F.scaled_dot_product_attention(x, x.flip(2), x),
    "causal": lambda m, x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "masked softmax": lambda m, x: torch.softmax(x.masked_fill(m.mask, float("-inf")), -1).nan_to_num(0.0),
    "masked by addition": lambda m, x: torch.softmax(x + m.far, -1) * 2,
    "softmax of channels": lambda m, x: torch.softmax(x, 1) + 1,
    "softmax of rows": lambda m, x: torch.softmax(x, 2)[:, :, 1:],
    "layer norm": lambda m, x: m.layer_norm(x),
    "layer norm of all": lambda m, x: F.layer_norm(x, (6, 4, 5), m.values, m.values - 1),
    "layer norm of channels": lambda m, x: F.layer_norm(x.movedim(1, 3), (6,), m.slopes),
    "rms norm": lambda m, x: F.rms_norm(x, (4, 5), m.values[0]),
    "group norm": lambda m, x: m.group_norm(x),
    "group norm of sequences": lambda m, x: F.group_norm(x.flatten(2), 3),
    "instance norm": lambda m, x: F.instance_norm(x, weight=m.slopes, bias=m.slopes - 1),
    "rectified norm": lambda m, x: torch.relu(m.group_norm(x)),
}


class Heads(nn.Module):
    """A convolution and functions of it."""

    def __init__(self, functions: list[Function]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 5, 3, stride=2, padding=1, output_padding=1)
        self.up_grouped = nn.ConvTranspose2d(6, 4, (2, 3), stride=(1, 2), dilation=2, groups=2)
        self.layer_norm, self.group_norm = nn.LayerNorm(5), nn.GroupNorm(2, 6)
        for norm in (self.layer_norm, self.group_norm):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        self.functions = functions
        shapes = {"channels": (1, 6, 1, 1), "rows": (4, 1), "columns": (1, 5), "values": (6, 4, 5), "slopes": (6,)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.rand(shape) + 0.5)
        self.register_buffer("index", torch.tensor([4, 1, 1, 5]))
        self.register_buffer("mask", torch.rand(4, 5) > 0.6)
        self.register_buffer("far", torch.where(torch.rand(4, 5) > 0.7, -1e9, 0.0))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        return [function(self, x) for function in self.functions]


def parts(functions: dict[str, Function], size: int = 9) -> list[tuple[str, list[Function]]]:
    names = list(functions)
    groups = [names[i : i + size] for i in range(0, len(names), size)]
    return [(f"{group[0]} to {group[-1]}", [functions[name] for name in group]) for group in groups]


@pytest.mark.parametrize(
    ("functions", "bits", "first"),
    [
        pytest.param(part, bits, first, id=f"{name}, {bits} bits")
        for functions, grids in (
            *((f, ((8, 6), (5, 1))) for f in (MOVES, ARITHMETIC, WINDOWS)),
            (SEQUENCES, ((8, 6), (7, 0), (6, 2), (5, 1), (4, 4))),
        )
        for name, part in parts(functions, 9 if len(grids) == 2 else 20)
        for bits, first in grids
    ],
)
def test_functions_as_users_write_them(
    functions: list[Function], bits: int, first: int, tmp_path: Path, objects: tuple[str, ...],
    sanitized: tuple[str, ...],
) -> None:  # fmt: skip
    torch.manual_seed(bits)
    model = lowered(Heads(functions), (torch.randn(8, 3, 4, 5),), bits, first)
    assert model.float_operators == ()
    report = export_c(model, tmp_path / "out")
    used = sanitized if bits == 8 else objects
    flags = (*SANITIZED, "-DSQ_SEPARATE", "-DSQ_CHECK") if bits == 8 else ("-O1", "-DSQ_CHECK")
    runner = compiled(report.folder, used, flags)
    for count in (1, 5):
        check_codes(runner, model, random_codes(model, count))


class Frames(nn.Module):
    """Layers on frames that are folded into the batch, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.deep = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.prelu = nn.PReLU(6)
        self.up = nn.ConvTranspose2d(6, 3, 2, stride=2)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        n, frames = x.shape[:2]
        y = self.prelu(self.conv(x.flatten(0, 1)))
        y = F.max_pool2d(self.deep(y) + y, 2)
        y = F.interpolate(torch.maximum(y, y.flip(3)), scale_factor=2, mode="bilinear")
        up = self.up(y)
        y = F.pad(y, (1, 0, 0, 2), "replicate") * y.mean((2, 3), keepdim=True)
        each = self.head(self.norm(y.mean((2, 3))))
        scores = each.view(n, frames, 4)
        return each, scores.mean(1), scores.transpose(1, 2), up.unflatten(0, (n, frames)), torch.cat([up, up], 1)


class Speakers(nn.Module):
    """Attention inside frames that are folded into the batch, and over them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.turned = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 24)
        self.groups = nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        n, frames = x.shape[:2]
        y = self.norm(self.embed(x.flatten(0, 1)))
        q, k, v = self.turned(y).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        y = y + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        mixed = torch.softmax(self.groups(y), 1) @ y.transpose(1, 2)
        each = y.mean(1).view(n, frames, 8)
        return y, mixed, F.layer_norm(each + torch.softmax(each @ each.transpose(1, 2), -1) @ each, (8,))


class Windows(nn.Module):
    """A signal in windows, which are examples of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, stride=2)
        self.deep = nn.Conv3d(1, 2, (2, 2, 3), padding=(1, 0, 1), stride=(1, 2, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        windows = x.reshape(-1, 3, 7)
        y = torch.relu(self.conv(windows))
        volumes = self.deep(windows.view(-1, 1, 3, 7, 1).repeat(1, 1, 1, 1, 3))
        return y, F.normalize(y, dim=1).reshape(x.shape[0], -1), volumes.amax((2, 3, 4))


class Volumes(nn.Module):
    """Three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(2, 4, 3, padding=1, stride=(2, 1, 1))
        self.grouped = nn.Conv3d(4, 4, (1, 3, 3), groups=4, padding=(0, 1, 1))
        self.up = nn.ConvTranspose3d(4, 3, 2, stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.relu(self.first(x))
        y = self.grouped(x) + x
        return F.max_pool3d(y, 2, 1), F.adaptive_avg_pool3d(y, (2, 1, 3)), self.up(y)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (Frames, (5, 2, 4, 6)),
        (Frames, (1, 2, 4, 4)),
        (Speakers, (3, 4, 6)),
        (Windows, (6, 21)),
        (Volumes, (2, 4, 3, 5)),
    ],
    ids=["frames", "one frame", "speakers", "windows", "volumes"],
)
def test_rows_and_volumes(
    network: type[nn.Module], shape: tuple[int, ...], bits: int, tmp_path: Path, sanitized: tuple[str, ...]
) -> None:
    torch.manual_seed(bits)
    model = lowered(network(), (torch.randn(8, *shape),), bits, bits)
    assert model.float_operators == ()
    assert any(edge.rows > 1 for edge in model.edges.values()) == (network is not Volumes and shape[0] > 1)
    report = export_c(model, tmp_path / "out")
    runner = compiled(report.folder, sanitized, (*SANITIZED, "-DSQ_SEPARATE", "-DSQ_CHECK"))
    for count in (1, 5):
        check_codes(runner, model, random_codes(model, count))
    assert {layer.name for layer in report.layers} == {operator.name for operator in model.weighted}
