"""Losses of tasks, and what becomes of those that users write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from sigmaquant.errors import DataError, SigmaQuantError, TrainingError
from sigmaquant.tasks.metrics import IGNORED
from sigmaquant.tasks.structure import Outputs, describe, leaves
from sigmaquant.tasks.task import Task

TaskLoss = Callable[[Any, Tensor], Tensor]
"""outputs [N, ...], targets -> scalar."""


def task_loss(task: Task, outputs: Outputs, targets: Tensor) -> Tensor:
    """The task's loss of a batch.

    Raises:
        TrainingError: it fails, or gives no number that can be learned from.
        DataError: the task has none.
    """
    what = f"the loss {task.loss_name!r}"
    try:
        loss: Any = task.loss(outputs, targets)
    except SigmaQuantError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise TrainingError(
            f"{what} failed on outputs {describe(outputs)} and targets {tuple(targets.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if loss is None and not task.has_loss:
        raise DataError(f"the task {task.name!r} has no loss. Give it one, or distil only (distill=1).")
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TrainingError(f"{what} must return one number as a tensor, it returned {found}.")
    if any(x.requires_grad for x in leaves(outputs)) and not loss.requires_grad:
        raise TrainingError(
            f"{what} returned a constant, from which nothing can be learned: it must be computed from the outputs "
            "by torch alone, without detach(), item() or no_grad()."
        )
    return loss.reshape(())


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy for integer class targets.

    Raises:
        DataError: the targets are no class indices of these outputs.
    """
    fits = outputs.dim() > 1 and targets.shape == outputs.shape[:1] + outputs.shape[2:]
    if targets.is_floating_point() or not fits:
        raise DataError(
            f"cross-entropy needs integer class targets for outputs of shape {tuple(outputs.shape)}, got "
            f"{targets.dtype} of shape {tuple(targets.shape)}. Pass your own loss=..., or distil only (distill=1)."
        )
    classes = outputs.shape[1]
    wrong = targets[((targets < 0) & (targets != IGNORED)) | (targets >= classes)]
    if wrong.numel():
        raise DataError(
            f"target class {int(wrong[0])} does not exist: the model has {classes} classes, 0..{classes - 1} "
            f"({IGNORED} leaves an example out)."
        )
    return F.cross_entropy(outputs, targets.long())
