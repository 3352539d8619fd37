"""Calibration batches, the network's output tensor, and evaluation mode: for the sensitivities that need data.

A batch is a tensor (the network's only input), or a pair ``(inputs, targets)`` as data loaders give it, where `inputs`
is a tensor or, for a network with several inputs, a tuple or list of tensors. Every input has the batch dimension
first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

from sigmaquant.errors import DataError
from sigmaquant.graph.specs import QuantGraph
from sigmaquant.tasks import Outputs, Task, all_finite, check_examples, floating

Batch: TypeAlias = Tensor | tuple[Any, Any] | list[Any]


class Example(NamedTuple):
    """Inputs in the order of the graph's placeholders, and what came with them (None where nothing did)."""

    inputs: tuple[Tensor, ...]
    targets: Any

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.inputs[0])

    def split(self, size: int) -> Iterator[Example]:
        """Micro-batches of at most `size` examples; targets that are tensors are split along."""
        for start in range(0, self.size, size):
            part = slice(start, start + size)
            targets = self.targets[part] if isinstance(self.targets, Tensor) else self.targets
            yield Example(tuple(x[part] for x in self.inputs), targets)


def read_batches(graph: QuantGraph, batches: Iterable[Batch]) -> Iterator[Example]:
    """The batches, checked, on the device of the graph's weights.

    Raises:
        DataError: no batch at all, an empty batch, the wrong number of inputs, unequal batch dimensions, or NaN.
    """
    placeholders = sum(node.op == "placeholder" for node in graph.module.graph.nodes)
    device = next(graph.module.parameters()).device
    count = 0
    for count, batch in enumerate(batches, start=1):
        inputs, targets = _inputs_and_targets(batch)
        if len(inputs) != placeholders:
            raise DataError(
                f"batch {count} has {len(inputs)} input tensor(s), the network takes {placeholders}. A batch is a "
                "tensor or a pair (inputs, targets), inputs being a tensor or a tuple of tensors."
            )
        for x in inputs:
            if x.dim() == 0 or len(x) == 0:
                raise DataError(f"batch {count} is empty: an input has shape {tuple(x.shape)}.")
            if len(x) != len(inputs[0]):
                raise DataError(f"batch {count}: its inputs have {len(inputs[0])} and {len(x)} examples.")
            if x.is_floating_point() and not bool(x.isfinite().all()):
                raise DataError(f"batch {count} contains NaN or infinity. Check the preprocessing.")
        if isinstance(targets, Tensor):
            targets = targets.to(device)
        yield Example(tuple(x.to(device) for x in inputs), targets)
    if count == 0:
        raise DataError("there are no calibration batches. Give at least one; a loader can be read only once.")


def _inputs_and_targets(batch: Batch) -> tuple[tuple[Tensor, ...], Any]:
    inputs: Any = batch
    targets = None
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        inputs, targets = batch
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    if not isinstance(inputs, (tuple, list)) or not inputs or not all(isinstance(x, Tensor) for x in inputs):
        raise DataError(
            f"a batch of type {type(batch).__name__} cannot be read. A batch is a tensor or a pair (inputs, targets), "
            "inputs being a tensor or a tuple of tensors."
        )
    return tuple(inputs), targets


def counted_outputs(returned: Any, task: Task) -> Outputs:
    """What counts of the network's outputs.

    Raises:
        DataError: there is nothing, or it is not of a floating-point type.
    """
    return floating(task, check_examples(task.outputs(returned)))


def float_outputs(returned: Any, task: Task) -> Outputs:
    """What counts of the float network's outputs, checked.

    Raises:
        DataError: as `counted_outputs`, or NaN or infinity.
    """
    result = counted_outputs(returned, task)
    if not all_finite(result):
        raise DataError("the float network's outputs contain NaN or infinity. Check the model and the data.")
    return result


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode (running BatchNorm statistics, no dropout); afterwards every submodule is as it was."""
    training = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in training:
            part.training = mode
