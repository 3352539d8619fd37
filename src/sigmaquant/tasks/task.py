"""`Task`: what counts of a network: which outputs, loss, metric, distance to the float network, equal decisions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sigmaquant.errors import DataError, SigmaQuantError, TaskError
from sigmaquant.outputs import are_logits, scored_tensor
from sigmaquant.tasks.parts import Part
from sigmaquant.tasks.pictures import Picture
from sigmaquant.tasks.structure import Outputs, leaves, picked

_GUARDED = ("outputs", "parts", "distance", "each", "alike", "seen")
"""Methods whose failure in a class of the user's is told by name; those of metric and loss are told where they run."""


def told(what: str, task: str, error: Exception) -> TaskError:
    """The error for the user's code that failed."""
    return TaskError(f"{what} of the task {task!r} failed: {type(error).__name__}: {error}")


def _guarded(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(method)
    def guarded(self: Task, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except (SigmaQuantError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise told(f"{name}()", self.name, error) from error

    return guarded


class Task:
    """What counts of a network, and how.

    A task of your own is a subclass with a `metric`; everything else has a default. `outputs` decides what all others
    see: a tensor ``[N, ...]``, or tuples, lists and dicts of such tensors. Search, training, verification and report
    all go by the task.

    Its attributes are the task's options: a run that is resumed must have the same.

    Attributes:
        name: in files, tables and on the command line; a class of your own is called by its name.
        metric_name: what the metric is called there.
        share: whether the metric lies in 0..1: it is then shown in percent, and a budget's accuracy is held to that.
        output: which of several outputs counts, a position, a key or a path such as ``"heads.0"``; None: the network's
            only output, its ``logits``, or the first.
        target: the key of the targets in batches that are mappings.
        required: the least mean of `alike` over the examples of an exported file that is right; None: 0.999. Where
            it is less, a file's activations are compared operator by operator as well.
    """

    name: str = ""
    metric_name: str = ""
    share: bool = False
    output: int | str | None = None
    target: str = "labels"
    required: float | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = vars(cls).get("name", cls.__name__)
        cls.metric_name = vars(cls).get("metric_name", "") or cls.metric_name or "metric"
        if not cls.__module__.startswith("sigmaquant."):
            for method in _GUARDED:
                if method in vars(cls):
                    setattr(cls, method, _guarded(vars(cls)[method], method))

    def outputs(self, returned: Any) -> Outputs:
        """What counts of what the network returns for a batch.

        Raises:
            DataError: nothing of it can be scored.
        """
        return scored_tensor(returned if self.output is None else picked(returned, self.output))

    def metric(self, outputs: Outputs, targets: Tensor) -> float:
        """How good a network is on a whole data set; higher is better.

        Args:
            outputs: of all examples, on the CPU.
            targets: [N, ...], on the CPU.
        """
        raise NotImplementedError(f"the task {self.name!r} has no metric.")

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor | None:
        """The task's own loss of a batch, a scalar, used where `Settings.distill` is below 1; None: there is none."""
        return None

    def parts(self, outputs: Outputs) -> Sequence[Part]:
        """How each tensor of the outputs is compared; by default [N, C > 1] are class logits, all else is values."""
        return tuple(Part("logits" if are_logits(x) else "values") for x in leaves(outputs))

    def distance(self, outputs: Outputs, reference: Outputs, temperature: float = 1.0) -> Tensor:
        """How far a network's outputs are from the float network's: of each example, [N], at least 0, 0 where equal.

        Training minimises its mean where it distils, the search ranks plans and layers by it. By default the weighted
        sum over `parts`. One of your own must be differentiable; for the sensitivity ``"curvature"`` twice.

        Args:
            outputs: of a network.
            reference: the float network's.
            temperature: of the distillation, which softens distributions.
        """
        return sum_of_parts(parts_of(self, reference), outputs, reference, temperature)

    def each(self, outputs: Outputs, targets: Tensor) -> Tensor | None:
        """Scores of the single examples, [N], whose mean is the metric; None: the metric is no such mean.

        With them two networks are compared example by example, which tells smaller differences apart.
        """
        return None

    def alike(self, outputs: Outputs, reference: Outputs) -> Tensor | None:
        """How far an exported file decides as it should: of each example, [N] in 0..1.

        None, the default: by every output of the network, the largest class of logits, or values that are equal but
        for roundings.

        Args:
            outputs: the file's.
            reference: as they should be.
        """
        return None

    def pictures(
        self, inputs: tuple[Tensor, ...], float_outputs: Outputs, outputs: Outputs, targets: Tensor
    ) -> Sequence[Picture]:
        """Some examples for the report, the float network beside the quantized one; by default none.

        Args:
            inputs: of some examples.
            float_outputs: the float network's.
            outputs: the quantized network's.
            targets: [N, ...].
        """
        return ()

    def check(self) -> None:
        """Called before any work.

        Raises:
            MissingExtraError: something that the task needs is not installed.
        """

    def seen(self, reference: Outputs, targets: Tensor) -> Task:
        """The task as it is for these outputs of the float network and these targets: what was open is decided."""
        return self

    @property
    def has_loss(self) -> bool:
        """Whether there is something to learn besides the float network."""
        return type(self).loss is not Task.loss or "loss" in vars(self)

    @property
    def loss_name(self) -> str:
        """What the loss is called in messages."""
        return f"{self.name}.loss"

    @property
    def own_alike(self) -> bool:
        """Whether `alike` is the task's own."""
        return type(self).alike is not Task.alike or "alike" in vars(self)

    @property
    def own_distance(self) -> bool:
        """Whether `distance` is not the sum over `parts`."""
        return type(self).distance is not Task.distance or "distance" in vars(self)


def parts_of(task: Task, outputs: Outputs) -> Sequence[Part]:
    """The task's parts, once they are known to fit the outputs.

    Raises:
        DataError: another number of them, or logits along an axis that there is not.
    """
    parts, tensors = task.parts(outputs), leaves(outputs)
    if len(parts) != len(tensors):
        raise DataError(f"parts() of the task {task.name!r} gives {len(parts)} parts for {len(tensors)} outputs.")
    for part, x in zip(parts, tensors, strict=True):
        if part.kind == "logits" and not (-x.dim() < part.axis < x.dim() and part.axis != 0):
            raise DataError(
                f"parts() of the task {task.name!r} has classes along axis {part.axis} of an output of shape "
                f"{tuple(x.shape)}; the first axis is that of the examples."
            )
    return parts


def sum_of_parts(parts: Sequence[Part], outputs: Outputs, reference: Outputs, temperature: float = 1.0) -> Tensor:
    """The weighted distances of several outputs, [N]."""
    total: Tensor | None = None
    for part, found, wanted in zip(parts, leaves(outputs), leaves(reference), strict=True):
        own = part.weight * part.distances(found, wanted, temperature)
        total = own if total is None else total + own
    if total is None:
        raise DataError("nothing that counts is a tensor.")
    return total


def mean_distance(task: Task, outputs: Outputs, reference: Outputs, temperature: float = 1.0) -> Tensor:
    """The task's distance of a batch, a scalar.

    Raises:
        DataError: it is not one number for each example.
    """
    found: Any = task.distance(outputs, reference, temperature)
    count = len(leaves(reference)[0])
    if not isinstance(found, Tensor) or found.shape != (count,):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise DataError(f"the distance of the task {task.name!r} must be one number for each example, it is {shape}.")
    return found.mean()


def same_form(outputs: Outputs, reference: Outputs) -> bool:
    """Whether two outputs have the same tensors, so that they can be compared."""
    one, other = leaves(outputs), leaves(reference)
    return len(one) == len(other) and all(x.shape == y.shape for x, y in zip(one, other, strict=True))


def floating(task: Task, outputs: Outputs) -> Outputs:
    """What counts, once it can be compared.

    Raises:
        DataError: a tensor that is not of a floating-point type.
    """
    for x in leaves(outputs):
        if not x.is_floating_point() or x.dim() == 0:
            raise DataError(
                f"the network returns {x.dtype} of shape {tuple(x.shape)}, no floating-point tensor with a batch "
                "dimension, so its outputs cannot be compared. Let the task choose what matters."
            )
    return outputs


def all_finite(outputs: Outputs) -> bool:
    """Whether no tensor holds NaN or infinity."""
    return all(bool(torch.isfinite(x).all()) for x in leaves(outputs))
