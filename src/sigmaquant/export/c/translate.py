"""From an `IntegerModel` to a `Program`: what is common to all operators, and `emit`, which each family adds to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sigmaquant.errors import ExportError
from sigmaquant.export.c.layout import RANK, Ints, Loop, View, channels_last, loops, natural
from sigmaquant.export.c.names import Names
from sigmaquant.export.c.planes import SharedConstants
from sigmaquant.export.c.program import Program, Scratch, Step
from sigmaquant.export.c.rows import pack_rows
from sigmaquant.lowering import IntegerModel
from sigmaquant.operators import Edge, Operator
from sigmaquant.operators.fixed_point import Factor

_INT32 = 2**31


def refuse(name: str, what: str, remedy: str) -> ExportError:
    """The error for an operator that C has no kernel for."""
    return ExportError(f"{name!r}: {what}. {remedy}")


class Translation:
    """The program while it is built.

    Kernels of windows and vectors see one row of an example at a time: `step` loops over rows. What works along strides
    sees all of them, the rows being one more dimension (`whole`, `output_whole`).

    Args:
        model: what is translated.
        prefix: of all symbols.
        shared: constants that several plans share; None: this is the only one.
    """

    def __init__(self, model: IntegerModel, prefix: str, shared: SharedConstants | None = None) -> None:
        self.model, self.prefix, self.shared = model, prefix, shared
        self.program, self._names = Program(), Names()
        if shared is not None:
            self.program, self._names = shared.program(), shared.names
        self._values: dict[str, View] = {}
        for number, name in enumerate(model.inputs):
            edge = model.edges[name]
            if not edge.is_float:
                place = argument("input", number, len(model.inputs))
                self._values[name] = self.program.buffer(edge.shape, rows=edge.rows, caller=place)

    # -- values --------------------------------------------------------------------------------------------------

    def edge(self, name: str) -> Edge:
        """An edge of the model."""
        return self.model.edges[name]

    def shape(self, operator: Operator) -> Ints:
        """Of all rows of what an operator writes."""
        edge = self.edge(operator.output)
        return edge.shape if edge.rows == 1 else (edge.rows, *edge.shape)

    def lead(self, operator: Operator) -> int:
        """How many dimensions stand before an example's own in `whole`: 1 where there are several rows."""
        return int(self.edge(operator.inputs[0]).rows > 1)

    def input(self, operator: Operator, number: int = 0) -> View:
        """A row of what an operator reads."""
        return self._values[operator.inputs[number]]

    def whole(self, operator: Operator, number: int = 0) -> View:
        """All rows of what an operator reads."""
        return self.input(operator, number).whole

    def input_zero(self, operator: Operator, number: int = 0) -> int:
        """Its zero-point."""
        return self.edge(operator.inputs[number]).zero_point

    def input_as(self, operator: Operator, strides: Ints, number: int = 0) -> View:
        """A row of what an operator reads, dense with these strides; copied where it lies in another way."""
        view = self.input(operator, number)
        if view.has(strides):
            return view
        copy = self.program.buffer(view.shape, strides, view.rows)
        self.copy(operator.name, view, copy)
        return copy

    def input_windowed(self, operator: Operator) -> View:
        """A row of what an operator reads, channels last."""
        return self.input_as(operator, channels_last(self.input(operator).shape))

    def whole_as(self, operator: Operator, strides: Ints) -> View:
        """All rows of what an operator reads, dense with these strides."""
        view = self.whole(operator)
        if view.has(strides):
            return view
        copy = self.program.buffer(view.shape, strides)
        self.copy(operator.name, view, copy)
        return copy

    def whole_dense(self, operator: Operator) -> View:
        """All rows of what an operator reads, without gaps, in whatever order of dimensions they have."""
        return self.whole_as(operator, self.whole(operator).dense)

    def output(self, operator: Operator, strides: Ints | None = None) -> View:
        """A new buffer for what an operator writes; `strides` of a row default to the model's own order."""
        edge = self.edge(operator.output)
        return self._written(operator, self.program.buffer(edge.shape, strides, edge.rows))

    def output_whole(self, operator: Operator, strides: Ints | None = None) -> View:
        """The same with strides of all rows."""
        whole = self.program.buffer(self.shape(operator), strides)
        self._written(operator, whole.folded(self.edge(operator.output).rows))
        return whole

    def _written(self, operator: Operator, view: View) -> View:
        self._values[operator.output] = self.program.edges[operator.output] = view
        return view

    def alias(self, operator: Operator, whole: View) -> None:
        """An operator's output that is a view of what there is, of all rows."""
        self._values[operator.output] = whole.folded(self.edge(operator.output).rows)

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
        around: Sequence[Loop] = (),
    ) -> None:
        """A call for each row, in the loops `around` it."""
        if output.rows > 1:
            around = (Loop(output.rows, tuple(view.row_stride for view in (*inputs, output))), *around)
        self.program.steps.append(
            Step(name, kernel, parameters, inputs, output, scratch, macs=macs, loops=tuple(around))
        )

    def strided(
        self,
        name: str,
        kernel: str,
        shape: Ints,
        strides: Mapping[str, Ints],
        parameters: Mapping[str, Any],
        views: tuple[View, ...],
        outermost: Loop | None = None,
        innermost: Loop | None = None,
    ) -> None:
        """A call that walks along strides.

        Args:
            name: of the operator.
            kernel: has loops of `RANK` sizes; what is more stands around the call.
            shape: that is walked over.
            strides: by the kernel's field; tables first, then inputs, then the output.
            parameters: its other fields.
            views: inputs and the output.
            outermost: a loop besides those over `shape` that must be the kernel's first one.
            innermost: the same for the last one.
        """
        first, last = ([] if pinned is None else [pinned] for pinned in (outermost, innermost))
        found, room = loops(shape, *strides.values()), RANK - len(first) - len(last)
        around, inner = found[:-room], found[-room:]
        inner = [*first, *[Loop(1, (0,) * len(strides))] * (room - len(inner)), *inner, *last]
        fields = {key: tuple(loop.steps[i] for loop in inner) for i, key in enumerate(strides)}
        tables = len(strides) - len(views)
        assert not any(any(loop.steps[:tables]) for loop in around), "tables stay where they are"
        around = [Loop(loop.count, loop.steps[tables:]) for loop in around]
        sizes = tuple(loop.count for loop in inner)
        self.step(name, kernel, {"size": sizes, **fields, **parameters}, views[:-1], views[-1], around=around)

    def copy(self, name: str, source: View, target: View) -> None:
        """Codes to another place."""
        source, target = source.whole, target.whole
        strides = {"x_stride": source.strides, "y_stride": target.strides}
        self.strided(name, "sq_copy", source.shape, strides, {}, (source, target))

    def table(self, owner: str, kind: str, values: NDArray[Any]) -> str:
        """Constants; `owner` and `kind` make up their name."""
        name = self._names.unique(f"{self.prefix}_{owner}_{kind}")
        return self.program.table(name, np.ascontiguousarray(values), owner)

    def codes(self, layer: str, rows: NDArray[np.int8], bits: int, midrise: bool) -> dict[str, Any]:
        """The fields of ``sq_layer`` that say where a layer's codes are: packed rows, or planes of several plans."""
        rows = np.ascontiguousarray(rows)
        if self.shared is not None:
            found = self.shared.codes(layer, rows, bits, self.table)
            if found is not None:
                return found
        packed = pack_rows(rows, bits, midrise)
        return {
            "codes": self.table(layer, "codes", packed),
            "unpack": f"sq_unpack_{'odd_' if midrise else ''}{bits}",
            "bits": bits,
            "row_bytes": packed.shape[1],
        }

    # -- end -----------------------------------------------------------------------------------------------------

    def finish(self) -> Program:
        """The program with its outputs where the caller wants them."""
        outputs = self.model.outputs
        for number, name in enumerate(outputs):
            if self.edge(name).is_float:  # an input that the network returns as it is
                continue
            view, place = self._values[name].whole, argument("output", number, len(outputs))
            whole = view.count == self.program.sizes[view.buffer] and view.has(natural(view.shape))
            if whole and view.buffer not in self.program.callers:
                self.program.callers[view.buffer] = place
            else:
                self.copy(name, view, self.program.buffer(view.shape, caller=place))
        return self.program


@singledispatch
def emit(operator: Operator, to: Translation) -> None:
    """Appends one operator's calls."""
    raise refuse(operator.name, f"{type(operator).__name__} has no C kernel", "Export to ONNX instead.")


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


def grid_fields(operator: Any, to: Translation) -> dict[str, int]:
    """What every kernel knows of the output's grid."""
    return {"out_zero": to.edge(operator.output).zero_point, "low": operator.low, "high": operator.high}


def factor_fields(factor: Factor) -> dict[str, int]:
    """One factor."""
    return {"mantissa": int(factor.mantissa[0]), "shift": int(factor.shift[0])}
