"""What the benchmark knows of a network: how to build it, what to call it with, and to which group it belongs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Callable[[int], Any]
"""So many examples of random data, as the model takes them: a tensor, a tuple of arguments, or a dict of keywords."""

GROUPS = ("convolutional", "transformer", "recurrent")


@dataclass(frozen=True)
class Entry:
    """A network by name.

    Attributes:
        name: unique.
        group: one of `GROUPS`; each is counted apart.
        kind: what the network is for.
        build: makes the module and its inputs.
    """

    name: str
    group: str
    kind: str
    build: Callable[[], tuple[nn.Module, Inputs]]


def images(size: int = 64, channels: int = 3) -> Inputs:
    """Images of smoothed noise, about of mean 0 and deviation 1: pure noise loses everything in the first pooling."""

    def make(count: int) -> Tensor:
        coarse = torch.randn(count, channels, max(2, size // 8), max(2, size // 8))
        smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
        return smooth + 0.5 * torch.randn(count, channels, size, size)

    return make


def waves(length: int, channels: int = 1) -> Inputs:
    """Signals [count, channels, length]."""
    return lambda count: torch.randn(count, channels, length)


def features(*shape: int) -> Inputs:
    """Vectors, spectrograms or sequences [count, *shape]."""
    return lambda count: torch.randn(count, *shape)


def tokens(length: int, words: int) -> Inputs:
    """Token indices [count, length]."""
    return lambda count: torch.randint(0, words, (count, length))


def keywords(**makers: Inputs) -> Inputs:
    """A dict of arguments by name."""
    return lambda count: {name: make(count) for name, make in makers.items()}


def arguments(*makers: Inputs) -> Inputs:
    """Several positional arguments."""
    return lambda count: tuple(make(count) for make in makers)


def call(model: nn.Module, given: Any) -> Any:
    """The model on what `Inputs` made."""
    if isinstance(given, dict):
        return model(**given)
    return model(*given) if isinstance(given, tuple) else model(given)


@torch.no_grad()
def enliven_(model: nn.Module, inputs: Inputs, count: int = 8) -> None:
    """Let a random network compute something: scales of norms about one, BatchNorm statistics of its own data.

    Fresh networks often begin with residual branches that are zero, or nearly, and with statistics of no data.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.dim() or not parameter.numel():
                continue
            norm = isinstance(module, nn.modules.batchnorm._NormBase)
            idle = "bias" not in name and float(parameter.abs().max()) < 1e-3
            if idle or (norm and name == "weight"):
                parameter.uniform_(0.5, 1.5)
            elif norm and name == "bias":
                parameter.normal_(0, 0.2)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    model.eval()
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    for _ in range(2):
        call(model, inputs(count))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
