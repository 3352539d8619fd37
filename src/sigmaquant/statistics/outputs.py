"""Output sensitivity: how far the network's outputs move on calibration data when one layer alone is quantized."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from sigmaquant.errors import DataError
from sigmaquant.graph.layers import QuantGraph
from sigmaquant.outputs import OutputKind, are_logits
from sigmaquant.statistics.batches import (
    Batch,
    evaluation,
    float_output,
    output_tensor,
    read_batches,
)
from sigmaquant.statistics.divergence import Sensitivity
from sigmaquant.statistics.quantized import QuantizedWeights
from sigmaquant.statistics.replay import LayerPlace, Sweep


def output_sensitivity(
    graph: QuantGraph,
    bitwidths: Sequence[int],
    batches: Iterable[Batch],
    *,
    outputs: OutputKind = "auto",
    midrise_up_to: int = 0,
) -> Sensitivity:
    """Distance between the float network's outputs and those with one layer's weight quantized at MSE scales.

    Class logits [N, C]: mean over the examples of ``KL(softmax(float) || softmax(quantized))``, in nats. Any other
    shape: the squared change of the outputs divided by their squared sum, ``sum (q - f)² / sum f²`` over all examples
    (dimensionless). For each batch, layer and bitwidth only the nodes downstream of the layer run again.

    Args:
        graph: the network; it runs in evaluation mode and is left as it was.
        bitwidths: each 2..8.
        midrise_up_to: weights of at most so many bits lie on a mid-rise grid.
        batches: calibration data; targets are not used.
        outputs: ``"logits"``, ``"values"``, or ``"auto"``, which takes [N, C > 1] for logits.

    Raises:
        DataError: no batches, or unusable ones; outputs that are not one floating-point tensor, or that contain NaN.
        ModelError: a weight contains NaN or infinity.
        PlanError: a bitwidth outside 2..8.
    """
    quantized = QuantizedWeights(graph, bitwidths, midrise_up_to)
    places = {spec.name: LayerPlace(graph, spec.name) for spec in graph.layers}
    # A sweep cannot go back; the result keeps the graph's order of layers.
    order = sorted(places, key=lambda name: places[name].first)
    table: Sensitivity = {name: dict.fromkeys(bitwidths, 0.0) for name in places}
    norm = 0.0
    with evaluation(graph.module), torch.no_grad():
        for batch in read_batches(graph, batches):
            sweep = Sweep(graph.module, batch.inputs)
            reference = float_output(sweep.reference)
            logits = are_logits(reference, outputs)
            norm += len(reference) if logits else float(reference.double().square().sum())
            distance = _divergence if logits else _squared_change
            for name in order:
                for bits in bitwidths:
                    changed = output_tensor(sweep.replay(places[name], quantized.weight(name, bits)))
                    table[name][bits] += distance(reference, changed)
    if norm == 0:
        raise DataError("every output is zero, so a change relative to them has no meaning. Check the network.")
    return {name: {bits: total / norm for bits, total in row.items()} for name, row in table.items()}


def _divergence(reference: Tensor, changed: Tensor) -> float:
    """Sum over the examples of KL(softmax(reference) || softmax(changed)), in nats."""
    p, q = reference.double().log_softmax(1), changed.double().log_softmax(1)
    return float((p.exp() * (p - q)).sum().clamp_min(0))


def _squared_change(reference: Tensor, changed: Tensor) -> float:
    return float((changed.double() - reference.double()).square().sum())
