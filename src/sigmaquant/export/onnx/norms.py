"""Normalizations: in float between codes, as their integers say."""

from __future__ import annotations

from math import prod

import numpy as np

from sigmaquant.export.onnx.translation import Translation, translate
from sigmaquant.operators import Norm
from sigmaquant.operators.norm import FRACTION_BITS


@translate.register
def _(operator: Norm, to: Translation) -> None:
    """With the reference's rounding in the middle: without it, one code in 600 is another."""
    builder, edge, name = to.builder, to.edge(operator), operator.name
    size = tuple(edge.shape[axis] for axis in operator.axes)
    # a root is at least one of its units: also where nothing is added, nothing is divided by 0
    epsilon = max(operator.epsilon, 1) * (edge.scale**2 / prod(size) ** 2 * 4.0**-operator.root_bits)
    value, places = to.real(edge), float(2**FRACTION_BITS)
    if operator.centred:
        constants = [
            builder.constant(np.full(size, number, np.float32), f"{name}.{key}")
            for key, number in (("places", places), ("half", 0.5))
        ]
        first = operator.axes[0] + 1
        value = builder.node(
            "LayerNormalization",
            [value, *constants],
            name=name,
            hint=f"{name}.normal",
            axis=first,
            epsilon=epsilon,
        )
    else:
        value = to.mapped(_relative(operator, value, epsilon, to), places, 0.5, f"{name}.normal")
    value = builder.node("Floor", [value], hint=f"{name}.whole")
    step = 2.0**-operator.shift * to.model.edges[operator.output].scale
    tie = to.tie(operator.multiplier, operator.offset, operator.shift, operator)
    to.write(to.mapped(value, operator.multiplier * step, operator.offset * step + tie, name), operator)


def _relative(operator: Norm, value: str, epsilon: float, to: Translation) -> str:
    """Values relative to the root of their mean square."""
    builder, name = to.builder, operator.name
    squares = builder.node("Mul", [value, value], hint=f"{name}.squares")
    axes = builder.integers(*(axis + 1 for axis in operator.axes))
    mean = builder.node("ReduceMean", [squares, axes], hint=f"{name}.mean", keepdims=1)
    least = builder.constant(np.array(epsilon, np.float32), f"{name}.epsilon")
    root = builder.node("Sqrt", [builder.node("Add", [mean, least], hint=f"{name}.sum")], hint=f"{name}.root")
    return builder.node("Div", [value, root], name=name, hint=f"{name}.relative")
