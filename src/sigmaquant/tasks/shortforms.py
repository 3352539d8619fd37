"""Tasks of one output: a metric and a loss as functions, and what the output means."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from sigmaquant.errors import SigmaQuantError
from sigmaquant.outputs import OutputKind, are_logits, output_kind
from sigmaquant.tasks.losses import TaskLoss, cross_entropy
from sigmaquant.tasks.metrics import Metric, find_metric, metric_name, top1
from sigmaquant.tasks.parts import Part
from sigmaquant.tasks.structure import Outputs, leaves
from sigmaquant.tasks.task import Task


class OneOutput(Task):
    """One output, class logits [N, C] or values: what the arguments ``metric``, ``loss`` and ``outputs`` stand for.

    Args:
        metric: a name, or a callable ``(outputs, targets) -> float``, higher is better.
        loss: ``(outputs, targets) -> scalar``; None: cross-entropy.
        outputs: what the output means; ``"auto"``: logits where every example's target is a class, an integer.
        output: see `Task`.

    Raises:
        SigmaQuantError: no such metric, or a loss that cannot be called.
    """

    name = "one output"

    def __init__(
        self,
        metric: Metric | str = "top1",
        loss: TaskLoss | None = None,
        outputs: OutputKind = "auto",
        output: int | str | None = None,
    ) -> None:
        self._metric, self.kind = find_metric(metric), outputs
        self.metric_name = metric_name(metric)
        self._loss: TaskLoss | None = checked_loss(loss)
        self.output = output

    @property
    def share(self) -> bool:  # type: ignore[override]
        """Of top-1, and of no other: what a user's metric may be is not known."""
        return self._metric is top1

    def metric(self, outputs: Tensor, targets: Tensor) -> float:
        """The metric that was given."""
        return self._metric(outputs, targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """The loss that was given, or cross-entropy."""
        return cross_entropy(outputs, targets) if self._loss is None else self._loss(outputs, targets)

    @property
    def loss_name(self) -> str:
        """The function's name."""
        return "cross_entropy" if self._loss is None else metric_name(self._loss)

    def parts(self, outputs: Outputs) -> tuple[Part, ...]:
        """Logits or values, as far as it is known."""
        return tuple(Part("logits" if are_logits(x, self.kind) else "values") for x in leaves(outputs))

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Of top-1: whether an example is right."""
        return (outputs.argmax(1) == targets).double() if self._metric is top1 else None

    def seen(self, reference: Tensor, targets: Tensor) -> Task:
        """Logits or values, which the targets tell."""
        twin = copy.copy(self)
        twin.kind = output_kind(reference, targets, self.kind)
        return twin


class Classification(OneOutput):
    """A class for each example: logits [N, C], integer targets [N], top-1, cross-entropy, KL.

    Args:
        metric, loss, output: as for `OneOutput`.
    """

    name = "classification"

    def __init__(
        self, metric: Metric | str = "top1", loss: TaskLoss | None = None, output: int | str | None = None
    ) -> None:
        super().__init__(metric, loss, "logits", output)


class Regression(OneOutput):
    """Values to be hit: outputs and targets of one shape, R², squared error, squared distance.

    Args:
        metric: ``"r2"``, ``"negative_rmse"``, ``"negative_mae"`` or a callable.
        loss: None: the mean squared error.
        output: as for `OneOutput`.
    """

    name = "regression"

    def __init__(
        self, metric: Metric | str = "r2", loss: TaskLoss | None = None, output: int | str | None = None
    ) -> None:
        super().__init__(metric, loss, "values", output)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """The loss that was given, or the mean squared error."""
        if self._loss is not None:
            return super().loss(outputs, targets)
        return (outputs - targets.reshape(outputs.shape)).square().mean()

    @property
    def loss_name(self) -> str:
        """The function's name."""
        return "mean squared error" if self._loss is None else metric_name(self._loss)


def checked_loss(loss: Any) -> Any:
    """A loss that can be called, or None.

    Raises:
        SigmaQuantError: something else.
    """
    if loss is not None and not callable(loss):
        raise SigmaQuantError(f"the loss is a {type(loss).__name__}. Pass a callable(outputs, targets).")
    return loss


def with_functions(task: Task, metric: Metric | str | None, loss: TaskLoss | None) -> Task:
    """A copy of a task with another metric or loss; the metric's values need be no share then.

    Raises:
        SigmaQuantError: as for `OneOutput`.
    """
    twin = copy.copy(task)
    own: dict[str, Any] = vars(twin)
    if isinstance(task, OneOutput):
        if metric is not None:
            own |= {"_metric": find_metric(metric), "metric_name": metric_name(metric)}
        if loss is not None:
            own["_loss"] = checked_loss(loss)
        return twin
    if metric is not None:
        own |= {"metric": find_metric(metric), "metric_name": metric_name(metric), "share": metric == "top1"}
        own["each"] = _no_scores
    if loss is not None:
        own["loss"] = checked_loss(loss)
    return twin


def _no_scores(outputs: Outputs, targets: Tensor) -> None:
    """Of a metric that replaces the task's own, no scores of examples are known."""
