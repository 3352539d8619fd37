"""Learning one block: its outputs from the quantized network's inputs are brought to the float network's.

The steps are Adam's (arXiv 1412.6980) on positions between codes, through the rounding as if it were not there, as in
SignRound (arXiv 2309.05516): a few hundred steps, each bounded, in place of the thousands of AdaRound's annealing. Adam
moves every weight as far, also one whose gradient is noise; here gradients that are small among those of their tensor
move theirs less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from sigmaquant.quant.network import QuantizedNetwork
from sigmaquant.reconstruction.blocks import Block, Values, run_block
from sigmaquant.reconstruction.parameters import learnable
from sigmaquant.tasks import Outputs, Task, as_float32, counting, mean_distance
from sigmaquant.tasks.counting import kept

_ATTEMPTS = ((1.0, 1.0), (0.25, 0.2))
"""Share of the steps, and twice the way, in steps of the grid, that a weight goes whose gradient is large and steady;
the second one where the first has not brought the block closer."""
_OTHER_RATE = 2e-3
_OTHER_TRAVEL = 0.5
"""Likewise of everything else, relative to its size: no scale comes near zero, however many steps there are."""
_BETAS = (0.9, 0.95)


COUNTED = "(counted)"
"""Where a batch's values tell which positions are no padding, [N, length]; no node has such a name."""


class Distance:
    """How far a block's outputs are from the float network's.

    Args:
        network: the quantized one.
        block: one of its blocks.
        task: its distance counts besides, behind the last block.
    """

    def __init__(self, network: QuantizedNetwork, block: Block, task: Task) -> None:
        self._block, self._task = block, task
        self._returned = network.body.graph.output_node().args[0]

    def __call__(self, found: Values, wanted: Values) -> Tensor:
        """Mean squared difference relative to what the wanted values vary by, and the task's distance at the end.

        Args:
            found: of the quantized network: what is known of it so far, and this block's outputs.
            wanted: the float network's.
        """
        total: Any = 0.0
        counted = wanted.get(COUNTED)
        for node in self._block.outputs:
            mine, theirs = found[node.name], wanted[node.name]
            if not isinstance(mine, Tensor) or not mine.is_floating_point():
                continue
            if counted is not None:
                mine, theirs = kept(counted, mine), kept(counted, theirs)
            spread = (theirs - theirs.mean(0)).square().mean()
            floor = 1e-12 * theirs.square().mean()
            total = total + (mine - theirs).square().mean() / (spread + floor).clamp_min(1e-30)
        if self._block.last:
            task = counting(self._task, counted)
            total = total + mean_distance(task, self._returned_by(found), self._returned_by(wanted))
        assert isinstance(total, Tensor), "a block has outputs that are numbers"
        return total

    def _returned_by(self, values: Values) -> Outputs:
        returned = fx.node.map_arg(self._returned, lambda node: values[node.name])
        return as_float32(self._task.outputs(returned))


def learn_(
    network: QuantizedNetwork,
    block: Block,
    distance: Distance,
    inputs: Sequence[Values],
    wanted: Sequence[Values],
    steps: int,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> tuple[float, float]:
    """Learn a block in place; where that has not brought it closer, it is as it was.

    Args:
        network: at its plan and calibrated, in evaluation mode.
        block: with layers.
        distance: of this block.
        inputs: the quantized network's values before the block, of every batch.
        wanted: the float network's values behind it, of the same batches.
        steps: one batch each, at rates that fall to zero.
        seed: of the batches' order.
        progress: called after every step with its distance.

    Returns:
        The mean distance over all batches before and after.
    """
    before = after = distance_of_all(network, block, distance, inputs, wanted)
    kept = {key: value.detach().clone() for key, value in network.state().items()}
    for share, travel in _ATTEMPTS:
        count = max(1, round(share * steps))
        _descend(network, block, distance, inputs, wanted, count, travel, seed, progress)
        after = distance_of_all(network, block, distance, inputs, wanted)
        if after < before:
            return before, after
        network.load_state_(kept)
    return before, before


def _descend(
    network: QuantizedNetwork,
    block: Block,
    distance: Distance,
    inputs: Sequence[Values],
    wanted: Sequence[Values],
    steps: int,
    travel: float,
    seed: int,
    progress: Callable[[float], None] | None,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    with learnable(network, block, _sizes(network, block, inputs[0])) as learned:
        groups = learned.groups(travel / steps, min(_OTHER_RATE, _OTHER_TRAVEL / steps))
        parameters = [parameter for group in groups for parameter in group["params"]]
        optimizer = torch.optim.Adam(groups, betas=_BETAS)
        rates = [group["lr"] for group in groups]
        for step in range(steps):
            order = order or torch.randperm(len(inputs), generator=generator).tolist()
            index = order.pop()
            loss = distance({**inputs[index], **run_block(block, network.body, inputs[index])}, wanted[index])
            if not bool(loss.isfinite()):
                return  # what was learned so far is measured afterwards
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (1 - step / steps)
                group["eps"] = _magnitude(optimizer, group["params"][0], step)
            optimizer.step()
            if progress is not None:
                progress(float(loss.detach()))


def _magnitude(optimizer: torch.optim.Optimizer, parameter: Tensor, step: int) -> float:
    """That of a tensor's gradients, as the optimizer has seen them: what it adds to each value's own."""
    state = optimizer.state.get(parameter)
    if state:
        square = state["exp_avg_sq"].mean() / (1 - _BETAS[1] ** step)
    elif parameter.grad is not None:
        square = parameter.grad.square().mean()
    else:
        return 1.0
    return max(math.sqrt(float(square)), 1e-30)


@torch.no_grad()
def distance_of_all(
    network: QuantizedNetwork, block: Block, distance: Distance, inputs: Sequence[Values], wanted: Sequence[Values]
) -> float:
    """Over all batches."""
    total = 0.0
    for known, target in zip(inputs, wanted, strict=True):
        total += float(distance({**known, **run_block(block, network.body, known)}, target))
    return total / len(inputs)


@torch.no_grad()
def _sizes(network: QuantizedNetwork, block: Block, known: Values) -> dict[str, float]:
    """Magnitude of the outputs of each module of a block."""
    sizes: dict[str, float] = {}

    def see(node: fx.Node, value: Any) -> None:
        if node.op == "call_module" and isinstance(value, Tensor) and value.is_floating_point():
            sizes[str(node.target)] = float(value.square().mean().sqrt())

    run_block(block, network.body, known, see=see)
    return sizes
