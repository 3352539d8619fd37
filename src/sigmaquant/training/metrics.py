"""Metrics: a callable on all outputs and all targets, higher is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sigmaquant.data.batch import describe_inputs
from sigmaquant.errors import DataError, MetricError, SigmaQuantError, near_matches
from sigmaquant.outputs import scored_tensor
from sigmaquant.training.devices import Device

Metric = Callable[[Tensor, Tensor], float]
"""(outputs [N, ...], targets [N, ...]) of a whole data set, on the CPU -> one number, higher is better."""


def top1(outputs: Tensor, targets: Tensor) -> float:
    """Share of examples whose largest output is the target class.

    Args:
        outputs: [N, C].
        targets: [N] integer classes.

    Raises:
        MetricError: other shapes, or a target that is none of the C classes.

    Example:
        >>> top1(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
        0.5
    """
    if outputs.dim() != 2 or targets.shape != outputs.shape[:1]:
        raise MetricError(
            f"top1 needs outputs [N, C] and targets [N], got {tuple(outputs.shape)} and {tuple(targets.shape)}. "
            "Pass your own metric=callable(outputs, targets) -> float."
        )
    if targets.is_floating_point() and not bool(torch.equal(targets, targets.round())):
        raise MetricError(
            "top1 needs integer classes as targets, and found other numbers among them. Pass a metric of yours for a "
            "network of values: metric=callable(outputs, targets) -> float, higher is better."
        )
    low, high, classes = targets.min().item(), targets.max().item(), outputs.shape[1]
    if low < 0 or high >= classes:
        raise MetricError(
            f"top1 found the target {low if low < 0 else high}, but the network has {classes} outputs, classes 0 to "
            f"{classes - 1}. Number the classes from 0, or pass a metric of yours."
        )
    return float((outputs.argmax(1) == targets).double().mean())


def call(network: nn.Module, inputs: Any) -> Tensor:
    """One forward pass on a tensor or a tuple of tensors.

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
    return scored_tensor(output)


@torch.inference_mode()
def outputs_of(network: nn.Module, batches: Iterable[tuple[Any, Tensor]], device: Device) -> tuple[Tensor, Tensor]:
    """All outputs and targets of a data set, on the CPU, in evaluation mode and float32.

    Raises:
        DataError: no batches, or batches that do not fit together.
    """
    training = network.training
    network.eval()
    outputs, targets = [], []
    try:
        with device.random_state(0):
            for inputs, target in batches:
                outputs.append(call(network, device.put(inputs)).float().cpu())
                targets.append(torch.as_tensor(target).cpu())
    finally:
        network.train(training)
    if not outputs:
        raise DataError("the evaluation data are empty.")
    return _joined(outputs, "outputs"), _joined(targets, "targets")


def _joined(parts: list[Tensor], what: str) -> Tensor:
    """One tensor of all batches'.

    Raises:
        DataError: their shapes differ beyond the number of examples.
    """
    shapes = dict.fromkeys(tuple(part.shape[1:]) for part in parts)
    if len(shapes) > 1:
        first, other = list(shapes)[:2]
        raise DataError(
            f"the {what} of an example have the shape {first} in one batch and {other} in another, and a metric sees "
            "those of all examples at once. Give examples of one shape."
        )
    return torch.cat(parts)


def score(metric: Metric, outputs: Tensor, targets: Tensor) -> float:
    """The metric as one finite float.

    Raises:
        MetricError: the metric raised, or returned something else.
    """
    try:
        value: Any = metric(outputs, targets)
    except MetricError:
        raise
    except (Exception, SystemExit) as error:  # what ends the program would say that the run has ended well
        raise MetricError(
            f"the metric {metric_name(metric)!r} failed on outputs {tuple(outputs.shape)} and targets "
            f"{tuple(targets.shape)}: {type(error).__name__}: {error}"
        ) from error
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor of several elements
        raise MetricError(
            f"the metric must return one number, it returned {type(value).__name__} {str(value)[:60]!r}."
        ) from None
    if not math.isfinite(number):
        raise MetricError(f"the metric returned {number}; it must be finite. Check it for a division by zero.")
    return number


def evaluate(network: nn.Module, batches: Iterable[tuple[Any, Any]], metric: Metric, device: Device) -> float:
    """The metric of a network on data.

    Raises:
        DataError, MetricError: see `outputs_of` and `score`.
    """
    return score(metric, *outputs_of(network, batches, device))


METRICS: dict[str, Metric] = {"top1": top1}
"""Metrics by name."""


def metric_name(metric: Metric | str) -> str:
    """What a metric is called in files and tables."""
    return metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)


def find_metric(metric: Metric | str) -> Metric:
    """The metric itself, or the one of that name.

    Raises:
        SigmaQuantError: no such metric, or neither a name nor a callable.
    """
    if callable(metric):
        return metric
    if not isinstance(metric, str):
        raise SigmaQuantError(
            f"the metric is a {type(metric).__name__}. Pass a name, {', '.join(METRICS)}, or a "
            "callable(outputs, targets)."
        )
    if metric not in METRICS:
        raise SigmaQuantError(f"there is no metric {metric!r}. {near_matches(metric, METRICS)} Or pass a callable.")
    return METRICS[metric]
