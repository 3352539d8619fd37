"""What training minimises: distillation from the float network, the task's loss, or both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sigmaquant.errors import DataError, TrainingError
from sigmaquant.outputs import OutputKind, are_logits

_IGNORED = -100  # torch's own default

TaskLoss = Callable[[Tensor, Tensor], Tensor]
"""outputs [N, ...], targets -> scalar."""


@dataclass(frozen=True)
class Distillation:
    """``alpha x distance to the teacher + (1 - alpha) x task loss`` (Hinton et al. 2015).

    The distance is ``T^2 KL(teacher || student)`` at temperature T for class logits [N, C], and the mean squared error
    relative to the teacher's variance for any other output.

    Attributes:
        alpha: weight of the teacher, 0..1.
        temperature: softens both distributions.
        task: the user's loss; None: cross-entropy for integer class targets.
        outputs: what the outputs mean; ``"auto"`` goes by their shape.
    """

    alpha: float = 1.0
    temperature: float = 2.0
    task: TaskLoss | None = None
    outputs: OutputKind = "auto"

    def __call__(self, student: Tensor, teacher: Tensor | None, targets: Tensor) -> Tensor:
        """The scalar loss of one batch, in float32."""
        student = student.float()
        loss = student.new_zeros(())
        if self.alpha > 0 and teacher is not None:
            loss = loss + self.alpha * distance(student, teacher.float(), self.temperature, self.outputs)
        if self.alpha < 1 or teacher is None:
            loss = loss + (1 - self.alpha if teacher is not None else 1.0) * self._task_loss(student, targets)
        return loss

    def _task_loss(self, student: Tensor, targets: Tensor) -> Tensor:
        if self.task is None:
            return cross_entropy(student, targets)
        what = f"the loss {getattr(self.task, '__name__', type(self.task).__name__)!r}"
        try:
            loss = self.task(student, targets)
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            raise TrainingError(
                f"{what} failed on outputs {tuple(student.shape)} and targets {tuple(targets.shape)}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise TrainingError(f"{what} must return one number as a tensor, it returned {found}.")
        if student.requires_grad and not loss.requires_grad:
            raise TrainingError(
                f"{what} returned a constant, from which nothing can be learned: it must be computed from the outputs "
                "by torch alone, without detach(), item() or no_grad()."
            )
        return loss.reshape(())


def distance(student: Tensor, teacher: Tensor, temperature: float, outputs: OutputKind = "auto") -> Tensor:
    """Distance between two outputs of one shape, see `Distillation`."""
    if are_logits(student, outputs):
        return F.kl_div(
            F.log_softmax(student / temperature, 1),
            F.log_softmax(teacher / temperature, 1),
            reduction="batchmean",
            log_target=True,
        ) * (temperature**2)
    return F.mse_loss(student, teacher) / teacher.var(correction=0).clamp_min(1e-12)


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
    wrong = targets[((targets < 0) & (targets != _IGNORED)) | (targets >= classes)]
    if wrong.numel():
        raise DataError(
            f"target class {int(wrong[0])} does not exist: the model has {classes} classes, 0..{classes - 1} "
            f"({_IGNORED} leaves an example out)."
        )
    return F.cross_entropy(outputs, targets.long())


def check_finite(loss: Tensor) -> bool:
    """Whether a loss is a finite number."""
    return bool(torch.isfinite(loss.detach()).all())
