"""Models, data, metrics and losses that cannot be used, as factories for the command line."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import tiny

NUMBER = 3
INSTANCE = tiny.trained()


def raises() -> None:
    raise OSError("the server is down")


def text() -> str:
    return "resnet18"


# -- data


def empty() -> tuple[Tensor, Tensor]:
    return torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.long)


def no_batches() -> list[tuple[Tensor, Tensor]]:
    return []


def wrong_channels() -> tuple[Tensor, Tensor]:
    return torch.zeros(100, 3, 8, 8), torch.zeros(100, dtype=torch.long)


def ragged() -> list[tuple[Tensor, Tensor]]:
    targets = torch.zeros(50, dtype=torch.long)
    return [(torch.zeros(50, 1, 8, 8), targets), (torch.zeros(50, 1, 9, 9), targets)]


def wrong_lengths() -> tuple[Tensor, Tensor]:
    return torch.zeros(100, 1, 8, 8), torch.zeros(90, dtype=torch.long)


def raw_images() -> tuple[Tensor, Tensor]:
    return torch.zeros(100, 1, 8, 8, dtype=torch.uint8), torch.zeros(100, dtype=torch.long)


def without_targets() -> Tensor:
    return torch.zeros(100, 1, 8, 8)


def one_nan() -> tuple[Tensor, Tensor]:
    inputs, targets = tiny.train_data()
    inputs[350, 0, 3, 3] = float("nan")
    return inputs, targets


def unknown_classes() -> tuple[Tensor, Tensor]:
    inputs, targets = tiny.train_data()
    return inputs, targets + 100


def real_targets() -> tuple[Tensor, Tensor]:
    inputs, targets = tiny.train_data()
    return inputs, targets.float()


# -- models


def nan_weight() -> nn.Module:
    model = tiny.trained()
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = float("nan")
    return model


def nan_statistics() -> nn.Module:
    model = tiny.trained()
    model[1].running_mean[0] = float("nan")
    return model


def no_layers() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.ReLU())


def scripted() -> nn.Module:
    return torch.jit.script(tiny.single())


def lazy() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(6))


def small() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6))


def narrow() -> nn.Module:
    """The layers of the tiny network by name and kind, not by shape."""
    model = tiny.untrained()
    model[5], model[6], model[9] = nn.Conv2d(8, 10, 3, stride=2, padding=1), nn.BatchNorm2d(10), nn.Linear(160, 6)
    return model


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 6)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.layer(x.flatten(1))
        return -self.layer(x.flatten(1))


class Speechless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 6)

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


# -- metrics and losses


def no_number(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    return {"top1": 0.5}


def not_finite(outputs: Tensor, targets: Tensor) -> float:
    return float("nan")


def a_text(outputs: Tensor, targets: Tensor) -> str:
    return "0.5"


def failing(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs[targets.shape[0] + 1]


def per_example(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def a_float(outputs: Tensor, targets: Tensor) -> float:
    return 0.5


def a_constant(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs.detach(), targets)


def nan_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.sum() * float("nan")
