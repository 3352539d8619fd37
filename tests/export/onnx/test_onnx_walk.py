"""Operators of torch with odd arguments and shapes, from the user's module to ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from onnx_cases import compare, integers, noise
from torch import Tensor, nn

BITS = (8, 5, 7, 4, 6)


class After(nn.Module):
    """A function of a convolution's output, 8 channels of 6 x 6."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(4, 8, 3, padding=1), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.conv(x))


class Calls(nn.Module):
    """A layer that is no whole network of its own."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def windows(x: Tensor) -> Tensor:
    """Windows of three rows, each averaged as an example of its own."""
    return x.unfold(2, 3, 1).permute(0, 2, 1, 3, 4).reshape(-1, 8, 6, 3).mean((2, 3)).reshape(-1, 32)


FUNCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "nearest 1.5": lambda x: F.interpolate(x, scale_factor=1.5),
    "nearest exact": lambda x: F.interpolate(x, size=(7, 9), mode="nearest-exact"),
    "nearest 2": lambda x: F.interpolate(x, scale_factor=2),
    "bilinear 2": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear 1.7": lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
    "bilinear corners": lambda x: F.interpolate(x, size=(9, 11), mode="bilinear", align_corners=True),
    "bilinear to one": lambda x: F.interpolate(x, size=(1, 1), mode="bilinear", align_corners=True),
    "pixel shuffle": lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 3),
    "channel shuffle": lambda x: F.channel_shuffle(x, 2),
    "im2col": lambda x: F.unfold(x, 3, padding=1, stride=2),
    "roll and flip": lambda x: torch.roll(x, (1, -2), (2, 1)).flip((1, 3)),
    "turn": lambda x: torch.rot90(x, 1, (2, 3)),
    "channels": lambda x: x[:, [3, 1, 1]],
    "parts": lambda x: (x.chunk(3, 1)[2], x.unbind(3)[2], x[:, ::3, -3:]),
    "repeat": lambda x: x.repeat(1, 2, 1, 1).repeat_interleave(3, 3),
    "expand": lambda x: x.mean(1, True).expand(-1, 4, -1, -1),
    "pads": lambda x: F.pad(
        F.pad(F.pad(x, (2, 1, 0, 1), "reflect"), (1, 1, 0, 3), "replicate"), (1, 0, 2, 0), "circular"
    ),
    "zeros around": lambda x: F.pad(x, (1, -2, 0, 1)),
    "largest of all": lambda x: x.amax((1, 2, 3), True),
    "largest channel": lambda x: x.max(1)[0],
    "adaptive largest": lambda x: F.adaptive_max_pool2d(x, (4, 5)),
    "larger": lambda x: torch.maximum(x, x.mean((2, 3), True)),
    "smaller": lambda x: torch.minimum(x.mean(1, True), x.mean((2, 3), True)),
    "chosen": lambda x: torch.where(x > 0.1, x.flip(3), x.mean((2, 3), True).expand_as(x)),
    "masked": lambda x: x.masked_fill(x > 0, 0.5),
    "average without padding": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "average rounded up": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "average by another number": lambda x: F.avg_pool2d(x, (2, 3), (1, 2), (1, 0), divisor_override=5),
    "adaptive average": lambda x: F.adaptive_avg_pool2d(x, (4, 5)),
    "adaptive average, larger": lambda x: F.adaptive_avg_pool2d(x, (7, 5)),
    "averages": lambda x: (x.mean(1), x.mean((1, 3), True), x.sum((2, 3)), x.mean((1, 2, 3))),
    "unit length of channels": lambda x: F.normalize(x, dim=1),
    "unit length of rows": lambda x: F.normalize(x, dim=3),
    "map of positions": lambda x: x + torch.linspace(-1, 1, 36).view(6, 6),
    "map of values": lambda x: x * torch.linspace(-1, 1, 288).view(8, 6, 6),
    "map of columns": lambda x: torch.linspace(-1, 1, 6) - x,
    "sum of means": lambda x: x.mean(1, True) - x.mean((2, 3), True),
    "product with means": lambda x: x * x.mean((1, 3), True),
    "slopes": lambda x: F.prelu(x, torch.linspace(-0.3, 0.7, 8)),
    "joined with a constant": lambda x: torch.cat([x, torch.ones(1, 8, 1, 6).expand(x.shape[0], -1, -1, -1), -x], 2),
    "stacked": lambda x: torch.stack([x, x.abs()], 2),
    "rows and back": lambda x: (x.reshape(-1, 4, 6, 6).abs() * 0.7).reshape(-1, 8, 6, 6),
    "rows of means": lambda x: x.reshape(-1, 2, 6, 6).mean((2, 3)).reshape(-1, 8),
    "rows out": lambda x: x.reshape(-1, 4, 6, 6) * 0.3,
    "windows": windows,
    "softmax": lambda x: x.mean((2, 3)).softmax(1),
    "log softmax": lambda x: x.log_softmax(1),
    "sigmoid": torch.sigmoid,
    "nested outputs": lambda x: {"a": x.abs(), "b": [x.mean(1), x], "c": x.permute(0, 2, 3, 1)},
}
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2, dilation=2), (4, 5, 6)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 4, 3, 1, 2), (4, 7)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(4, 3, 3, 2, 1, 1), (4, 3, 4, 3)),
    "transposed with gaps": (lambda: nn.ConvTranspose2d(4, 6, 1, 3), (4, 5, 6)),
    "1d": (lambda: nn.Conv1d(4, 6, 5, 2, 3, 2, 2), (4, 17)),
    "3d": (lambda: nn.Conv3d(2, 6, 3, (1, 2, 1), 1), (2, 5, 6, 4)),
    "one by one": (lambda: nn.Conv2d(1, 1, 1), (1, 1, 1)),
    "same": (lambda: nn.Conv2d(3, 4, (4, 3), padding="same", dilation=(1, 2)), (3, 9, 7)),
    "reflect": (lambda: nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect"), (3, 9, 7)),
    "pools 3d": (lambda: nn.Sequential(nn.Conv3d(2, 3, 1), nn.MaxPool3d(2, 2, 1, ceil_mode=True)), (2, 5, 6, 4)),
    "averages 3d": (lambda: nn.Sequential(nn.Conv3d(2, 3, 1), nn.AdaptiveAvgPool3d((2, 4, 3))), (2, 5, 6, 4)),
    "resizing": (lambda: nn.Sequential(nn.Conv1d(2, 3, 1), nn.Upsample(scale_factor=2.5, mode="linear")), (2, 9)),
    "long resizing": (lambda: nn.Sequential(nn.Conv1d(2, 3, 1), nn.Upsample(211, None, "linear", True)), (2, 70)),
    "linear of two axes": (lambda: nn.Linear(5, 1), (2, 6, 5)),
    "numbers": (lambda: nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2)), (1,)),
    "norm first": (lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm1d(5), nn.Linear(5, 3), nn.PReLU(3)), (5,)),
}  # fmt: skip


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_operators_of_torch(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    place, x = list(FUNCTIONS).index(kind), noise(24, 4, 6, 6)
    model = integers(After(FUNCTIONS[kind]), BITS[place % len(BITS)], x)
    compare(model, tmp_path / "model.onnx", ("planes", "native")[place % 2], x)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("kind", LAYERS)
def test_layers_of_torch(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    place, x = list(LAYERS).index(kind), noise(24, *shape)
    model = integers(Calls(make()), BITS[place % len(BITS)], x)
    compare(model, tmp_path / "model.onnx", ("planes", "native")[place % 2], x)


class Several(nn.Module):
    """Two inputs that are read, one that is not, and one of them is an output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(5, 4)

    def forward(self, x: Tensor, y: Tensor, unread: Tensor) -> Any:
        z = self.a(x) * self.b(y).sigmoid()[:, :, None, None]
        return {"z": z, "x": x, "more": [y.flip(1), z.mean((2, 3)).softmax(1), unread], "again": z}


class Frames(nn.Module):
    """Convolutions on each frame, then along the frames."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 4, 3), nn.Conv1d(4, 5, 2), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Any:
        examples, frames = x.shape[:2]
        y = F.relu(self.a(x.reshape(-1, *x.shape[2:]))).mean((2, 3))
        y = self.b(y.reshape(examples, frames, 4).transpose(1, 2)).transpose(1, 2)
        return self.c(y).log_softmax(-1), self.c(y.reshape(-1, 5))


@pytest.mark.parametrize(("form", "bits"), [("planes", 8), ("native", 5)])
@pytest.mark.parametrize("kind", ["several", "frames"])
def test_networks_of_odd_edges(kind: str, form: str, bits: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = [noise(16, 3, 6, 5), noise(16, 5), noise(16, 2)] if kind == "several" else [noise(16, 4, 2, 6, 5)]
    model = integers(Several() if kind == "several" else Frames(), bits, *inputs)
    compare(model, tmp_path / "model.onnx", form, *inputs)
