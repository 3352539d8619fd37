"""A task for a batch whose examples are padded: what stands at the padded positions does not count."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from sigmaquant.tasks.parts import Part
from sigmaquant.tasks.structure import Outputs, map_outputs
from sigmaquant.tasks.task import Task


def counting(task: Task, counted: Tensor | None) -> Task:
    """The task with a distance of the positions that count; its metric and loss see all outputs, as before.

    A distance of the task's own sees zeros at the others, in both networks.

    Args:
        task: as it is for examples without padding.
        counted: bool [N, length], of the examples that it will see; None: all count.
    """
    if counted is None:
        return task
    found = copy.copy(task)
    if task.own_distance:
        vars(found)["distance"] = partial(_distance, task, counted)
    else:
        vars(found)["parts"] = partial(_parts, task, counted)
    return found


def _parts(task: Task, counted: Tensor, outputs: Outputs) -> Sequence[Part]:
    return tuple(replace(part, counted=counted) for part in task.parts(outputs))


def _distance(task: Task, counted: Tensor, outputs: Outputs, reference: Outputs, temperature: float = 1.0) -> Tensor:
    one, other = (map_outputs(partial(kept, counted), values) for values in (outputs, reference))
    return task.distance(one, other, temperature)


def kept(counted: Tensor, outputs: Tensor) -> Tensor:
    """Values [N, ...] with zeros at the positions that do not count, along the first axis that is as long."""
    for axis in range(1, outputs.dim()):
        if outputs.shape[axis] == counted.shape[1]:
            shape = [len(outputs), *[1] * (outputs.dim() - 1)]
            shape[axis] = counted.shape[1]
            return outputs * counted.to(outputs.device).view(shape)
    return outputs
