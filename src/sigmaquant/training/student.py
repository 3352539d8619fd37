"""`Student`: the quantized network in training, with all it takes to move it to a plan, train it, judge it, undo it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from sigmaquant.data import DataSource
from sigmaquant.errors import CheckpointError
from sigmaquant.graph.specs import QuantGraph
from sigmaquant.parallel import agreed, share_tensors_
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import (
    QuantizedNetwork,
    SamplingError,
    batch_norms,
    calibrate_,
    compensate_rounding_,
    counted_positions,
    input_moments,
    prepare,
    reestimate_batch_norm_,
    restore_plan_,
    set_plan_,
)
from sigmaquant.quant.observers import Observer
from sigmaquant.quant.padding import padding_of
from sigmaquant.tasks import Outputs, Task, counting, leaves, mean_distance, same_form
from sigmaquant.training.calibration import choose_observer, without_outliers
from sigmaquant.training.devices import Device
from sigmaquant.training.metrics import outputs_of, scored
from sigmaquant.training.qat import (
    Recipe,
    TrainingReport,
    cosine_with_warmup,
    load_optimizer_tensors_,
    make_optimizer,
    optimizer_tensors,
    train_,
)
from sigmaquant.training.rates import rate_factors

StepProgress = Callable[[int, float], None]


@dataclass(frozen=True)
class Judgement:
    """How good a network is on validation data.

    Attributes:
        accuracy: the task's metric.
        divergence: the task's distance of the outputs to the float network's: KL in nats for class logits. Much less
            noisy than the metric, since every example counts and not only those that change sides.
    """

    accuracy: float
    divergence: float


@dataclass(frozen=True)
class Judge:
    """Scores networks on one data set; the float network's outputs are computed once.

    Attributes:
        source: the data.
        task: what counts, as it is for these outputs and targets.
        reference: outputs of the float network that count, [N, ...].
        targets: [N, ...].
        counted: [N, length]: positions that are no padding; None where all count.
    """

    source: DataSource
    task: Task
    device: Device
    reference: Outputs
    targets: Tensor
    counted: Tensor | None = None

    @classmethod
    def of(cls, teacher: nn.Module, source: DataSource, task: Task, device: Device) -> Judge:
        """Run the float network once; what the task leaves open is decided by its outputs and the targets.

        Raises:
            DataError: the data are empty or do not fit the model.
        """
        reference, targets = outputs_of(teacher, source.batches(), task, device)
        counted = None
        if isinstance(teacher, fx.GraphModule) and padding_of(teacher).known:
            each = [counted_positions(teacher, inputs) for inputs, _ in source.batches()]
            counted = torch.cat([positions.cpu() for positions in each if positions is not None])
        return cls(source, task.seen(reference, targets), device, reference, targets, counted)

    @cached_property
    def float_accuracy(self) -> float:
        """The float network's metric."""
        return scored(self.task, self.reference, self.targets)

    @cached_property
    def float_figures(self) -> tuple[float, float, float]:
        """Metric, mean and standard deviation of the float network's outputs: what tells other data or metrics.

        The order of the examples does not matter, and the last digits may be another machine's.
        """
        outputs = torch.cat([x.double().reshape(-1) for x in leaves(self.reference)])
        return self.float_accuracy, float(outputs.mean()), float(outputs.std(correction=0))

    def standard_error(self, accuracy: float) -> float:
        """By how much an accuracy that is a share of the examples is off by chance; 0 for what can be no share."""
        return math.sqrt(accuracy * (1 - accuracy) / len(self.targets)) if 0 <= accuracy <= 1 else 0.0

    def __call__(self, network: nn.Module) -> Judgement:
        """Judge a network."""
        outputs, targets = outputs_of(network, self.source.batches(), self.task, self.device)
        comparable = same_form(outputs, self.reference)
        return Judgement(
            scored(self.task, outputs, targets),
            float(mean_distance(counting(self.task, self.counted), outputs, self.reference))
            if comparable
            else float("nan"),
        )


