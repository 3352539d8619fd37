"""What training minimises: distillation from the float network, the task's loss, or both."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sigmaquant.tasks import Outputs, Task, as_float32, as_task, counting, leaves, mean_distance, task_loss


@dataclass(frozen=True)
class Distillation:
    """``alpha x distance to the teacher + (1 - alpha) x task loss`` (Hinton et al. 2015).

    The distance is the task's. By default it is ``T^2 KL(teacher || student)`` at temperature T for class logits
    [N, C], and the mean squared error relative to the teacher's variance for any other output.

    Attributes:
        alpha: weight of the teacher, 0..1.
        temperature: softens both distributions.
        task: what counts; its loss by default is cross-entropy for integer class targets.
    """

    alpha: float = 1.0
    temperature: float = 2.0
    task: Task = field(default_factory=as_task)

    def counting(self, counted: Tensor | None) -> Distillation:
        """The same for a batch with padding.

        Args:
            counted: [N, length], see `sigmaquant.tasks.counting.counting`; None: there is none.
        """
        return self if counted is None else replace(self, task=counting(self.task, counted))

    def __call__(self, student: Outputs, teacher: Outputs | None, targets: Tensor) -> Tensor:
        """The scalar loss of one batch, in float32."""
        student = as_float32(student)
        loss = leaves(student)[0].new_zeros(())
        if self.alpha > 0 and teacher is not None:
            loss = loss + self.alpha * mean_distance(self.task, student, as_float32(teacher), self.temperature)
        if self.alpha < 1 or teacher is None:
            loss = loss + (1 - self.alpha if teacher is not None else 1.0) * task_loss(self.task, student, targets)
        return loss


def check_finite(loss: Tensor) -> bool:
    """Whether a loss is a finite number."""
    return bool(torch.isfinite(loss.detach()).all())
