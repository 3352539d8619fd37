"""Running a network over data, and scoring it by its task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sigmaquant.data.batch import describe_inputs
from sigmaquant.errors import DataError
from sigmaquant.parallel import gathered, mine, same_everywhere, world_size
from sigmaquant.tasks import Outputs, Task, as_float32, check_examples, joined, map_outputs, score
from sigmaquant.training.devices import Device


def call(network: nn.Module, inputs: Any, task: Task) -> Outputs:
    """What counts of one forward pass on a tensor or a tuple of tensors.

    Raises:
        DataError: the network cannot run on them, or gives nothing that can be scored.
    """
    given = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    try:
        output = network(*given)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise DataError(
            f"the network cannot run on a batch of {describe_inputs(given)}: {type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}. Give examples of the shape and type of the training data's first."
        ) from error
    return check_examples(task.outputs(output))


@torch.inference_mode()
def outputs_of(
    network: nn.Module, batches: Iterable[tuple[Any, Tensor]], task: Task, device: Device
) -> tuple[Outputs, Tensor]:
    """All outputs that count and all targets of a data set, on the CPU, in evaluation mode and float32.

    Raises:
        DataError: no batches, or batches that do not fit together.
    """
    training = network.training
    network.eval()
    outputs, targets, read = [], [], 0
    try:
        with device.random_state(0):
            for number, (inputs, target) in enumerate(batches):
                read = number + 1
                if not mine(number):
                    continue
                found = as_float32(call(network, device.put(inputs), task))
                outputs.append(map_outputs(lambda x: x.cpu(), found))
                targets.append(torch.as_tensor(target).cpu())
    finally:
        network.train(training)
    if world_size() > 1:
        same_everywhere(read, "numbers of evaluation batches")
        outputs, targets = _in_order(gathered((outputs, targets)), read)
    if not outputs:
        raise DataError("the evaluation data are empty.")
    return joined(outputs, "outputs"), joined(targets, "targets")


def _in_order(found: list[tuple[list[Outputs], list[Tensor]]], count: int) -> tuple[list[Outputs], list[Tensor]]:
    """Of all processes' outputs and targets those of each batch, in the batches' order."""
    places = [divmod(number, len(found)) for number in range(count)]
    return [found[who][0][at] for at, who in places], [found[who][1][at] for at, who in places]


def scored(task: Task, outputs: Outputs, targets: Tensor) -> float:
    """The task's metric as one finite number.

    Raises:
        MetricError: the metric raised, or returned something else.
    """
    return score(task.metric, outputs, targets, task.metric_name)


def evaluate(network: nn.Module, batches: Iterable[tuple[Any, Any]], task: Task, device: Device) -> float:
    """The metric of a network on data.

    Raises:
        DataError, MetricError: see `outputs_of` and `scored`.
    """
    return scored(task, *outputs_of(network, batches, task, device))
