"""The same bits everywhere, in plain PyTorch: what a user writes without any library.

    .peers/sigmaquant/bin/python benchmarks/peers/uniform.py --data DIR --stages post-training,trained

The most bits that fit the budget for every layer's weights, one scale per channel with the least squared error, inputs
of 8 bits with one scale per tensor; scales are learnt in training as in LSQ (Esser et al., arXiv 1902.08153).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import common
import torch
from common import POST_TRAINING, TRAINED, Outcome, Task, normalised, weight_counts

from training import train

# isort: split
# user code: begin
import copy
import math

from torch import nn


def fake_quantize(x, scale, low, high, share):
    """Rounded to the grid; the gradient of the scale is that of LSQ, a `share` of it."""
    scale = scale * share + (scale * (1 - share)).detach()
    clipped = (x / scale).clamp(low, high)
    return (clipped + (clipped.round() - clipped).detach()) * scale


def least_error(x, high, low):
    """The scale of every row with the least squared error."""
    widest = x.abs().amax(1, keepdim=True).clamp_min(1e-8) / max(high, 1)
    tried = [widest * factor for factor in torch.linspace(0.2, 1, 41)]
    errors = torch.stack([((x / s).round().clamp(low, high) * s - x).square().sum(1, keepdim=True) for s in tried])
    return torch.stack(tried).gather(0, errors.argmin(0, keepdim=True))[0]


class Quantized(nn.Module):
    def __init__(self, layer, bits):
        super().__init__()
        self.layer, self.bits = layer, bits
        self.low, self.high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        scale = least_error(layer.weight.detach().flatten(1), self.high, self.low)
        self.scale = nn.Parameter(scale.reshape(-1, *[1] * (layer.weight.dim() - 1)))
        self.input_scale = nn.Parameter(torch.tensor(0.0))
        self.seen = []

    def forward(self, x):
        if self.seen is not None:  # calibration
            self.seen.append(x.detach().flatten()[::16])
            return self.layer(x)
        share = 1 / math.sqrt(self.layer.weight.numel() / len(self.scale) * self.high)
        weight = fake_quantize(self.layer.weight, self.scale, self.low, self.high, share)
        x = fake_quantize(x, self.input_scale, -128 * self.signed, 255 - 128 * self.signed, 1 / math.sqrt(x.numel()))
        if isinstance(self.layer, nn.Linear):
            return nn.functional.linear(x, weight, self.layer.bias)
        return self.layer._conv_forward(x, weight, self.layer.bias)

    def calibrated(self):
        values, self.seen = torch.cat(self.seen), None
        self.signed = int(values.min() < 0)
        found = least_error(values[None], 255 - 128 * self.signed, -128 * self.signed)
        self.input_scale.data.copy_(found.squeeze())


# user code: end


def quantize(task: Task) -> Outcome:
    # user code: begin
    bits = int(32 / task.size)
    network = copy.deepcopy(task.network)
    for name in weight_counts(task.network):
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, Quantized(network.get_submodule(name), bits))
    wrapped = [module for module in network.modules() if isinstance(module, Quantized)]
    with torch.no_grad():
        network(normalised(task.calibration.pixels[:512]))
        for module in wrapped:
            module.calibrated()
    # user code: end
    training = 0.0
    if task.stage == TRAINED:
        # user code: begin (trained)
        ranges = [p for module in wrapped for p in (module.scale, module.input_scale)]
        training = train(network, task.network, task.train, task.epochs, task.seed, task.lr, ranges)
        # user code: end
    plan = dict.fromkeys(weight_counts(task.network), bits)
    return Outcome(network, plan, partial(export, network), 0.0, training)


def export(network: nn.Module, folder: Path) -> None:
    # user code: begin
    torch.save(network.state_dict(), folder / "state.pt")
    # user code: end


if __name__ == "__main__":
    common.main("uniform", quantize, [], __file__, (POST_TRAINING, TRAINED))
