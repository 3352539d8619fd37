"""A small residual network on scikit-learn's handwritten digits: 8 x 8 grey images, ten classes, 1,797 examples.

`python examples/digits.py` trains the float network (some seconds on first use) and prints what it reaches. The
functions are factories: `model()` gives the trained network, and the three parts of the data never overlap.

The weights are kept in the folder named by the environment variable ``SIGMAQUANT_CACHE``, or else in
``sigmaquant/`` below the user's cache folder. Delete the file to train again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from sigmaquant.data import TensorSource
from sigmaquant.errors import CheckpointError
from sigmaquant.runs import load_tensors, save_tensors_atomic

SEED = 0
WIDTHS = (16, 24, 48)
EPOCHS = 24
BATCH_SIZE = 64


class Block(nn.Module):
    """Two 3 x 3 convolutions and a way around them; the first one may halve the image."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inputs, h, w]`` to ``[n, outputs, h / stride, w / stride]``."""
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))


class DigitsNet(nn.Module):
    """A convolution, three residual blocks and a classifier: about 47,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, WIDTHS[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU()
        self.block1 = Block(WIDTHS[0], WIDTHS[0], 1)
        self.block2 = Block(WIDTHS[0], WIDTHS[1], 2)
        self.block3 = Block(WIDTHS[1], WIDTHS[2], 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(WIDTHS[2], 10)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 1, 8, 8]`` to logits ``[n, 10]``."""
        out = self.relu(self.bn(self.conv(x)))
        out = self.block3(self.block2(self.block1(out)))
        return self.fc(self.pool(out).flatten(1))


@cache
def _parts() -> dict[str, tuple[Tensor, Tensor]]:
    """Images ``[n, 1, 8, 8]`` of mean 0 and deviation 1, and classes ``[n]``: 60, 20 and 20 % of each class."""
    digits = load_digits()
    images = digits.images.astype(np.float32)[:, None] / 16
    train, rest = train_test_split(np.arange(len(images)), test_size=0.4, random_state=SEED, stratify=digits.target)
    validation, test = train_test_split(rest, test_size=0.5, random_state=SEED, stratify=digits.target[rest])
    mean, deviation = images[train].mean(), images[train].std()
    images = (images - mean) / deviation
    return {
        name: (torch.from_numpy(images[index]), torch.from_numpy(digits.target[index]))
        for name, index in (("train", np.sort(train)), ("val", np.sort(validation)), ("test", np.sort(test)))
    }


def _shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Moves the whole batch by at most one pixel, which is all that digits of 8 x 8 pixels bear."""
    down, right = torch.randint(-1, 2, (2,), generator=generator).tolist()
    # Padding repeats the border, which is paper.
    padded = nn.functional.pad(images, [1, 1, 1, 1], mode="replicate")
    return padded[:, :, 1 + down : 9 + down, 1 + right : 9 + right]


def train_data() -> TensorSource:
    """1,078 examples to train on, moved at random by a pixel."""
    return TensorSource(*_parts()["train"], name="training data", batch_size=BATCH_SIZE, augment=_shift)


def val_data() -> TensorSource:
    """359 examples to decide on."""
    return TensorSource(*_parts()["val"], name="validation data", batch_size=BATCH_SIZE)


def test_data() -> TensorSource:
    """360 examples for the end."""
    return TensorSource(*_parts()["test"], name="test data", batch_size=BATCH_SIZE)


@torch.no_grad()
def accuracy(network: nn.Module, data: TensorSource) -> float:
    """The part of the examples whose class is right."""
    network.eval()
    right = sum(int((network(inputs).argmax(1) == targets).sum()) for inputs, targets in data.batches())
    return right / data.examples


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """So small a network is slower on several threads, and their number would change the last bits of the sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
def _train() -> DigitsNet:
    """The network, trained from a fixed seed; global random numbers are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = DigitsNet()
    data = train_data()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=EPOCHS * len(data))
    network.train()
    for epoch in range(EPOCHS):
        for inputs, targets in data.batches(shuffle=True, seed=SEED + epoch):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(inputs), targets).backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def cache_path(folder: str | Path | None = None) -> Path:
    """The file of the trained weights. Its name changes with this file, so that old weights are never mistaken."""
    if folder is None:
        default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sigmaquant"
        folder = os.environ.get("SIGMAQUANT_CACHE") or default
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    return Path(folder) / f"digits-{version}.safetensors"


def model(folder: str | Path | None = None) -> DigitsNet:
    """The trained float network in evaluation mode; it is trained on first use and then read from the cache."""
    path = cache_path(folder)
    network = DigitsNet()
    if path.exists():
        try:
            network.load_state_dict(load_tensors(path)[0])
            return network.eval()
        except CheckpointError as error:
            print(f"{error} Training again.")
    network = _train()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors_atomic(path, network.state_dict())
    return network


def main() -> None:
    """Print what the float network reaches."""
    network = model()
    print(f"parameters:          {sum(parameter.numel() for parameter in network.parameters()):,}")
    for name, data in (("training", train_data()), ("validation", val_data()), ("test", test_data())):
        print(f"{name + ' accuracy:':20} {accuracy(network, data):.2%} of {data.examples} examples")


if __name__ == "__main__":
    main()
