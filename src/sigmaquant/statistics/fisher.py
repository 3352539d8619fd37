"""Two second-order sensitivities of every layer at every bitwidth, from one set of backward passes.

The divergence of the network's output distribution that a small weight change δ causes is ``1/2 δᵀ F δ``, F being the
Fisher information ``E[g gᵀ]`` with g the gradient of ``-ln p(label)`` for a label drawn from the network's own output
distribution (not the data's: Kunstner et al., NeurIPS 2019). Per layer and bitwidth, δ is the error at MSE scales:

``fisher``
    ``1/2 sum_j F_jj δ_j²``: the diagonal only (Kirkpatrick et al., PNAS 114, 2017).
``curvature``
    ``1/2 E[(g · δ)²] = 1/2 δᵀ F δ``: the same, with everything that the layer's weights do together.

Both are sums over a layer, in nats per example, and have the right expectation; the first also averages over weights
and needs fewer examples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sigmaquant.errors import DataError
from sigmaquant.graph.regions import with_gradients_throughout
from sigmaquant.graph.specs import QuantGraph
from sigmaquant.parallel import gathered, mine, world_size
from sigmaquant.quant import counted_positions
from sigmaquant.statistics.batches import Batch, Example, evaluation, float_outputs, read_batches
from sigmaquant.statistics.divergence import Sensitivity
from sigmaquant.statistics.quantized import QuantizedWeights
from sigmaquant.tasks import Outputs, Part, Task, as_task, counting, leaves, map_outputs, parts_of
from sigmaquant.tasks.parts import curvature_signed

Loss = Callable[[Tensor, Any], Tensor]
"""``loss(outputs, targets)``: one value per example, [N]; a negative log-likelihood gives nats."""


@dataclass(frozen=True)
class FisherSensitivities:
    """Both sensitivities of one run.

    Attributes:
        fisher: with the diagonal of each layer's Fisher information.
        curvature: with all of each layer's Fisher information.
    """

    fisher: Sensitivity
    curvature: Sensitivity


def fisher_sensitivities(
    graph: QuantGraph,
    bitwidths: Sequence[int],
    batches: Iterable[Batch],
    *,
    seed: int = 0,
    draws: int = 2,
    micro_batch: int = 8,
    loss: Loss | None = None,
    task: Task | None = None,
    midrise_up_to: int = 0,
    quantized: QuantizedWeights | None = None,
) -> FisherSensitivities:
    """Second-order sensitivities for all layers and all bitwidths at once.

    One forward and `draws` backward passes per micro-batch, in evaluation mode. The network's parameters, their
    ``.grad`` and every module's mode are left as they were. Beyond the network, memory holds one gradient of the
    weights and a micro-batch's activations.

    Args:
        graph: the network.
        bitwidths: each 2..8.
        midrise_up_to: weights of at most so many bits lie on a mid-rise grid.
        batches: calibration data; targets are needed only with `loss`.
        seed: of the random signs.
        draws: random signs (backward passes) per micro-batch.
        micro_batch: examples per backward pass; fewer give more, smaller samples, and a more precise `curvature`.
        loss: takes what counts of the outputs, for what is neither class logits nor values of equal weight.
        task: which outputs count and how they are compared: logits (nats), or values, where the unit is the expected
            squared change of the outputs relative to their squared sum, as in `outputs.output_sensitivity`; of several
            outputs the weighted sum; or a distance of the task's own, by its second derivative. None: one output,
            [N, C > 1] being logits. Only its choice of outputs has an effect with `loss`.
        quantized: the graph's weights at these bitwidths, where they are known already.

    Raises:
        DataError: no batches, unusable ones, or a loss that does not return one value per example.
        ModelError: a weight contains NaN or infinity.
        PlanError: a bitwidth outside 2..8.
    """
    if draws < 1 or micro_batch < 1:
        raise DataError(f"draws ({draws}) and micro_batch ({micro_batch}) must be at least 1.")
    if quantized is None:
        quantized = QuantizedWeights(graph, bitwidths, midrise_up_to)
    task = task or as_task()
    generator = torch.Generator().manual_seed(seed)
    # Leaves that share the parameters' memory: frozen parameters get gradients too, and none is left on the user's.
    leaves = {spec.name: graph.weight(spec.name).detach().requires_grad_() for spec in graph.layers}
    named = {f"{name}.weight": leaf for name, leaf in leaves.items()}
    diagonal: Sensitivity = {name: dict.fromkeys(bitwidths, 0.0) for name in leaves}
    projected: Sensitivity = {name: dict.fromkeys(bitwidths, 0.0) for name in leaves}
    norm, number = 0.0, 0
    shapes: dict[tuple[torch.Size, ...], list[torch.Size]] = {}
    module = with_gradients_throughout(graph.module)
    with evaluation(module), torch.enable_grad():
        read, factors = with_factors(graph, module, read_batches(graph, batches), task, loss)
        for batch in read:
            for example in batch.split(micro_batch):
                number += 1
                if not mine(number - 1):
                    _skip_signs(shapes, module, example, loss, task, draws, generator)
                    continue
                result = float_outputs(functional_call(module, named, example.inputs), task)
                own = counting(task, counted_positions(graph.module, example.inputs))
                samples, weight = scalars(result, example, loss, own, factors, draws, generator)
                norm += weight
                for index, sample in enumerate(samples):
                    gradients: Sequence[Tensor | None] = torch.autograd.grad(
                        sample, list(leaves.values()), retain_graph=index + 1 < draws, allow_unused=True
                    )
                    for name, gradient in zip(leaves, gradients, strict=True):
                        if gradient is None:  # the layer does not reach the output
                            continue
                        # One product serves both: its sum is the projection, its squares are the diagonal's terms.
                        product = quantized.errors(name) * gradient.reshape(-1).float()
                        sums = product.sum(1, dtype=torch.float64).square_().tolist()
                        squares = torch.linalg.vector_norm(product, dim=1).square_().tolist()
                        for bits, total, square in zip(bitwidths, sums, squares, strict=True):
                            projected[name][bits] += total
                            diagonal[name][bits] += square
    norm = _added([diagonal, projected], norm)
    if factors is not None and any(factors):
        norm = 1.0
    if norm == 0:
        raise DataError("every output is zero, so a change relative to them has no meaning. Check the network.")
    for table in (diagonal, projected):
        for row in table.values():
            for bits in row:
                row[bits] /= norm * draws
    return FisherSensitivities(diagonal, projected)


def with_factors(
    graph: QuantGraph, module: nn.Module, batches: Iterator[Example], task: Task, loss: Loss | None
) -> tuple[Iterable[Example], Sequence[float] | None]:
    """The batches, and where several outputs are added up, the factor of each: their norms have to be known before."""
    if loss is not None or task.own_distance:
        return batches, None
    first = next(batches)  # there is one, else it raises
    kept = [first]
    with torch.no_grad():
        parts, norms = _norms(graph, module, first, task)
        if len(parts) == 1:
            return itertools.chain(kept, batches), None
        for batch in batches:
            kept.append(batch)
            norms = [x + y for x, y in zip(norms, _norms(graph, module, batch, task)[1], strict=True)]
    return kept, [
        math.sqrt(part.weight / (part.halves * norm)) if norm else 0.0 for part, norm in zip(parts, norms, strict=True)
    ]


def _norms(graph: QuantGraph, module: nn.Module, batch: Example, task: Task) -> tuple[Sequence[Part], list[float]]:
    reference = float_outputs(module(*batch.inputs), task)
    parts = parts_of(counting(task, counted_positions(graph.module, batch.inputs)), reference)
    return parts, [part.norm(x) for part, x in zip(parts, leaves(reference), strict=True)]


def scalars(
    outputs: Outputs,
    example: Example,
    loss: Loss | None,
    task: Task,
    factors: Sequence[float] | None,
    draws: int,
    generator: torch.Generator,
) -> tuple[list[Tensor], float]:
    """`draws` scalars whose squared gradients estimate a sum over the examples, and that sum's normaliser.

    The square of a micro-batch's summed gradient is the sum of the examples' squares plus cross terms; the cross terms
    vanish in expectation because every example gets its own random signs, so that its gradient has mean zero and is
    independent of the others.
    """
    tensors = leaves(outputs)
    count = len(tensors[0])
    if loss is not None:
        values = loss(outputs, example.targets)
        if values.shape != (count,):
            raise DataError(
                f"the loss returned shape {tuple(values.shape)} for {count} examples; it must return one value per "
                "example (for PyTorch's losses: reduction='none', then a mean over all but the first dimension)."
            )
        return [(sign * values).sum() for sign in _signs((draws, count), values, generator)], 2.0 * count
    signs = [_signs((draws, *x.shape), x, generator) for x in tensors]
    if task.own_distance:
        return [_of_distance(task, outputs, [s[draw] for s in signs]) for draw in range(draws)], 2.0 * count
    parts = parts_of(task, outputs)
    if factors is None:  # a single output
        (part,), (x,), (own,) = parts, tensors, signs
        return [part.signed(x, sign) for sign in own], part.halves * part.norm(x)
    found = []
    for draw in range(draws):
        terms = zip(parts, tensors, signs, factors, strict=True)
        found.append(torch.stack([f * part.signed(x, s[draw]) for part, x, s, f in terms]).sum())
    return found, 0.0  # the factors are the normaliser


def _of_distance(task: Task, outputs: Outputs, signs: Sequence[Tensor]) -> Tensor:
    """A scalar as `Part.signed`, by the second derivative of the task's own distance.

    Raises:
        DataError: it has none.
    """
    reference = map_outputs(Tensor.detach, outputs)
    found = map_outputs(lambda x: x.clone().requires_grad_(), reference)
    distances = task.distance(found, reference)
    total: Tensor | None = None
    for x, leaf, sign in zip(leaves(outputs), leaves(found), signs, strict=True):
        try:
            factor = curvature_signed(distances, leaf, sign)
        except RuntimeError as error:
            raise DataError(
                f"the distance of the task {task.name!r} has no second derivative, by which the sensitivities "
                f"'curvature' and 'fisher' go ({str(error).partition(chr(10))[0]}). Choose the sensitivity 'output_kl'."
            ) from error
        if not bool(torch.isfinite(factor).all()):
            raise DataError(
                f"the second derivative of the distance of the task {task.name!r} is not finite where the outputs are "
                "equal. Choose the sensitivity 'output_kl', which needs none."
            )
        term = (x * factor).sum()
        total = term if total is None else total + term
    assert total is not None, "there are outputs"
    return total


def _skip_signs(
    shapes: dict[tuple[torch.Size, ...], list[torch.Size]],
    module: nn.Module,
    example: Example,
    loss: Loss | None,
    task: Task,
    draws: int,
    generator: torch.Generator,
) -> None:
    """Draw what another process draws for its micro-batch: all have the same random signs, however many they are.

    Args:
        shapes: of the outputs of one example, by those of its inputs; one forward pass tells them.
    """
    count = example.size
    if loss is not None:
        _drawn((draws, count), generator)
        return
    key = tuple(x.shape[1:] for x in example.inputs)
    if key not in shapes:
        with torch.no_grad():
            shapes[key] = [x.shape[1:] for x in leaves(float_outputs(module(*example.inputs), task))]
    for shape in shapes[key]:
        _drawn((draws, count, *shape), generator)


def _added(tables: Sequence[Sensitivity], norm: float) -> float:
    """Add up what all processes have found, in place; returns the sum of the normalisers."""
    if world_size() == 1:
        return norm
    found = gathered((tables, norm))
    for number, table in enumerate(tables):
        for name, row in table.items():
            for bits in row:
                row[bits] = sum(other[number][name][bits] for other, _ in found)
    return float(sum(other for _, other in found))


def _drawn(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator)


def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    # Drawn on the processor, so that a seed means the same on every device.
    return _drawn(shape, generator).to(like) * 2 - 1