def stream(source: DataSource, examples: int, seed: int) -> Iterator[tuple[Any, Any]]:
    """Shuffled, augmented training batches until `examples` have been given, over several passes if need be."""
    left, epoch, largest = examples, 0, 0
    while left > 0:
        for inputs, targets in source.batches(shuffle=True, seed=seed + 7919 * epoch):
            count = len(targets)
            largest = max(largest, count)
            if count < 2 and (epoch == 0 or largest > 1):
                continue  # BatchNorm cannot train on one example; only where there is nothing else, it has to
            if count > left:  # exactly as many as asked for, but never a single one
                inputs, targets = first(inputs, max(left, 2)), targets[: max(left, 2)]
            yield inputs, targets
            left -= count
            if left < min(largest, 2):
                return
        epoch += 1


def first(inputs: Any, count: int) -> Any:
    """The first examples of a batch."""
    return tuple(x[:count] for x in inputs) if isinstance(inputs, tuple | list) else inputs[:count]


class Student:
    """A quantized network in training.

    Args:
        graph: the float model.
        teacher: the float model for distillation, or None.
        train: training data.
        device: where to compute.
        recipe: how to train.
        calibration_examples: training examples for activation ranges and BatchNorm statistics.
        seed: of the calibration batches.

    Attributes:
        outliers: calibration examples that are left out, because their inputs are out of line with all others.
    """

    def __init__(
        self,
        graph: QuantGraph,
        teacher: nn.Module | None,
        train: DataSource,
        device: Device,
        recipe: Recipe,
        *,
        calibration_examples: int,
        seed: int,
    ) -> None:
        self.teacher, self.train_data, self.device, self.recipe = teacher, train, device, recipe
        self.network: QuantizedNetwork = prepare(graph)
        device.put_module(self.network)
        self.optimizer = make_optimizer(self.network, recipe)
        self.seed = seed
        self.trained_examples = 0
        self._sampling_errors: dict[int, SamplingError] = {}  # by how many calibration batches
        self._wanted = calibration_examples
        if train.repeats and train.examples is not None:
            calibration_examples = min(calibration_examples, train.examples)  # a second pass would tell nothing new
        batches = [device.put(x) for x, _ in stream(train, calibration_examples, seed)]
        self._calibration, self.outliers = without_outliers(batches)
        self._observer: type[Observer] | None = None

    def calibrate_like_(self, other: Student) -> None:
        """Choose ranges and correct statistics as another student of the same network, data and seed does."""
        self._observer, self._sampling_errors = other._observer, other._sampling_errors

    @property
    def observer(self) -> type[Observer] | None:
        """How activation ranges were chosen; None before they were."""
        return self._observer

    @property
    def graph(self) -> QuantGraph:
        """The graph with the student's present weights in place of the float model's, for statistics."""
        return replace(self.network.graph, module=self.network.body)

    def apply(self, plan: BitwidthPlan) -> None:
        """Put the network at a plan. Before any training, ranges and BatchNorm statistics are found anew."""
        set_plan_(self.network, plan)
        if self.trained_examples == 0:
            self.recalibrate(0.5)

    def recalibrate(self, share: float = 1.0) -> None:
        """BatchNorm statistics and activation ranges from the calibration examples, at the present plan.

        Before any training, since the weights are to be the float network's but for their rounding. The statistics are
        those of unquantized activations, which 8-bit ones shift by little.

        Args:
            share: of the calibration examples; plans that are only compared with each other need fewer.
        """
        if self._observer is None:
            graph, plan = self.network.graph, self.network.plan
            assert plan is not None, "set_plan_ comes first"
            task = self.recipe.loss.task
            found = choose_observer(graph, plan, self._share(0.5), self.device, task, self.seed)
            self._observer = agreed(found)
        for quantizer in self.network.activation_quantizers.values():
            quantizer.enabled = False
        batches = self._share(share)
        if len(batches) not in self._sampling_errors:
            with self.device.random_state(self.seed):
                self._sampling_errors[len(batches)] = SamplingError(self.network, batches)
        with self.device.random_state(self.seed):  # what a network draws is no difference between it and the float one
            reestimate_batch_norm_(self.network, batches)
        self._sampling_errors[len(batches)].remove_(self.network)
        with self.device.random_state(self.seed):
            calibrate_(self.network, self._share(0.25), self._observer)
        share_tensors_(self.network.state().values())

    def compensate(self, settle: bool = True) -> None:
        """Round the weights with error compensation, then find ranges and statistics anew; for untrained weights.

        Args:
            settle: see `sigmaquant.quant.rounding.compensate_rounding_`.
        """
        # Rounding sees inputs of these batches, which their own statistics normalise best.
        with self.device.random_state(self.seed):
            reestimate_batch_norm_(self.network, self._share(0.5))
            compensate_rounding_(self.network, self._share(0.25), settle)
        self.recalibrate()

    def input_moments(self) -> dict[str, Tensor]:
        """Second moments of the layers' inputs, as `compensate` sees them."""
        with self.device.random_state(self.seed):
            reestimate_batch_norm_(self.network, self._share(0.5))
            return input_moments(self.network, self._share(0.25))

    @property
    def calibration(self) -> list[Any]:
        """The calibration batches, inputs only, on the device."""
        return list(self._calibration)

    def _share(self, share: float) -> list[Any]:
        """The first calibration batches: so large a share of the examples asked for, all where there are no more."""
        chosen, seen = [], 0
        for x in self._calibration:
            if seen < share * self._wanted:
                chosen.append(x)
            seen += len(x[0] if isinstance(x, tuple | list) else x)
        return chosen

    def cycle(self, examples: int, seed: int, lr: float, progress: StepProgress | None = None) -> TrainingReport | None:
        """One short training cycle with its own learning-rate arc."""
        if examples <= 0:
            return None
        factor = lr / self.recipe.lr
        return self._train(
            stream(self.train_data, examples, seed),
            lambda seen: factor * cosine_with_warmup(seen, examples, self.recipe.warmup),
            progress,
        )

    def segment(
        self, examples: int, seed: int, before: int, total: int, progress: StepProgress | None = None, rate: float = 1.0
    ) -> TrainingReport:
        """A part of a training of `total` examples, `before` of which have been seen, on one learning-rate arc.

        Its rates are the recipe's times `rate`.
        """
        return self._train(
            stream(self.train_data, examples, seed),
            lambda seen: rate * cosine_with_warmup(before + seen, total, self.recipe.warmup),
            progress,
        )

    def _train(
        self, batches: Iterator[tuple[Any, Any]], schedule: Callable[[float], float], progress: StepProgress | None
    ) -> TrainingReport:
        report = train_(
            self.network,
            self.teacher,
            batches,
            self.optimizer,
            self.recipe,
            self.device,
            schedule=schedule,
            factors=rate_factors(self.network),
            progress=progress,
        )
        self.trained_examples += report.examples
        return report

    def reset_momentum(self) -> None:
        """Forget the optimizer's momentum, before the final training."""
        self.optimizer.state.clear()

    @property
    def has_batch_norm(self) -> bool:
        """Whether `reestimate` has something to do."""
        return bool(batch_norms(self.network))

    def reestimate(self, examples: int, seed: int) -> None:
        """BatchNorm statistics from fresh training examples, at the end of training."""
        batches = (self.device.put(x) for x, _ in stream(self.train_data, examples, seed))
        with self.device.random_state(seed):
            reestimate_batch_norm_(self.network, batches)

    def tensors(self) -> dict[str, Tensor]:
        """Everything to restore this student, as copies: network and optimizer."""
        state = {f"network.{key}": value.detach().clone() for key, value in self.network.state().items()}
        state.update({f"optimizer.{key}": v.detach().clone() for key, v in optimizer_tensors(self.optimizer).items()})
        return state

    def restore(self, plan: BitwidthPlan, tensors: dict[str, Tensor], trained_examples: int) -> None:
        """Put everything exactly where `tensors` found it.

        Raises:
            CheckpointError, PlanError: plan or tensors do not fit.
        """
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "optimizer": {}}
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            if part not in parts:
                raise CheckpointError(f"the checkpoint has the unknown tensor {key!r}: it is no student's.")
            parts[part][name] = value
        restore_plan_(self.network, plan, parts["network"])
        load_optimizer_tensors_(self.optimizer, parts["optimizer"])
        self.trained_examples = trained_examples
