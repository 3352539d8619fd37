"""Metrics by name: a callable on all outputs and all targets, higher is better."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sigmaquant.errors import MetricError, SigmaQuantError, near_matches
from sigmaquant.tasks.structure import Outputs, describe

IGNORED = -100
"""Targets that count for nothing, as torch has them."""

Metric = Callable[[Any, Tensor], float]
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


def r2(outputs: Tensor, targets: Tensor) -> float:
    """Coefficient of determination: ``1 - sum (o - t)² / sum (t - mean)²``, over all values, the mean of each column.

    Example:
        >>> r2(torch.tensor([[1.0], [2.0], [3.5]]), torch.tensor([1.0, 2.0, 3.0]))
        0.875
    """
    outputs, targets = _values(outputs, targets, "r2")
    spread = (targets - targets.mean(0)).square().sum()
    if not float(spread) > 0:
        raise MetricError("r2 needs targets that differ from each other.")
    return float(1 - (outputs - targets).square().sum() / spread)


def negative_rmse(outputs: Tensor, targets: Tensor) -> float:
    """The root of the mean squared error, negative: higher is better."""
    outputs, targets = _values(outputs, targets, "negative_rmse")
    return -float((outputs - targets).square().mean().sqrt())


def negative_mae(outputs: Tensor, targets: Tensor) -> float:
    """The mean absolute error, negative: higher is better."""
    outputs, targets = _values(outputs, targets, "negative_mae")
    return -float((outputs - targets).abs().mean())


def _values(outputs: Tensor, targets: Tensor, name: str) -> tuple[Tensor, Tensor]:
    if outputs.numel() != targets.numel():
        raise MetricError(
            f"{name} needs a target for each output, got {tuple(outputs.shape)} and {tuple(targets.shape)}. Pass your "
            "own metric=callable(outputs, targets) -> float."
        )
    return outputs.double().reshape(len(outputs), -1), targets.double().reshape(len(outputs), -1)


def score(metric: Metric, outputs: Outputs, targets: Tensor, name: str | None = None) -> float:
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
            f"the metric {name or metric_name(metric)!r} failed on outputs {describe(outputs)} and targets "
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


METRICS: dict[str, Metric] = {"top1": top1, "r2": r2, "negative_rmse": negative_rmse, "negative_mae": negative_mae}
"""Metrics by name."""


def metric_name(metric: Callable[..., Any] | str) -> str:
    """What a metric, or another function, is called in files and tables."""
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
