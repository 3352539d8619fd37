"""The commands of the page for the paper's networks, run as they stand on stand-ins for networks and data."""

from __future__ import annotations

import json
import pickle
import shlex
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import command
from docs_pages import DOCS

image = pytest.importorskip("PIL.Image")
RECIPES = (DOCS / "models.md").read_text(encoding="utf-8").partition("## The networks of the paper")[2]
COMMANDS = [
    shlex.split(line.replace("\\\n", " "))
    for block in RECIPES.split("```console\n")[1:]
    for line in block.partition("```")[0].replace("\\\n", " ").splitlines()
]
QUICK = ("--cycle-examples", "20", "--epochs", "1", "--batch-size", "20", "--max-cycles", "1", "--quiet", "--json")


class Small(nn.Module):
    """Knows the brightness of an image, of any size, as its class."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)  # no BatchNorm, whose statistics would take most of the time
        self.hidden, self.fc = nn.Linear(8, 32), nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.avg_pool2d(x, 8)
        x = torch.relu(self.conv(x)).mean((2, 3))
        return self.fc(torch.relu(self.hidden(x)))


def fitted(classes: int, mean: float, std: float) -> nn.Module:
    """The stand-in trained on plain images of a few brightnesses, prepared as the recipe does."""
    net = Small(classes)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(150):
        targets = torch.randint(0, 3, (32,), generator=generator)
        images = (targets[:, None, None, None] * 0.4 + 0.05 - mean) / std + torch.zeros(32, 3, 32, 32)
        loss = nn.functional.cross_entropy(
            net(images + 0.05 * torch.randn(32, 3, 32, 32, generator=generator)), targets
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 5)):
        for number in range(3):
            (tmp_path / "imagenet" / part / f"n{number}").mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 20, (40, 48, 3)) + 102 * number + 3
                path = tmp_path / "imagenet" / part / f"n{number}" / f"{index}.png"
                image.fromarray(pixels.astype(np.uint8)).save(path)
    (tmp_path / "cifar100").mkdir()
    for part, count in (("train", 120), ("test", 30)):
        labels = np.arange(count) % 3
        pixels = rng.integers(0, 20, (count, 3072)) + 102 * labels[:, None] + 3
        content = {b"data": pixels.astype(np.uint8), b"fine_labels": labels.tolist()}
        (tmp_path / "cifar100" / part).write_bytes(pickle.dumps(content, protocol=2))
    ours = fitted(3, 0.45, 0.225)
    hundred = fitted(100, 0.48, 0.27)
    for name in ("resnet18", "resnet34", "resnet50"):
        torch.save(hundred.state_dict(), tmp_path / f"{name}-cifar100.pt")
    models = ModuleType("torchvision.models")
    models.list_models = lambda: ["resnet18", "resnet34", "resnet50", "inception_v3"]
    models.get_model = lambda name, weights, **options: ours if weights else Small(**options)
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return tmp_path


def test_there_is_a_command_for_each() -> None:
    assert [words[2].partition(":")[2] for words in COMMANDS] == [
        "resnet18", "resnet34", "resnet50", "inception_v3",
        "resnet18?num_classes=100", "resnet34?num_classes=100", "resnet50?num_classes=100",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [0, 3, 4])
def test_the_commands_run_as_they_stand(workplace: Path, number: int) -> None:
    outcome = command.main(*COMMANDS[number][1:], *QUICK)
    assert outcome.code == 0, outcome
    result = json.loads(outcome.out)
    assert not result["violations"]
    assert result["cost"]["weight_bytes"] <= 0.75 * result["reference"]["weight_bytes"] / 4
