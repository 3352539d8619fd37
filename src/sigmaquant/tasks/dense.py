"""A class for each place: segmentation of images, tagging of tokens."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from sigmaquant.errors import DataError, MetricError
from sigmaquant.tasks.metrics import IGNORED
from sigmaquant.tasks.parts import Part
from sigmaquant.tasks.structure import Outputs, leaves
from sigmaquant.tasks.task import Task


class _Places(Task):
    """Logits with the classes along an axis, and an integer class for each place.

    Attributes:
        axis: of the classes.
        ignored: targets that count for nothing.
    """

    axis: int
    ignored: tuple[int, ...]

    def parts(self, outputs: Outputs) -> tuple[Part, ...]:
        """Distributions over the classes at each place."""
        return tuple(Part("logits", self.axis) for _ in leaves(outputs))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Cross-entropy at the places that count."""
        logits = self._fitting(outputs, targets).movedim(self.axis, 1)
        targets = targets.long()
        return F.cross_entropy(logits, targets.masked_fill(~self._counted(targets), IGNORED), ignore_index=IGNORED)

    def alike(self, outputs: Tensor, reference: Tensor) -> Tensor | None:
        """The share of places with the same class."""
        same = outputs.argmax(self.axis) == reference.argmax(self.axis)
        return same.reshape(len(same), -1).double().mean(1)

    def _fitting(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The outputs, once they are known to have classes for each target."""
        places = list(outputs.shape)
        if outputs.dim() > 2:
            del places[self.axis]
        if outputs.dim() <= 2 or tuple(places) != tuple(targets.shape) or targets.is_floating_point():
            raise DataError(
                f"the task {self.name!r} needs integer targets for each place of the outputs; outputs "
                f"{tuple(outputs.shape)} with the classes along axis {self.axis} do not fit targets "
                f"{tuple(targets.shape)} of {targets.dtype}."
            )
        return outputs

    def _counted(self, targets: Tensor) -> Tensor:
        counted = torch.ones_like(targets, dtype=torch.bool)
        for value in self.ignored:
            counted &= targets != value
        return counted

    def _decided(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Classes found and classes wanted at all places that count.

        Raises:
            MetricError: there is none, or a target is no class of the network's.
        """
        counted = self._counted(targets)
        found, wanted = self._fitting(outputs, targets).argmax(self.axis)[counted], targets[counted].long()
        if not len(wanted):
            raise MetricError(f"the task {self.name!r} finds no target that counts: all are {self.ignored}.")
        low, high, classes = int(wanted.min()), int(wanted.max()), outputs.shape[self.axis]
        if low < 0 or high >= classes:
            raise MetricError(
                f"the task {self.name!r} found the target {low if low < 0 else high}, but the network has {classes} "
                "classes. Name the targets that do not count: ignored=."
            )
        return found, wanted


class Segmentation(_Places):
    """A class for each pixel: logits [N, C, H, W], integer targets [N, H, W], mean IoU, cross-entropy, KL.

    The mean IoU is over the classes that are there or found, of all examples together (Everingham et al., IJCV 88,
    2010). Outputs that are smaller than the targets are enlarged bilinearly for loss and metric.

    Args:
        ignored: targets that count for nothing.
        output: see `Task`.
    """

    name, metric_name, share, axis = "segmentation", "mIoU", True, 1

    def __init__(self, ignored: int | Collection[int] = (255, IGNORED), output: int | str | None = None) -> None:
        self.ignored = (ignored,) if isinstance(ignored, int) else tuple(ignored)
        self.output = output

    def metric(self, outputs: Tensor, targets: Tensor) -> float:
        """The mean IoU."""
        classes = outputs.shape[1]
        counts = torch.zeros(classes * classes, dtype=torch.int64)
        for first in range(0, len(outputs), 16):  # enlarged, all of them would not fit into memory
            found, wanted = self._decided(outputs[first : first + 16], targets[first : first + 16])
            counts += torch.bincount(wanted * classes + found, minlength=classes * classes)
        table = counts.reshape(classes, classes).double()
        both, either = table.diagonal(), table.sum(0) + table.sum(1) - table.diagonal()
        return float((both[either > 0] / either[either > 0]).mean())

    def _fitting(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.dim() == 4 and targets.dim() == 3 and outputs.shape[2:] != targets.shape[1:]:
            outputs = F.interpolate(outputs, tuple(targets.shape[1:]), mode="bilinear", align_corners=False)
        return super()._fitting(outputs, targets)


class TokenTagging(_Places):
    """A class for each token: logits [N, T, C], integer targets [N, T], share of right tokens, cross-entropy, KL.

    Args:
        ignored: targets that count for nothing: padding, and the later parts of words.
        output: see `Task`.
    """

    name, metric_name, share, axis = "tagging", "token accuracy", True, -1

    def __init__(self, ignored: int | Collection[int] = IGNORED, output: int | str | None = None) -> None:
        self.ignored = (ignored,) if isinstance(ignored, int) else tuple(ignored)
        self.output = output

    def metric(self, outputs: Tensor, targets: Tensor) -> float:
        """The share of right tokens among those that count."""
        found, wanted = self._decided(outputs, targets)
        return float((found == wanted).double().mean())
