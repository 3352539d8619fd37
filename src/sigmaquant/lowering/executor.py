"""The reference: an `IntegerModel` computed with integers alone. Every exported file is verified against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import singledispatch
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sigmaquant.lowering.model import (
    Affine,
    Average,
    Concatenation,
    Convolution,
    Dequantize,
    Edge,
    FloatOperator,
    IntegerModel,
    Linear,
    Lookup,
    MaxPool,
    Move,
    Operator,
    Product,
    Quantize,
    Sum,
)
from sigmaquant.quant.numerics import dequantize_activation, quantize_activation

_EXACT_FLOAT32 = 2**24
_INPUT_SPAN = 255


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
        self.integer_kernels = exact == "integer"
        self._last = _last_uses(model)

    def quantize_inputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The model's float inputs as codes (as they are, where an input edge is float)."""
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
        """Float outputs from float inputs, as the network itself gives them."""
        outputs = self.run_codes(*self.quantize_inputs(*inputs))
        edges = [self.model.edges[name] for name in self.model.outputs]
        real = tuple(x if edge.is_float else decode(x, edge) for x, edge in zip(outputs, edges, strict=True))
        return real[0] if len(real) == 1 else real


def encode(x: Tensor, edge: Edge) -> Tensor:
    """Float values as an edge's codes."""
    return quantize_activation(x, torch.tensor(edge.scale), edge.zero_point, edge.bits)


def decode(codes: Tensor, edge: Edge) -> Tensor:
    """An edge's codes as float values."""
    return dequantize_activation(codes, torch.tensor(edge.scale), edge.zero_point)


def _last_uses(model: IntegerModel) -> Mapping[str, int]:
    last = {name: step for step, operator in enumerate(model.operators) for name in operator.inputs}
    return {name: step for name, step in last.items() if name not in model.outputs}


@singledispatch
def compute(operator: Operator, executor: IntegerExecutor, *inputs: Tensor) -> Tensor:
    """One operator's output codes."""
    raise TypeError(f"the executor does not know {type(operator).__name__}")


def _written(values: Tensor, operator: Any, executor: IntegerExecutor) -> Tensor:
    """Relative codes, which are overwritten, as the output edge's codes."""
    edge = executor.model.edges[operator.output]
    return values.add_(edge.zero_point).clamp_(operator.low, operator.high).to(torch.int8)


def _centred(codes: Tensor, edge: Edge, kind: torch.dtype) -> Tensor:
    return codes.to(kind).sub_(edge.zero_point)


def _rounded_shift_(values: Tensor, shift: Tensor | int) -> Tensor:
    """``(values + 2**(shift-1)) >> shift`` in place, in int32."""
    half = 1 << (shift - 1)
    return values.add_(half).bitwise_right_shift_(shift)


@compute.register
def _(operator: Convolution, executor: IntegerExecutor, codes: Tensor) -> Tensor:
    kind, rank = _kernel_type(operator, executor), len(operator.stride)
    x = _centred(codes, executor.model.edges[operator.inputs[0]], kind)
    weight = torch.from_numpy(operator.codes).to(kind)
    function: Any
    with torch.backends.nnpack.flags(enabled=False):  # its Winograd transform rounds in between
        if operator.transposed:
            function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
            pads = [before for before, _ in operator.padding]
            sums = function(
                x, weight, None, operator.stride, pads, operator.output_padding, operator.groups, operator.dilation
            )
        else:
            function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
            x = F.pad(x, [side for pair in reversed(operator.padding) for side in pair])
            sums = function(x, weight, None, operator.stride, 0, operator.dilation, operator.groups)
    return _layer_output(sums, operator, executor, axis=1)


@compute.register
def _(operator: Linear, executor: IntegerExecutor, codes: Tensor) -> Tensor:
    kind = _kernel_type(operator, executor)
    x = _centred(codes, executor.model.edges[operator.inputs[0]], kind)
    return _layer_output(x @ torch.from_numpy(operator.codes).to(kind).T, operator, executor, axis=-1)


def _layer_output(sums: Tensor, operator: Convolution | Linear, executor: IntegerExecutor, axis: int) -> Tensor:
    view = [1] * sums.dim()
    view[axis] = -1
    total = sums.to(torch.int64).mul_(operator.gain).add_(torch.from_numpy(operator.bias).view(view))
    return _written(operator.factor.apply_(total, axis), operator, executor)


