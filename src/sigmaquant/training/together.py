"""Training several plans of one network together: one weight, of which each plan reads its planes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sigmaquant.errors import CheckpointError, DivergedError
from sigmaquant.numerics import SCALE_FLOOR
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import QuantizedNetwork, counted_positions, restore_plan_
from sigmaquant.quant.nested import are_nested, link_, unlink_
from sigmaquant.training.losses import check_finite
from sigmaquant.training.metrics import call
from sigmaquant.training.qat import cosine_with_warmup, load_optimizer_tensors_, optimizer_tensors
from sigmaquant.training.rates import clip_and_scale_, rate_factors
from sigmaquant.training.spread import Spread
from sigmaquant.training.student import StepProgress, Student, stream


class Together:
    """Students with nested codes while they are trained together.

    Every step trains every plan on the same batch. What plans share gets the mean of their gradients, what is each
    one's own its own gradient, so that rates mean the same as for one plan alone.

    Args:
        students: from the largest plan to the smallest, at their plans, their codes nested.
    """

    def __init__(self, students: Sequence[Student]) -> None:
        self.students = list(students)
        self.networks: list[QuantizedNetwork] = [student.network for student in students]
        link_(self.networks)
        recipe = students[0].recipe
        scales = _unique([scale for network in self.networks for scale in network.scales()])
        weights = _unique([p for network in self.networks for p in network.weights() if p.requires_grad])
        self._shared = {id(p) for p in self.networks[0].weights() if p.dim() > 1}
        groups = [
            {"params": [p for p in weights if p.dim() > 1], "lr": recipe.lr, "weight_decay": recipe.weight_decay},
            {"params": [p for p in weights if p.dim() <= 1], "lr": recipe.lr, "weight_decay": 0.0},
            {"params": scales, "lr": recipe.scale_lr, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.SGD(
            [group for group in groups if group["params"]],
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
        )

    def segment(
        self, examples: int, seed: int, before: int, total: int, progress: StepProgress | None = None, rate: float = 1.0
    ) -> None:
        """A part of a training of `total` examples, as `Student.segment`.

        Raises:
            DivergedError: the loss or the gradient became NaN or infinite.
        """
        first = self.students[0]
        warmup = first.recipe.warmup
        self._train(
            stream(first.train_data, examples, seed),
            lambda seen: rate * cosine_with_warmup(before + seen, total, warmup),
            progress,
        )

    def _train(
        self, batches: Iterable[tuple[Any, Any]], schedule: Callable[[float], float], progress: StepProgress | None
    ) -> None:
        first = self.students[0]
        device, recipe, teacher = first.device, first.recipe, first.teacher
        factors: dict[nn.Parameter, float] = {}
        for network in self.networks:
            factors |= rate_factors(network)
            network.train()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        rates = [group["lr"] for group in self.optimizer.param_groups]
        scales = [p.data for p in self.optimizer.param_groups[-1]["params"]]
        seen = 0
        try:
            with Spread(self.networks, parameters) as spread:
                for inputs, targets in batches:
                    count = len(targets)
                    for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                        group["lr"] = rate * schedule(seen + count / 2)
                    inputs, targets = device.put(inputs), device.put(targets)
                    own = spread.own(inputs, targets)
                    with torch.no_grad(), device.autocast():
                        wanted = spread.whole(None if teacher is None else call(teacher, own, recipe.loss.task))
                    self.optimizer.zero_grad(set_to_none=True)
                    counted = counted_positions(self.networks[0].graph.module, inputs)
                    total = 0.0
                    for network in self.networks:
                        with device.autocast():
                            outputs = call(network, own, recipe.loss.task)
                        loss = recipe.loss.counting(counted)(outputs, wanted, targets)
                        loss.backward()  # type: ignore[no-untyped-call]
                        total += float(loss.detach()) / len(self.networks)
                    spread.add_gradients_()
                    for parameter in parameters:
                        if id(parameter) in self._shared and parameter.grad is not None:
                            parameter.grad.div_(len(self.networks))
                    norm = clip_and_scale_(parameters, factors, recipe.clip_norm)
                    if not check_finite(norm) or not check_finite(torch.tensor(total)):
                        raise DivergedError(
                            f"training of several plans diverged: loss {total:.3g}, gradient {float(norm):.3g}. Lower "
                            f"the learning rate (lr is {recipe.lr:g}) or check the data for NaN and extreme values."
                        )
                    self.optimizer.step()
                    torch._foreach_clamp_min_(scales, SCALE_FLOOR)
                    seen += count
                    if progress is not None:
                        progress(count, total)
        finally:
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            for network in self.networks:
                network.eval()
        for student in self.students:
            student.trained_examples += seen

    def tensors(self) -> dict[str, Tensor]:
        """Everything to restore this training, as copies; what plans share is there once."""
        found: dict[str, Tensor] = {}
        shared = {value.data_ptr() for value in self.networks[0].state().values() if value.dim() > 1}
        for number, network in enumerate(self.networks):
            for key, value in network.state().items():
                if not number or value.dim() <= 1 or value.data_ptr() not in shared:
                    found[f"{number}.{key}"] = value.detach().clone()
        kept = optimizer_tensors(self.optimizer)
        return found | {f"optimizer.{key}": value.detach().clone() for key, value in kept.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put everything where `tensors` found it.

        Raises:
            CheckpointError: they are of another training.
        """
        first = {key.removeprefix("0."): value for key, value in tensors.items() if key.startswith("0.")}
        for number, network in enumerate(self.networks):
            own = {k.partition(".")[2]: v for k, v in tensors.items() if k.startswith(f"{number}.")}
            network.load_state_({key: own.get(key, first.get(key)) for key in network.state()})  # type: ignore[misc]
        load_optimizer_tensors_(
            self.optimizer, {k.partition(".")[2]: v for k, v in tensors.items() if k.startswith("optimizer.")}
        )

    def finish(self) -> list[QuantizedNetwork]:
        """The networks, each with weights of its own where its codes are."""
        unlink_(self.networks)
        are_nested(self.networks)
        return self.networks


def resumed(students: Sequence[Student], plans: Sequence[BitwidthPlan], tensors: dict[str, Tensor]) -> Together:
    """A training from what `Together.tensors` gave, with students that are at no plan yet.

    Raises:
        CheckpointError: the tensors are of another training.
    """
    first = {key.removeprefix("0."): value for key, value in tensors.items() if key.startswith("0.")}
    for number, (student, plan) in enumerate(zip(students, plans, strict=True)):
        own = {key.partition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{number}.")}
        if not own:
            raise CheckpointError(f"the run's state has nothing of plan {number}. Begin anew with overwrite.")
        restore_plan_(student.network, plan, {key: own.get(key, first.get(key)) for key in student.network.state()})  # type: ignore[misc]
    together = Together(students)
    together.restore(tensors)
    return together


def _unique(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    return list({id(parameter): parameter for parameter in parameters}.values())
