"""What a network decides by: which outputs count, the classes or values that they are, or a rule of its task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from sigmaquant.errors import DataError
from sigmaquant.export.comparison import decision_axis
from sigmaquant.lowering import IntegerExecutor, IntegerModel
from sigmaquant.operators import Edge, compute
from sigmaquant.operators.edge import decode
from sigmaquant.quant import QuantizedNetwork
from sigmaquant.tasks import OneOutput, Task, as_task, check_examples, leaves, parts_of

Rule = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""Outputs found and expected, codes or floats of the integer model -> the share of each example decided alike, [N]."""


@dataclass(frozen=True)
class OutputForm:
    """How the integer model's outputs become what the network returns.

    Attributes:
        places: for each leaf of what is returned the number of the model's output; None: it is a constant.
        constants: the leaves, where they are constants.
        containers: of the leaves.
    """

    places: tuple[int | None, ...]
    constants: tuple[Any, ...]
    containers: Any

    @classmethod
    def of(cls, network: QuantizedNetwork, model: IntegerModel, returned: Any) -> OutputForm:
        """From what the network returns."""
        (output,) = (node for node in network.body.graph.nodes if node.op == "output")
        nodes = pytree.tree_leaves(output.args)
        values, containers = pytree.tree_flatten(returned)
        used = [node for node in nodes if isinstance(node, fx.Node)]
        if len(used) != len(model.outputs):  # a value that is returned twice may be one output of the model
            used = list(dict.fromkeys(used))
        left = list(used)
        places: list[int | None] = []
        for node in nodes:
            if not isinstance(node, fx.Node):
                places.append(None)
            elif node in left:
                places.append(len(used) - len(left))
                left.remove(node)
            else:
                places.append(used.index(node))
        constants = tuple(v if place is None else None for v, place in zip(values, places, strict=True))
        return cls(tuple(places), constants, containers)

    def returned(self, outputs: Sequence[Tensor]) -> Any:
        """What the network would return, from the model's outputs in float."""
        pairs = zip(self.places, self.constants, strict=True)
        values = [constant if place is None else outputs[place] for place, constant in pairs]
        return pytree.tree_unflatten(values, self.containers)


@dataclass(frozen=True)
class Decisions:
    """What is decided alike.

    Attributes:
        axes: for each output of the model the axis along which the largest decides; None: it is a value.
        rule: of the task, in place of these; None: it has none.
        scored: the output that counts; of several, the first of them.
        required: the least share of examples that the task asks for; None: the file's kind says.
    """

    axes: tuple[int | None, ...]
    rule: Rule | None = None
    scored: int = 0
    required: float | None = None

    @classmethod
    def of(
        cls,
        network: QuantizedNetwork,
        model: IntegerModel,
        inputs: Sequence[Tensor],
        task: Task | None = None,
        targets: Tensor | None = None,
        held: IntegerModel | None = None,
    ) -> Decisions:
        """By a task.

        Args:
            network: at its plan.
            model: lowered from it.
            inputs: a batch, in the order of the network's arguments.
            task: what counts; None: one output, by the targets or its shape.
            targets: of the batch, if known.
            held: the part of the model that a file holds, without endings; None: all of it.
        """
        task = task or as_task()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            returned = network(*inputs)
        form = OutputForm.of(network, model, returned)
        outputs = check_examples(task.outputs(returned))
        ours = pytree.tree_leaves(returned)
        numbers = {id(leaf): place for leaf, place in zip(ours, form.places, strict=True) if place is not None}
        counted = {numbers[id(x)]: k for k, x in enumerate(leaves(outputs)) if id(x) in numbers}
        axes: list[int | None] = [None] * len(model.outputs)
        parts = () if isinstance(task, OneOutput) or task.own_alike else parts_of(task, outputs)
        for leaf, place in zip(ours, form.places, strict=True):
            if place is None:
                continue
            leaf = leaf.movedim(model.edges[model.outputs[place]].batch_axis, 0)
            if place not in counted:
                axes[place] = decision_axis(leaf, None)
            elif isinstance(task, OneOutput):
                axes[place] = decision_axis(leaf, targets, task.kind)
            elif parts:
                part = parts[counted[place]]
                axes[place] = part.axis % leaf.dim() if part.kind == "logits" else None
        rule = _TaskRule(task, form, model, held or model) if task.own_alike else None
        return cls(tuple(axes), rule, min(counted, default=0), task.required if task.own_alike else None)


class _TaskRule:
    """The task's own rule, on what the network returns.

    Args:
        task: whose rule it is.
        form: of what is returned.
        model: the whole network.
        held: what a file holds of it; what is left out is computed in float.
    """

    def __init__(self, task: Task, form: OutputForm, model: IntegerModel, held: IntegerModel) -> None:
        self._task, self._form, self._model, self._held = task, form, model, held
        self._executor = IntegerExecutor(model)
        written = {operator.output for operator in held.operators} | set(held.inputs)
        self._rest = [operator for operator in model.operators if operator.output not in written]

    def __call__(self, found: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
        one, other = (self._task.outputs(self._returned(values)) for values in (found, expected))
        alike: Any = self._task.alike(one, other)
        count = len(expected[0])
        if not isinstance(alike, Tensor) or alike.shape != (count,):
            what = tuple(alike.shape) if isinstance(alike, Tensor) else type(alike).__name__
            raise DataError(f"alike() of the task {self._task.name!r} must give a share for each example, not {what}.")
        return alike.detach().double().clamp(0, 1)

    def _returned(self, values: Sequence[Tensor]) -> Any:
        known = dict(zip(self._held.outputs, values, strict=True))
        for operator in self._rest:
            known[operator.output] = compute(operator, self._executor, *(known[name] for name in operator.inputs))
        edges = [self._model.edges[name] for name in self._model.outputs]
        return self._form.returned(
            [_real(known[name], edge) for name, edge in zip(self._model.outputs, edges, strict=True)]
        )


def _real(value: Tensor, edge: Edge) -> Tensor:
    """In float, as the network has it."""
    real = value if edge.is_float else decode(value, edge)
    return real.movedim(0, edge.batch_axis) if edge.batch_axis else real