def _kernel_type(operator: Convolution | Linear, executor: IntegerExecutor) -> torch.dtype:
    if executor.integer_kernels:
        return torch.int64
    if torch.get_float32_matmul_precision() != "highest":  # the user lets float32 kernels round to fewer bits
        return torch.float64
    magnitudes = np.abs(operator.codes.astype(np.int64))
    transposed = isinstance(operator, Convolution) and operator.transposed
    reach = magnitudes.sum() if transposed else magnitudes.reshape(len(magnitudes), -1).sum(1).max(initial=0)
    return torch.float32 if int(reach) * _INPUT_SPAN < _EXACT_FLOAT32 else torch.float64


@compute.register
def _(operator: Affine, executor: IntegerExecutor, codes: Tensor) -> Tensor:
    x = _centred(codes, executor.model.edges[operator.inputs[0]], torch.int32)
    view = [1] * x.dim()
    view[operator.axis + 1] = -1
    shift = torch.from_numpy(operator.shift).to(torch.int32).view(view)
    x.mul_(torch.from_numpy(operator.multiplier).view(view)).add_(torch.from_numpy(operator.offset).view(view))
    x.add_(torch.ones_like(shift) << (shift - 1)).bitwise_right_shift_(shift)
    return _written(x, operator, executor)


@compute.register
def _(operator: Sum, executor: IntegerExecutor, *inputs: Tensor) -> Tensor:
    total: Tensor | None = None
    for name, codes, multiplier in zip(operator.inputs, inputs, operator.multipliers, strict=True):
        term = _centred(codes, executor.model.edges[name], torch.int32).mul_(multiplier)
        total = term if total is None else total.add_(term)
    assert total is not None, "a sum has terms"
    return _written(_rounded_shift_(total.add_(operator.offset), operator.shift), operator, executor)


@compute.register
def _(operator: Product, executor: IntegerExecutor, left: Tensor, right: Tensor) -> Tensor:
    edges = executor.model.edges
    product = _centred(left, edges[operator.inputs[0]], torch.int64) * _centred(
        right, edges[operator.inputs[1]], torch.int64
    )
    return _written(operator.factor.apply_(product, 0), operator, executor)


@compute.register
def _(operator: Concatenation, executor: IntegerExecutor, *inputs: Tensor) -> Tensor:
    parts = []
    for name, codes, multiplier, shift in zip(
        operator.inputs, inputs, operator.multipliers, operator.shifts, strict=True
    ):
        relative = _centred(codes, executor.model.edges[name], torch.int32).mul_(multiplier)
        parts.append(_written(_rounded_shift_(relative, shift), operator, executor))
    return torch.cat(parts, operator.axis + 1)


@compute.register
def _(operator: Average, executor: IntegerExecutor, codes: Tensor) -> Tensor:
    x = _centred(codes, executor.model.edges[operator.inputs[0]], torch.int64)
    if not operator.kernel:
        sums = x.sum([d + 1 for d in operator.dims], keepdim=operator.keepdim)
    else:
        x = F.pad(x, [side for p in reversed(operator.padding) for side in (p, p)])
        for axis, (size, step) in enumerate(zip(operator.kernel, operator.stride, strict=True)):
            x = x.unfold(2 + axis, size, step)
        sums = x.sum(list(range(-len(operator.kernel), 0)))
    return _written(operator.factor.apply_(sums, 0), operator, executor)


@compute.register
def _(operator: MaxPool, executor: IntegerExecutor, codes: Tensor) -> Tensor:
    function: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(operator.kernel) - 1]
    shape = (operator.kernel, operator.stride, operator.padding, operator.dilation, operator.ceil_mode)
    result: Tensor = function(codes.float(), *shape).to(torch.int8)  # int8 is exact in float32
    return result


@compute.register
def _(operator: Lookup, executor: IntegerExecutor, codes: Tensor) -> Tensor:
    return torch.from_numpy(operator.table)[codes.to(torch.int64) + 128]


@compute.register
def _(operator: Move, executor: IntegerExecutor, codes: Tensor) -> Tensor:
    return operator.apply(codes.float()).to(torch.int8)  # codes are exact, and every operator knows float32


@compute.register
def _(operator: FloatOperator, executor: IntegerExecutor, *inputs: Tensor) -> Tensor:
    result: Tensor = operator.apply(*inputs)
    return result


@compute.register
def _(operator: Quantize, executor: IntegerExecutor, x: Tensor) -> Tensor:
    return encode(x, executor.model.edges[operator.output])


@compute.register
def _(operator: Dequantize, executor: IntegerExecutor, codes: Tensor) -> Tensor:
    return decode(codes, executor.model.edges[operator.inputs[0]])
