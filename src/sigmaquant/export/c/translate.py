"""From an `IntegerModel` to a `Program`: what is common to all operators."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sigmaquant.errors import ExportError
from sigmaquant.export.c.layout import RANK, Ints, View, channels_last, collapsed, dense, natural
from sigmaquant.export.c.names import Names
from sigmaquant.export.c.program import Program, Scratch, Step
from sigmaquant.lowering import IntegerModel
from sigmaquant.lowering.model import Edge, Operator

_INT32 = 2**31


def refuse(name: str, what: str, remedy: str) -> ExportError:
    """The error for an operator that C has no kernel for."""
    return ExportError(f"{name!r}: {what}. {remedy}")


class Translation:
    """The program while it is built.

    Args:
        model: what is translated.
        prefix: of all symbols.
    """

    def __init__(self, model: IntegerModel, prefix: str) -> None:
        self.model, self.prefix, self.program, self._names = model, prefix, Program(), Names()
        self._values: dict[str, View] = {}
        for number, name in enumerate(model.inputs):
            edge = model.edges[name]
            self._values[name] = self.program.buffer(edge.shape, caller=argument("input", number, len(model.inputs)))

    # -- values --------------------------------------------------------------------------------------------------

    def edge(self, name: str) -> Edge:
        """An edge of the model."""
        return self.model.edges[name]

    def input(self, operator: Operator, number: int = 0) -> View:
        """What an operator reads."""
        return self._values[operator.inputs[number]]

    def input_zero(self, operator: Operator, number: int = 0) -> int:
        """Its zero-point."""
        return self.edge(operator.inputs[number]).zero_point

    def input_as(self, operator: Operator, strides: Ints, number: int = 0) -> View:
        """What an operator reads, dense with these strides; copied where it lies in another way."""
        view = self.input(operator, number)
        if view.has(strides):
            return view
        copy = self.program.buffer(view.shape, strides)
        self.copy(operator.name, view, copy)
        return copy

    def input_dense(self, operator: Operator) -> View:
        """What an operator reads, without gaps, in whatever order of dimensions it has."""
        view = self.input(operator)
        return self.input_as(operator, dense(view.shape, view.strides))

    def input_windowed(self, operator: Operator) -> View:
        """What an operator reads, channels last."""
        return self.input_as(operator, channels_last(self.input(operator).shape))

    def output(self, operator: Operator, strides: Ints | None = None) -> View:
        """A new buffer for what an operator writes; `strides` default to the model's own order."""
        view = self.program.buffer(self.edge(operator.output).shape, strides)
        self._values[operator.output] = self.program.edges[operator.output] = view
        return view

    def alias(self, operator: Operator, view: View) -> None:
        """An operator's output that is a view of what there is."""
        self._values[operator.output] = view

    # -- calls ---------------------------------------------------------------------------------------------------

    def step(
        self,
        name: str,
        kernel: str,
        parameters: dict[str, Any],
        inputs: tuple[View, ...],
        output: View,
        scratch: Scratch = Scratch(0),  # noqa: B008  # frozen
        macs: int = 0,
    ) -> None:
        """A call."""
        self.program.steps.append(Step(name, kernel, parameters, inputs, output, scratch, macs=macs))

    def copy(self, name: str, source: View, target: View) -> None:
        """Codes to another place."""
        size, x, y = self.loops(name, source.shape, source.strides, target.strides)
        self.step(name, "sq_copy", {"size": size, "x_stride": x, "y_stride": y}, (source,), target)

    def loops(self, name: str, shape: Ints, *strides: Ints) -> tuple[Ints, ...]:
        """Sizes and steps of a kernel's loops.

        Raises:
            ExportError: more dimensions than the kernels have loops.
        """
        found = collapsed(shape, *strides)
        if found is None:
            raise refuse(name, f"shape {list(shape)} needs more than {RANK} nested loops", "Reshape it to fewer axes.")
        return found

    def table(self, owner: str, kind: str, values: NDArray[Any]) -> str:
        """Constants; `owner` and `kind` make up their name."""
        return self.program.table(self._names.unique(f"{self.prefix}_{owner}_{kind}"), np.ascontiguousarray(values))

    # -- end -----------------------------------------------------------------------------------------------------

    def finish(self) -> Program:
        """The program with its outputs where the caller wants them."""
        outputs = self.model.outputs
        for number, name in enumerate(outputs):
            view, place = self._values[name], argument("output", number, len(outputs))
            whole = view.count == self.program.sizes[view.buffer] and view.has(natural(view.shape))
            if whole and view.buffer not in self.program.callers:
                self.program.callers[view.buffer] = place
            else:
                self.copy(name, view, self.program.buffer(view.shape, caller=place))
        return self.program


def argument(kind: str, number: int, count: int) -> str:
    """The C name of an input or output.

    Example:
        >>> argument("input", 0, 1), argument("output", 1, 2)
        ('input', 'output_1')
    """
    return kind if count == 1 else f"{kind}_{number}"


def rounding_offset(name: str, offset: int, shift: int, multipliers: list[int], zeros: list[int]) -> int:
    """One constant for the offset, the rounding, and the zero-points of all inputs.

    Raises:
        ExportError: the sum does not fit into 32 bits.
    """
    if not 1 <= shift <= 30:
        raise refuse(name, f"its shift {shift} is not in 1..30", "Lower the network again.")
    total = offset + (1 << (shift - 1)) - sum(m * z for m, z in zip(multipliers, zeros, strict=True))
    if abs(total) + sum(abs(m) for m in multipliers) * 128 >= _INT32:
        raise refuse(name, "its sum does not fit into 32 bits", "Calibrate on data like those of use.")
    return total
