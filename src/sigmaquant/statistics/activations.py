"""What each activation's grid does to the outputs, at every bitwidth, from one set of backward passes.

As for weights (`sigmaquant.statistics.fisher`), the divergence that a small change δ of an activation causes is
``1/2 E[(g · δ)²]``, with g the gradient of ``-ln p(label)`` for a label drawn from the network's own outputs. Here δ is
the rounding and clipping of the activation's own grid, so it differs from example to example, and all bitwidths come
from the same gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sigmaquant.errors import DataError
from sigmaquant.graph.regions import with_gradients_throughout
from sigmaquant.graph.specs import QuantGraph
from sigmaquant.numerics import activation_range, affine_from_range
from sigmaquant.quant import counted_positions, prepare
from sigmaquant.quant.modules import ActivationQuantizer
from sigmaquant.quant.observers import MseObserver, Observer
from sigmaquant.statistics.batches import Batch, Example, evaluation, float_outputs, read_batches
from sigmaquant.statistics.divergence import Sensitivity
from sigmaquant.statistics.fisher import scalars, with_factors
from sigmaquant.tasks import Task, as_task, counting


def activation_sensitivities(
    graph: QuantGraph,
    bitwidths: Sequence[int],
    batches: Iterable[Batch],
    *,
    seed: int = 0,
    draws: int = 2,
    micro_batch: int = 8,
    task: Task | None = None,
    observer: type[Observer] = MseObserver,
) -> Sensitivity:
    """Harm of quantizing each activation to each bitwidth, everything else in float.

    Two forward and `draws` backward passes. The network is left as it is.

    Args:
        graph: the network.
        bitwidths: each 2..8.
        batches: calibration data, read once and kept.
        seed: of the random signs.
        draws: random signs (backward passes) per micro-batch.
        micro_batch: examples per backward pass; fewer need less memory, and the estimate is as precise.
        task: which outputs count and how they are compared, see `sigmaquant.statistics.fisher.fisher_sensitivities`.
        observer: decides the ranges.

    Returns:
        By activation name and bitwidth; 0 where an activation does not reach the output.

    Raises:
        DataError: no batches or unusable ones; NaN or infinite values.
        PlanError: a bitwidth outside 2..8.
    """
    if draws < 1 or micro_batch < 1:
        raise DataError(f"draws ({draws}) and micro_batch ({micro_batch}) must be at least 1.")
    task = task or as_task()
    twin = prepare(graph)
    twin.to(next(graph.module.parameters()).device)
    module = with_gradients_throughout(twin.body)
    quantizers = twin.activation_quantizers
    examples = list(read_batches(graph, batches))
    table: Sensitivity = {name: dict.fromkeys(bitwidths, 0.0) for name in quantizers}
    generator = torch.Generator().manual_seed(seed)
    norm = 0.0
    with evaluation(twin):
        grids = _grids(graph, twin, module, quantizers, examples, bitwidths, observer)
        kept: dict[str, Tensor] = {}
        hooks = [q.register_forward_hook(_keeper(kept, name)) for name, q in quantizers.items()]
        try:
            _, factors = with_factors(graph, module, iter(examples), task, None)
            with torch.enable_grad():
                for batch in examples:
                    for example in batch.split(micro_batch):
                        kept.clear()
                        result = float_outputs(module(*example.inputs), task)
                        own = counting(task, counted_positions(graph.module, example.inputs))
                        samples, weight = scalars(result, example, None, own, factors, draws, generator)
                        norm += weight
                        for index, sample in enumerate(samples):
                            more = index + 1 < draws
                            gradients = torch.autograd.grad(
                                sample, list(kept.values()), retain_graph=more, allow_unused=True
                            )
                            for (name, x), gradient in zip(kept.items(), gradients, strict=True):
                                if gradient is not None:
                                    _add(table[name], x.detach(), gradient, grids[name], example.size)
        finally:
            for hook in hooks:
                hook.remove()
    if factors is not None and any(factors):
        norm = 1.0
    if norm == 0:
        raise DataError("every output is zero, so a change relative to them has no meaning. Check the network.")
    return {name: {bits: value / (norm * draws) for bits, value in row.items()} for name, row in table.items()}


Grid = tuple[float, int]


def _keeper(kept: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A hook that keeps an activation such that gradients reach it."""

    def keep(module: nn.Module, inputs: Any, x: Tensor) -> Tensor:
        kept[name] = x if x.requires_grad else x.detach().requires_grad_()
        return kept[name]

    return keep


@torch.no_grad()
def _grids(
    graph: QuantGraph,
    twin: nn.Module,
    module: nn.Module,
    quantizers: Any,
    examples: Sequence[Example],
    bitwidths: Sequence[int],
    observer: type[Observer],
) -> dict[str, dict[int, Grid]]:
    """Each activation's grid at each bitwidth, from what flows through the float network."""
    watching: dict[str, Observer] = {name: observer() for name in quantizers}
    known = {spec.name: spec.known_range for spec in graph.activations}
    own: dict[str, ActivationQuantizer] = dict(quantizers)
    try:
        for name, quantizer in own.items():
            quantizer.observer = watching[name]
        for example in examples:
            module(*example.inputs)
    finally:
        for quantizer in own.values():
            quantizer.observer = None
    found: dict[str, dict[int, Grid]] = {}
    for name, watched in watching.items():
        given = known[name]
        found[name] = {
            bits: watched.affine(bits) if given is None else affine_from_range(*given, bits) for bits in bitwidths
        }
    return found


def _add(row: dict[int, float], x: Tensor, gradient: Tensor, grids: dict[int, Grid], count: int) -> None:
    """Add the squares of what each example's rounding does to the sample, or of a tensor without examples."""
    rows = count if len(x) % count == 0 else 1
    for bits, (scale, zero_point) in grids.items():
        low, high = activation_range(bits)
        error = torch.div(x, scale).round_().clamp_(low - zero_point, high - zero_point).mul_(scale).sub_(x)
        moved = error.mul_(gradient).reshape(rows, -1).sum(1, dtype=torch.float64)
        row[bits] += float(moved.square().sum())
