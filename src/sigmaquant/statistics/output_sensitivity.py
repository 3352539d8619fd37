"""Output sensitivity: how far the network's outputs move on calibration data when one layer alone is quantized."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from sigmaquant.errors import DataError
from sigmaquant.graph.specs import QuantGraph
from sigmaquant.parallel import gathered, mine
from sigmaquant.quant import counted_positions
from sigmaquant.statistics.batches import Batch, counted_outputs, evaluation, float_outputs, read_batches
from sigmaquant.statistics.divergence import Sensitivity
from sigmaquant.statistics.quantized import QuantizedWeights
from sigmaquant.statistics.replay import LayerPlace, Sweep
from sigmaquant.tasks import Outputs, Task, as_task, counting, leaves, parts_of


def output_sensitivity(
    graph: QuantGraph,
    bitwidths: Sequence[int],
    batches: Iterable[Batch],
    *,
    task: Task | None = None,
    midrise_up_to: int = 0,
) -> Sensitivity:
    """Distance between the float network's outputs and those with one layer's weight quantized at MSE scales.

    Class logits [N, C]: mean over the examples of ``KL(softmax(float) || softmax(quantized))``, in nats. Any other
    shape: the squared change of the outputs divided by their squared sum, ``sum (q - f)² / sum f²`` over all examples
    (dimensionless). Of several outputs the weighted sum of these; of a task with a distance of its own, the mean of
    that. For each batch, layer and bitwidth only the nodes downstream of the layer run again.

    Args:
        graph: the network; it runs in evaluation mode and is left as it was.
        bitwidths: each 2..8.
        midrise_up_to: weights of at most so many bits lie on a mid-rise grid.
        batches: calibration data; targets are not used.
        task: which outputs count and how they are compared; None: one output, [N, C > 1] being logits.

    Raises:
        DataError: no batches, or unusable ones; outputs that are no floating-point tensors, or that contain NaN.
        ModelError: a weight contains NaN or infinity.
        PlanError: a bitwidth outside 2..8.
    """
    task = task or as_task()
    quantized = QuantizedWeights(graph, bitwidths, midrise_up_to)
    places = {spec.name: LayerPlace(graph, spec.name) for spec in graph.layers}
    # A sweep cannot go back; the result keeps the graph's order of layers.
    order = sorted(places, key=lambda name: places[name].first)
    table: dict[str, dict[int, list[float]]] = {name: {bits: [] for bits in bitwidths} for name in places}
    norms: list[float] = []
    weights: list[float] = []
    with evaluation(graph.module), torch.no_grad():
        for number, batch in enumerate(read_batches(graph, batches)):
            if not mine(number):
                continue
            sweep = Sweep(graph.module, batch.inputs)
            reference = float_outputs(sweep.reference, task)
            own = counting(task, counted_positions(graph.module, batch.inputs))
            norms = _added(norms, _norms(own, reference))
            weights = [1.0] if task.own_distance else [part.weight for part in parts_of(task, reference)]
            for name in order:
                for bits in bitwidths:
                    returned = sweep.replay(places[name], quantized.weight(name, bits))
                    changes = _changes(own, counted_outputs(returned, task), reference)
                    table[name][bits] = _added(table[name][bits], changes)
    found = gathered((table, norms, weights))
    weights = found[0][2]  # the first process has the first batch
    norms = _sum(norms for _, norms, _ in found)
    table = {
        name: {bits: _sum(other[name][bits] for other, _, _ in found) for bits in row} for name, row in table.items()
    }
    if not any(norms):
        raise DataError("every output is zero, so a change relative to them has no meaning. Check the network.")

    def harm(changes: list[float]) -> float:
        return sum(w * x / norm for x, norm, w in zip(changes, norms, weights, strict=True) if norm)

    return {name: {bits: harm(changes) for bits, changes in row.items()} for name, row in table.items()}


def _changes(task: Task, outputs: Outputs, reference: Outputs) -> list[float]:
    """What has changed, for each output, summed over the examples."""
    if task.own_distance:
        return [float(task.distance(outputs, reference).double().sum())]
    found = zip(parts_of(task, reference), leaves(outputs), leaves(reference), strict=True)
    return [part.change(one, other) for part, one, other in found]


def _norms(task: Task, reference: Outputs) -> list[float]:
    """What the changes are relative to."""
    tensors = leaves(reference)
    if task.own_distance:
        return [float(len(tensors[0]))]
    return [part.norm(x) for part, x in zip(parts_of(task, reference), tensors, strict=True)]


def _sum(rows: Iterable[list[float]]) -> list[float]:
    total: list[float] = []
    for row in rows:
        total = _added(total, row) if row else total
    return total


def _added(one: list[float], other: list[float]) -> list[float]:
    return [x + y for x, y in zip(one, other, strict=True)] if one else other
