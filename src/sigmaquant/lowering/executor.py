"""The reference: an `IntegerModel` computed with integers alone. Every exported file is verified against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sigmaquant.lowering.model import Dequantize, FloatOperator, IntegerModel, Quantize
from sigmaquant.operators.edge import Edge, decode, encode
from sigmaquant.operators.node import Reference, compute


class IntegerExecutor:
    """Runs an `IntegerModel`.

    Codes are int8, sums int64. A convolution's sum of products is computed by floating-point kernels where each partial
    sum provably is an integer that the format holds exactly (below 2**24 in float32, 2**53 in float64): the same
    integers, faster than torch's integer kernels; ``exact="integer"`` uses those, and tests compare the two.

    Args:
        model: the network.
        exact: ``"float"`` or ``"integer"``.
    """

    def __init__(self, model: IntegerModel, exact: str = "float") -> None:
        self.model = model
        self.edges: Mapping[str, Edge] = model.edges
        self.integer_kernels = exact == "integer"
        self._last = _last_uses(model)

    def quantize_inputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The model's inputs as codes (as they are, where an input edge is float)."""
        edges = [self.model.edges[name] for name in self.model.inputs]
        return tuple(x if edge.is_float else encode(x, edge) for x, edge in zip(inputs, edges, strict=True))

    def run_codes(self, *codes: Tensor, watch: Callable[[Edge, Tensor], None] | None = None) -> tuple[Tensor, ...]:
        """Output codes from input codes.

        Args:
            codes: int8, batch first, one for each input.
            watch: called with every edge and its codes.
        """
        values: dict[str, Tensor] = dict(zip(self.model.inputs, codes, strict=True))
        if watch is not None:
            for name, value in values.items():
                watch(self.model.edges[name], value)
        for step, operator in enumerate(self.model.operators):
            inputs = [values[name] for name in operator.inputs]
            values[operator.output] = compute(operator, self, *inputs)
            if watch is not None:
                watch(self.model.edges[operator.output], values[operator.output])
            for name in operator.inputs:
                if self._last.get(name) == step:
                    values.pop(name, None)
        return tuple(values[name] for name in self.model.outputs)

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Float outputs from float inputs, in the order in which the network's nested outputs are walked."""
        outputs = self.run_codes(*self.quantize_inputs(*inputs))
        edges = [self.model.edges[name] for name in self.model.outputs]
        real = tuple(decode(x, edge) if edge.has_grid else x for x, edge in zip(outputs, edges, strict=True))
        own = tuple(x.movedim(0, e.batch_axis) if e.batch_axis else x for x, e in zip(real, edges, strict=True))
        return own[0] if len(own) == 1 else own


def _last_uses(model: IntegerModel) -> Mapping[str, int]:
    last = {name: step for step, operator in enumerate(model.operators) for name in operator.inputs}
    return {name: step for name, step in last.items() if name not in model.outputs}


@compute.register
def _(operator: FloatOperator, reference: Reference, *inputs: Tensor) -> Tensor:
    result: Tensor = operator.apply(*inputs)
    return result


@compute.register
def _(operator: Quantize, reference: Reference, x: Tensor) -> Tensor:
    return encode(x, reference.edges[operator.output])


@compute.register
def _(operator: Dequantize, reference: Reference, codes: Tensor) -> Tensor:
    return decode(codes, reference.edges[operator.inputs[0]])
