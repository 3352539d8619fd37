"""Softmax and normalizations inside a network, in float between two grids: the runtime has no kernels with 64-bit sums.

Each reads codes as float values, computes in float32, and brings the result to its grid with one rounding, so that a
code is the reference's but where float32 rounds a value across a half: rarely, and by one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sigmaquant.export.litert.emission import emit
from sigmaquant.export.litert.values import Values
from sigmaquant.operators import Norm, Softmax
from sigmaquant.operators.norm import FRACTION_BITS

_EXCLUDED = -1e9
_LEAST = 1e-12


class Real:
    """Float tensors of one operator, in the network's own layout."""

    def __init__(self, values: Values, name: str) -> None:
        self.values, self.graph, self.name = values, values.graph, name

    def tensor(self, shape: tuple[int, ...]) -> int:
        """A new one."""
        return self.graph.tensor(f"{self.name}.real", shape, "FLOAT32")

    def constant(self, value: NDArray[Any] | float) -> int:
        """Numbers that broadcast."""
        array = np.asarray(value, dtype="<f4")
        array = array.reshape((1,) * (1 - array.ndim) + array.shape)
        return self.graph.tensor(f"{self.name}.constant", array.shape, "FLOAT32", data=array.tobytes())

    def read(self, edge: str) -> int:
        """An edge's values."""
        source = self.values.plain(edge)
        target = self.tensor(self.graph.shape(source))
        self.graph.operator("DEQUANTIZE", (source,), target, 2, "DequantizeOptions")
        return target

    def __call__(self, code: str, first: int, second: int) -> int:
        """An operator of two tensors, of the first one's shape."""
        target = self.tensor(self.graph.shape(first))
        self.graph.operator(code, (first, second), target, 1, f"{code.capitalize()}Options")
        return target

    def mean(self, source: int, axes: tuple[int, ...]) -> int:
        """Over axes of an example, which stay with size one."""
        dims = [axis + 1 for axis in axes]
        shape = tuple(1 if place in dims else size for place, size in enumerate(self.graph.shape(source)))
        target, over = self.tensor(shape), self.graph.integers("axes", dims)
        self.graph.operator("MEAN", (source, over), target, 1, "ReducerOptions", keepDims=True)
        return target

    def unary(self, code: str, source: int, options: str = "", **fields: Any) -> int:
        """An operator of one tensor, of its shape."""
        target = self.tensor(self.graph.shape(source))
        self.graph.operator(code, (source,), target, 1, options, **fields)
        return target

    def write(self, operator: Softmax | Norm, source: int) -> None:
        """Values as the operator's output."""

        def quantize(target: int, activation: int) -> None:
            self.graph.operator("QUANTIZE", (source,), target, 1, "QuantizeOptions")

        self.values.clamped(operator.output, (operator.low, operator.high), "plain", quantize, fuse=False)


@emit.register
def _(operator: Softmax, values: Values) -> None:
    real = Real(values, operator.name)
    scores, mask = real.read(operator.inputs[0]), operator.mask
    if mask is not None:
        admitted = mask.reshape((1,) * (len(values.graph.shape(scores)) - mask.ndim) + mask.shape)
        scores = real("ADD", scores, real.constant(np.where(admitted, 0.0, _EXCLUDED)))
    given = None
    if len(operator.inputs) > 1:  # 0, or far below where nothing takes part
        given = real.read(operator.inputs[1])
        below = real("SUB", given, real.constant(1.0))
        scores = real("ADD", scores, real("MUL", below, real.constant(-_EXCLUDED)))
    shares = real.unary("SOFTMAX", scores, "SoftmaxOptions", beta=1.0)
    if mask is not None:  # a row that nothing takes part in is zero
        shares = real("MUL", shares, real.constant(admitted.astype(np.float32)))
    if given is not None:
        shares = real("MUL", shares, given)
    real.write(operator, shares)


@emit.register
def _(operator: Norm, values: Values) -> None:
    real, edges = Real(values, operator.name), values.model.edges
    source, output = edges[operator.inputs[0]], edges[operator.output]
    count = math.prod(source.shape[axis] for axis in operator.axes)
    x = real.read(source.name)
    if operator.centred:
        x = real("SUB", x, real.mean(x, operator.axes))
    variance = real.mean(real("MUL", x, x), operator.axes)
    epsilon = operator.epsilon * source.scale**2 / count**2 / 4.0**operator.root_bits
    variance = real("ADD", variance, real.constant(max(epsilon, _LEAST)))
    y = real("MUL", x, real.unary("RSQRT", variance))
    unit = 2.0**-operator.shift * output.scale
    factor, offset = operator.multiplier * unit * 2.0**FRACTION_BITS, operator.offset * unit
    y = real("MUL", y, real.constant(factor[None]))
    real.write(operator, real("ADD", y, real.constant(offset[None])))
