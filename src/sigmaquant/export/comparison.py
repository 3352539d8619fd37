"""How far outputs are from the ones expected: in steps of their grid, and in what they decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sigmaquant.operators import Edge, encode
from sigmaquant.outputs import OutputKind, output_kind

VALUE_STEPS = 4
"""How far an output that is a value may be off, of the 255 steps of an 8-bit grid."""
FLOAT_STEPS = 255
"""An output in float is measured in this part of the range that the expected values take."""
FLOAT_TOLERANCE = 1e-4
"""Part of that range by which floats may differ and still count as equal: kernels add in different orders."""


@dataclass(frozen=True)
class Agreement:
    """How close outputs are to the expected ones.

    Attributes:
        examples: how many were run.
        decisions: share of examples that are decided alike: the same largest output, or for outputs that are values,
            none of them more than `VALUE_STEPS` off. An output with more than two dimensions, a map, counts with the
            share of its places, or of its values, for which that holds. Of several outputs the worst counts. A task
            with a rule of its own (`sigmaquant.tasks.Task.alike`) is judged by that.
        largest_steps: largest difference, in steps of the output's grid.
        median_steps: median difference over the outputs that differ; 0 where none does.
        equal: share of outputs that are the same code, or in float the same within `FLOAT_TOLERANCE`.
        mean_steps: mean difference over all outputs.
    """

    examples: int
    decisions: float
    largest_steps: int
    median_steps: float
    equal: float
    mean_steps: float = 0.0


def decision_axis(outputs: Tensor, targets: Tensor | None, kind: OutputKind = "auto") -> int | None:
    """The axis along which the largest output decides; None: outputs are values.

    Args:
        outputs: [N, ...].
        targets: what belongs to them, if known. Integers with a place for each of a map's are classes.
        kind: what is known already; logits of a map have the classes where images have channels.

    Raises:
        DataError: see `sigmaquant.outputs.output_kind`.

    Example:
        >>> decision_axis(torch.zeros(2, 5, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long))
        1
    """
    if outputs.dim() <= 2:
        return 1 if output_kind(outputs, targets, kind) == "logits" else None
    if kind == "logits":
        return 1
    if kind == "values" or targets is None or targets.is_floating_point():
        return None
    places, shape = tuple(targets.shape), tuple(outputs.shape)
    if places == shape[:1] + shape[2:]:
        return 1
    return len(shape) - 1 if places == shape[:-1] else None


@dataclass(frozen=True)
class Measure:
    """How one output is compared.

    Attributes:
        edge: its grid, or float.
        axis: as `decision_axis` gives it.
        step: of a float output, in real numbers; codes have steps of their own.
    """

    edge: Edge
    axis: int | None
    step: float = 1.0

    @classmethod
    def of(cls, edge: Edge, expected: Sequence[Tensor], axis: int | None) -> Measure:
        """For an output with these expected values, batch by batch."""
        if not edge.is_float:
            return cls(edge, axis)
        finite = [x[torch.isfinite(x)].double() for x in expected]
        low = min((float(x.min()) for x in finite if x.numel()), default=0.0)
        high = max((float(x.max()) for x in finite if x.numel()), default=0.0)
        largest = max(abs(low), abs(high))
        return cls(edge, axis, max(high - low, 1e-3 * largest, 1e-30) / FLOAT_STEPS)

    def shaped(self, found: Tensor, expected: Tensor) -> Tensor:
        """A runner's float output, as codes where the expected ones are codes."""
        shaped = found.detach().cpu().reshape(expected.shape)
        return shaped.float() if self.edge.is_float else encode(shaped, self.edge)

    def steps(self, found: Tensor, expected: Tensor) -> Tensor:
        """Whole steps between two outputs of one kind, int64; a float that is no number is as far off as can be."""
        if not self.edge.is_float:
            return (found.to(torch.int64) - expected.to(torch.int64)).abs()
        same = (found == expected) | (found.isnan() & expected.isnan())
        apart = (found.double() - expected.double()).abs() / self.step - FLOAT_TOLERANCE * FLOAT_STEPS
        steps = torch.nan_to_num(apart, nan=FLOAT_STEPS, posinf=FLOAT_STEPS).clamp(0, FLOAT_STEPS).ceil()
        return torch.where(same, torch.zeros_like(steps), steps).to(torch.int64)

    def alike(self, found: Tensor, expected: Tensor, steps: Tensor) -> Tensor:
        """The share of each example that is decided alike, float64 [N]: 0 or 1, or of a map anything between."""
        if self.axis is not None:
            same = found.argmax(self.axis) == expected.argmax(self.axis)
            return same.reshape(len(same), -1).double().mean(1)
        near = (steps <= VALUE_STEPS).reshape(len(steps), -1).double()
        return near.mean(1) if expected.dim() > 2 else near.amin(1)


class Tally:
    """Counts agreement, batch after batch.

    Args:
        measures: one for each output.
        rule: outputs found and expected -> the share of each example decided alike; None: by the measures.
    """

    def __init__(
        self,
        measures: Sequence[Measure],
        rule: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor] | None = None,
    ) -> None:
        self._measures, self._rule = measures, rule
        self._examples = 0
        self._alike = 0.0
        self._counts = torch.zeros(FLOAT_STEPS + 1, dtype=torch.int64)

    def add(self, found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
        """One batch: codes, or floats where the output is in float."""
        shares = []
        for measure, one, other in zip(self._measures, found, expected, strict=True):
            steps = measure.steps(one, other)
            if self._rule is None:
                shares.append(measure.alike(one, other, steps))
            found_counts = torch.bincount(steps.reshape(-1), minlength=len(self._counts))
            found_counts[: len(self._counts)] += self._counts
            self._counts = found_counts
        if self._rule is not None:
            shares.append(self._rule(found, expected))
        self._examples += len(expected[0])
        self._alike += float(torch.stack(shares).amin(0).sum())

    def agreement(self) -> Agreement:
        """Of all batches so far."""
        total, differing = int(self._counts.sum()), self._counts[1:]
        steps = torch.arange(1, len(self._counts))
        apart = int(differing.sum())
        median = int(steps[differing.cumsum(0) * 2 >= apart][0]) if apart else 0
        return Agreement(
            examples=self._examples,
            decisions=self._alike / self._examples,
            largest_steps=int(steps[differing > 0][-1]) if apart else 0,
            median_steps=float(median),
            equal=1 - apart / total,
            mean_steps=float((differing * steps).sum()) / total,
        )
