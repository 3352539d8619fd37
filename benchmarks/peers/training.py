"""The training that every peer's quantized network gets: the loop that a user writes where a peer has none.

The same examples, order, augmentation, optimiser, schedule and teacher as SigmaQuant's own training: SGD with Nesterov
momentum, cosine with warm-up, distillation from the float network at temperature 2, ranges of the quantizers at their
own, lower rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from common import Images, cpu_seconds, normalised
from torch import Tensor, nn

BATCH = 128


def batches(images: Images, examples: int, seed: int) -> Iterator[Tensor]:
    """Normalised, shuffled, cropped and flipped; borders are black, as the float network was trained."""
    generator = torch.Generator().manual_seed(seed)
    given = 0
    while given < examples:
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(images) - BATCH + 1, BATCH):
            index = order[start : start + min(BATCH, examples - given)]
            if len(index) < 2:  # alone, an image has no variance for BatchNorm
                return
            yield normalised(augmented(images.pixels[index], generator))
            given += len(index)


def augmented(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """A random crop of the image padded by four black pixels, and a flip, each image its own."""
    count, channels, height, width = pixels.shape
    shifts = torch.randint(0, 9, (2, count, 1), generator=generator)
    rows, columns = shifts[0] + torch.arange(height), shifts[1] + torch.arange(width)
    columns = torch.where(torch.rand(count, 1, generator=generator) < 0.5, columns.flip(1), columns)
    padded = nn.functional.pad(pixels, [4] * 4)
    index = (rows[:, :, None] * padded.shape[3] + columns[:, None, :]).reshape(count, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, index).reshape(pixels.shape)


def train(
    network: nn.Module,
    teacher: nn.Module,
    images: Images,
    epochs: float,
    seed: int,
    lr: float,
    ranges: list[nn.Parameter] | None = None,
    scale_lr: float = 0.002,
) -> float:
    """Train in place; the network is left in evaluation mode.

    Args:
        network: fake-quantized.
        teacher: float.
        images: to train on.
        epochs: may be fractional.
        seed: of order and augmentation.
        lr: peak learning rate.
        ranges: parameters of the quantizers, if they are learnt.
        scale_lr: the same of `ranges`.

    Returns:
        CPU seconds.
    """
    started = cpu_seconds()
    # user code: begin
    ranges = ranges or []
    known = {id(p) for p in ranges}
    weights = [p for p in network.parameters() if p.requires_grad and id(p) not in known]
    groups = [
        {"params": [p for p in weights if p.dim() > 1], "lr": lr, "weight_decay": 1e-4},
        {"params": [p for p in weights if p.dim() <= 1], "lr": lr},
        {"params": ranges, "lr": scale_lr},
    ]
    optimizer = torch.optim.SGD([g for g in groups if g["params"]], lr=lr, momentum=0.9, nesterov=True)
    total = int(epochs * len(images))
    warmup, done = 0.05 * total, 0
    peaks = [group["lr"] for group in optimizer.param_groups]
    network.train()
    for inputs in batches(images, total, seed):
        position = done + len(inputs) / 2
        rising, falling = position / warmup, 0.5 * (1 + math.cos(math.pi * (position - warmup) / (total - warmup)))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * (rising if position < warmup else falling)
        with torch.no_grad():
            wanted = torch.log_softmax(teacher(inputs) / 2, 1)
        found = torch.log_softmax(network(inputs) / 2, 1)
        loss = 4 * nn.functional.kl_div(found, wanted, reduction="batchmean", log_target=True)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*weights, *ranges], 5.0)
        optimizer.step()
        done += len(inputs)
    network.eval()
    # user code: end
    if not math.isfinite(float(loss.detach())):
        raise FloatingPointError(f"the training diverged at {lr=:g}")
    print(f"last loss {float(loss.detach()):.4f}", flush=True)
    return cpu_seconds() - started
