"""Whether a file's own activations follow from one another, operator by operator.

Decisions hide much: of files with changed numbers many still decide like the reference. Where a file shows its inner
codes, each integer operator of the reference is fed with the *file's* codes, and its result is held against the file's:
what a runtime rounds otherwise is a step at most, at any depth, and a changed number is seen where it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sigmaquant.lowering import IntegerExecutor, IntegerModel
from sigmaquant.operators import Operator, Weighted, compute

LARGEST_STEPS = 1
"""How far a runtime's rounding is from the reference's."""
TIES = 0.3
"""Share of an activation's codes that may be a step off: sums and means meet ties, which runtimes round their way."""
NO_TIES = 0.02
"""The same for each channel of a layer with weights, which meets none."""
EXAMPLES = 64


@dataclass(frozen=True)
class CodesFound:
    """What a file's activations show.

    Attributes:
        activations: how many could be compared.
        largest_steps: largest difference of one code.
        tied: largest share of an activation's codes that differ.
        layers: the same over channels of layers with weights.
        difference: the first that is beyond the bounds; empty: none.
    """

    activations: int
    largest_steps: int
    tied: float
    layers: float
    difference: str = ""


@torch.no_grad()
def compare_codes(
    model: IntegerModel, inputs: Sequence[Tensor], shown: Mapping[str, Tensor], bounded: bool = True
) -> CodesFound:
    """Hold a file's activations against what the reference's operators make of them.

    Args:
        model: the reference, in the form that the file holds.
        inputs: a batch of float inputs, in the model's order.
        shown: the file's codes of its activations, by name, of the same batch.
        bounded: stop at the first that is beyond the bounds; False: measure all.
    """
    executor = IntegerExecutor(model)
    values: dict[str, Any] = dict(zip(model.inputs, executor.quantize_inputs(*inputs), strict=True))
    activations, largest, tied, layers = 0, 0, 0.0, 0.0
    for operator in model.operators:
        result: Any = compute(operator, executor, *(values[name] for name in operator.inputs))
        theirs = shown.get(operator.output)
        if theirs is not None and not model.edges[operator.output].is_float:
            if theirs.numel() != result.numel():
                said = f"activation {operator.output!r} has {theirs.numel()} values, not {result.numel()}"
                return CodesFound(activations, largest, tied, layers, said)
            theirs = theirs.reshape(result.shape)
            steps = (theirs.to(torch.int64) - result.to(torch.int64)).abs()
            activations += 1
            largest = max(largest, int(steps.max()))
            share, bound = _share(operator, steps), NO_TIES if isinstance(operator, Weighted) else TIES
            if isinstance(operator, Weighted):
                layers = max(layers, share)
            else:
                tied = max(tied, share)
            if bounded and (int(steps.max()) > LARGEST_STEPS or share > bound):
                said = (
                    f"activation {operator.output!r}: {100 * share:.3g} % of its codes are not what "
                    f"{type(operator).__name__} {operator.name!r} makes of the file's own codes before it, by up to "
                    f"{int(steps.max())} steps"
                )
                return CodesFound(activations, largest, tied, layers, said)
            result = theirs
        values[operator.output] = result
    return CodesFound(activations, largest, tied, layers)


def _share(operator: Operator, steps: Tensor) -> float:
    """Of codes that differ: of all, or of the worst channel of a layer."""
    differs = (steps > 0).double()
    if not isinstance(operator, Weighted):
        return float(differs.mean())
    axis = 1 if steps.dim() > 2 else -1
    return float(differs.movedim(axis, 0).flatten(1).mean(1).max())
