"""Small networks of every kind of dependency between channels, with BatchNorm statistics that tell channels apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(ins: int, outs: int, kernel: int = 3, groups: int = 1, act: bool = True) -> nn.Sequential:
    layers = [nn.Conv2d(ins, outs, kernel, padding=kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outs)]
    return nn.Sequential(*layers, *([nn.ReLU()] if act else []))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = conv(3, 8), conv(8, 8), conv(8, 8, act=False)
        self.three, self.short, self.head = conv(8, 12, act=False), conv(8, 12, 1, act=False), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.two(self.one(x)))
        return self.head(F.relu(self.three(x) + self.short(x)).mean((2, 3)))


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8 + 4 * i) for i in range(3)])
        self.convs = nn.ModuleList([nn.Conv2d(8 + 4 * i, 4, 3, padding=1) for i in range(2)])
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.convs, strict=False):
            x = torch.cat([x, layer(F.relu(norm(x)))], 1)
        return self.head(F.relu(self.norms[2](x)).mean((2, 3)))


class Depthwise(nn.Module):
    """MobileNetV2's blocks, with a gate as MobileNetV3 has them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand, self.depthwise = conv(3, 8), conv(8, 16, 1), conv(16, 16, 3, 16)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.project, self.last, self.head = conv(16, 8, 1, act=False), conv(8, 8, 3, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.depthwise(self.expand(x))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.head(self.last(x + self.project(y)).mean((2, 3)))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = conv(3, 8, 1), conv(8, 8, 3, 2), conv(8, 8, 1, act=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.two(self.one(x))).mean((2, 3)))


class Shuffled(nn.Module):
    """ShuffleNetV2's block: half of the channels pass, and both halves are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.three = (
            conv(3, 8),
            conv(4, 6, 1),
            conv(6, 6, 3, 6, act=False),
            conv(6, 4, 1),
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        passing, changed = self.stem(x).chunk(2, 1)
        x = torch.cat([passing, self.three(self.two(self.one(changed)))], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(x.flatten(2).mean(2))


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv(3, 6), nn.Linear(6 * 16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.two(F.adaptive_avg_pool2d(self.one(x), 4).flatten(1))))


class Normed(nn.Module):
    """A norm over all channels: without some of them, the others change."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(F.relu(self.norm(self.one(x)))).mean((2, 3)))


KINDS: dict[str, type[nn.Module]] = {
    "residual": Residual,
    "concatenated": Concatenated,
    "depthwise": Depthwise,
    "grouped": Grouped,
    "shuffled": Shuffled,
    "flattened": Flattened,
    "normed": Normed,
}


def network(kind: str) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = KINDS[kind]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 2.0)):
                tensor.uniform_(low, high, generator=generator)
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(-0.3, 0.3, generator=generator)
    return model


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
