"""Quantization-aware training: one loop for the short cycles of the search and for the final training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sigmaquant.errors import CheckpointError, DivergedError, TrainingError
from sigmaquant.numerics import SCALE_FLOOR
from sigmaquant.quant import counted_positions
from sigmaquant.quant.network import QuantizedNetwork
from sigmaquant.training.devices import Device
from sigmaquant.training.losses import Distillation, check_finite
from sigmaquant.training.metrics import call
from sigmaquant.training.rates import clip_and_scale_
from sigmaquant.training.spread import Spread


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        lr: peak learning rate of the weights.
        scale_lr: learning rate of the scales (LSQ's gradient scaling already applies).
        momentum: of SGD.
        weight_decay: of weights with two or more dimensions; scales, biases and BatchNorm have none.
        warmup: share of the steps with a rising learning rate.
        clip_norm: largest gradient norm.
        loss: what is minimised.
    """

    lr: float = 0.01
    scale_lr: float = 0.002
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: float = 0.05
    clip_norm: float = 5.0
    loss: Distillation = field(default_factory=Distillation)


@dataclass(frozen=True)
class TrainingReport:
    """What a stretch of training did.

    Attributes:
        steps: optimizer steps.
        examples: training examples seen.
        loss: mean loss of the last tenth of the steps.
        seconds: wall time.
    """

    steps: int
    examples: int
    loss: float
    seconds: float


def make_optimizer(network: QuantizedNetwork, recipe: Recipe) -> torch.optim.SGD:
    """SGD with Nesterov momentum; decay for matrices and kernels only."""
    trainable = [p for p in network.weights() if p.requires_grad]
    decayed = [p for p in trainable if p.dim() > 1]
    plain = [p for p in trainable if p.dim() <= 1]
    groups = [
        {"params": decayed, "lr": recipe.lr, "weight_decay": recipe.weight_decay},
        {"params": plain, "lr": recipe.lr, "weight_decay": 0.0},
        {"params": network.scales(), "lr": recipe.scale_lr, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Momentum buffers by position, for a checkpoint; shares memory."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    buffers = {
        str(i): optimizer.state[p].get("momentum_buffer") for i, p in enumerate(parameters) if p in optimizer.state
    }
    return {key: value for key, value in buffers.items() if value is not None}


def load_optimizer_tensors_(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`: a missing buffer means a fresh one.

    Raises:
        CheckpointError: buffers of other parameters.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shapes = {str(i): p.shape for i, p in enumerate(parameters)}
    for key, value in tensors.items():
        if value.shape != shapes.get(key):
            raise CheckpointError(f"the checkpoint's optimizer state {key!r} belongs to another model or recipe.")
    optimizer.state.clear()
    for key, value in tensors.items():
        parameter = parameters[int(key)]
        optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(value)


def cosine_with_warmup(position: float, total: float, warmup: float) -> float:
    """Factor of the learning rate at a position of a training: linear rise, then half a cosine to zero.

    Args:
        position: examples (or steps) so far; beyond `total` the factor stays at zero.
        total: of the whole training, in the same unit.
        warmup: share of `total` with a rising rate.

    Example:
        >>> [cosine_with_warmup(position, 100, 0.1) for position in (5, 10, 100, 101)]
        [0.5, 1.0, 0.0, 0.0]
    """
    rising = total * warmup
    if position < rising:
        return position / rising
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (position - rising) / max(total - rising, 1e-9))))


def train_(
    network: QuantizedNetwork,
    teacher: nn.Module | None,
    batches: Iterable[tuple[Any, Tensor]],
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    device: Device,
    *,
    schedule: Callable[[float], float] = lambda position: 1.0,
    factors: dict[nn.Parameter, float] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> TrainingReport:
    """Train in place over the given batches.

    Args:
        network: at its plan and calibrated.
        teacher: the float network, or None for the task's loss alone.
        batches: (inputs, targets).
        optimizer: from `make_optimizer`.
        recipe: the loss and the clipping.
        device: where to.
        schedule: factor of the learning rates by position: examples of this stretch, to the middle of the batch.
        factors: of single parameters' learning rates, see `sigmaquant.training.rates`.
        progress: called after every step with the number of its examples and its loss.

    Raises:
        DivergedError: the loss or the gradient became NaN or infinite; the message says what to lower.
        TrainingError: no gradient reaches a parameter.
    """
    started = time.perf_counter()
    rates = [group["lr"] for group in optimizer.param_groups]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    losses: list[float] = []
    examples = 0
    factors = factors or {}
    network.train()
    try:
        with Spread([network], parameters) as spread:
            for step, (inputs, targets) in enumerate(batches):
                count = len(targets)
                factor = schedule(examples + count / 2)
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                inputs, targets = device.put(inputs), device.put(targets)
                own = spread.own(inputs, targets)
                with device.autocast():
                    student = call(network, own, recipe.loss.task)
                    with torch.no_grad():
                        target = None if teacher is None else call(teacher, own, recipe.loss.task)
                counted = counted_positions(network.graph.module, inputs)
                loss = recipe.loss.counting(counted)(spread.whole(student), spread.whole(target), targets)
                if not loss.requires_grad:
                    raise TrainingError(
                        "nothing can be trained: no gradient reaches a parameter, because the network runs under "
                        "torch.no_grad or all of its parameters are frozen. Lift that, or quantize with post_training."
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                spread.add_gradients_()
                norm = clip_and_scale_(parameters, factors, recipe.clip_norm)
                if not check_finite(loss) or not check_finite(norm):
                    raise DivergedError(
                        f"training diverged at step {step}: loss {loss.item():.3g}, gradient {float(norm):.3g}. "
                        f"Lower the learning rate (lr is {recipe.lr:g}; search cycles have cycle_lr) "
                        "or check the data for NaN and extreme values."
                    )
                optimizer.step()
                _keep_scales_positive_(network)
                losses.append(float(loss.detach()))
                examples += count
                if progress is not None:
                    progress(count, losses[-1])
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        network.eval()
    tail = losses[-max(1, len(losses) // 10) :]
    return TrainingReport(len(losses), examples, sum(tail) / max(1, len(tail)), time.perf_counter() - started)


@torch.no_grad()
def _keep_scales_positive_(network: QuantizedNetwork) -> None:
    # A step may carry a small scale across zero, where quantization is undefined.
    torch._foreach_clamp_min_([p.data for p in network.scales()], SCALE_FLOOR)
