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

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from sigmaquant.errors import DataError
from sigmaquant.graph.layers import QuantGraph
from sigmaquant.graph.regions import with_gradients_throughout
from sigmaquant.outputs import OutputKind, are_logits
from sigmaquant.statistics.batches import (
    Batch,
    Example,
    evaluation,
    float_output,
    read_batches,
)
from sigmaquant.statistics.divergence import Sensitivity
from sigmaquant.statistics.quantized import QuantizedWeights

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
    outputs: OutputKind = "auto",
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
        loss: for outputs that are neither class logits nor values of equal weight.
        outputs: ``"logits"`` [N, C] (nats); ``"values"``, where the unit is the expected squared change of the outputs
            relative to their squared sum, as in `outputs.output_sensitivity`; ``"auto"`` takes [N, C > 1] for
            logits. Has no effect with `loss`.
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
    generator = torch.Generator().manual_seed(seed)
    # Leaves that share the parameters' memory: frozen parameters get gradients too, and none is left on the user's.
    leaves = {spec.name: graph.weight(spec.name).detach().requires_grad_() for spec in graph.layers}
    named = {f"{name}.weight": leaf for name, leaf in leaves.items()}
    diagonal: Sensitivity = {name: dict.fromkeys(bitwidths, 0.0) for name in leaves}
    projected: Sensitivity = {name: dict.fromkeys(bitwidths, 0.0) for name in leaves}
    norm = 0.0
    module = with_gradients_throughout(graph.module)
    with evaluation(module), torch.enable_grad():
        for batch in read_batches(graph, batches):
            for example in batch.split(micro_batch):
                result = float_output(functional_call(module, named, example.inputs))
                samples, weight = _scalars(result, example, loss, outputs, draws, generator)
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
    if norm == 0:
        raise DataError("every output is zero, so a change relative to them has no meaning. Check the network.")
    for table in (diagonal, projected):
        for row in table.values():
            for bits in row:
                row[bits] /= norm * draws
    return FisherSensitivities(diagonal, projected)


def _scalars(
    result: Tensor, example: Example, loss: Loss | None, kind: OutputKind, draws: int, generator: torch.Generator
) -> tuple[list[Tensor], float]:
    """`draws` scalars whose squared gradients estimate a sum over the examples, and that sum's normaliser.

    The square of a micro-batch's summed gradient is the sum of the examples' squares plus cross terms; the cross terms
    vanish in expectation because every example gets its own random signs, so that its gradient has mean zero and is
    independent of the others.
    """
    count = len(result)
    if loss is not None:
        values = loss(result, example.targets)
        if values.shape != (count,):
            raise DataError(
                f"the loss returned shape {tuple(values.shape)} for {count} examples; it must return one value per "
                "example (for PyTorch's losses: reduction='none', then a mean over all but the first dimension)."
            )
        return [(sign * values).sum() for sign in _signs((draws, count), values, generator)], 2.0 * count
    signs = _signs((draws, *result.shape), result, generator)
    if are_logits(result, kind):
        return [score(result, sign) for sign in signs], 2.0 * count
    # Gaussian outputs of equal variance: the Fisher information is JᵀJ, and random signs s give E[(Jᵀs)(Jᵀs)ᵀ] = JᵀJ.
    return [(result * sign).sum() for sign in signs], float(result.detach().double().square().sum())


def score(logits: Tensor, signs: Tensor) -> Tensor:
    """A scalar whose gradient has mean zero over random signs, and each example's Fisher information as covariance.

    With p the probabilities (constants) it is ``sum s_c sqrt(p_c) ln p_c``, whose gradient with respect to the logits
    is ``(diag(sqrt p) - p sqrt(p)ᵀ) s``; its covariance is ``diag(p) - p pᵀ``, that of ``-ln p(label)`` for a sampled
    label. The expectation is the same, the variance far smaller: of a confident network's sampled labels only the
    rare wrong ones have a gradient to speak of, and these few decide the estimate.

    Args:
        logits: [N, C].
        signs: [N, C], 1 or -1.
    """
    logs = logits.float().log_softmax(1)
    return (signs * (logs.detach() / 2).exp() * logs).sum()


def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    # Drawn on the processor, so that a seed means the same on every device.
    return torch.randint(0, 2, shape, generator=generator).to(like) * 2 - 1
