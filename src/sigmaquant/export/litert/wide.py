"""Arithmetic in 32 bits, number by number: exact, but slower than kernels for 8 bits. For what these do not compute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sigmaquant.export.litert.values import HIGHEST, LOWEST, Layout, Values

_OPTIONS = {"ADD": "Add", "SUB": "Sub", "MUL": "Mul", "MAXIMUM": "MaximumMinimum", "MINIMUM": "MaximumMinimum",
            "RIGHT_SHIFT": "RightShift", "FLOOR_DIV": "FloorDiv"}  # fmt: skip


class Wide:
    """int32 tensors of one operator.

    Args:
        values: of the file.
        label: what the tensors are called.
    """

    def __init__(self, values: Values, label: str) -> None:
        self.values, self.graph, self.label = values, values.graph, label

    def codes(self, name: str, layout: Layout) -> int:
        """An edge's integers as they are in the file; their zero is at ``values.zero(name)``."""
        kinds = self.graph.schema.TensorType
        return self._cast(self.values.read(name, layout), kinds.INT8, kinds.INT32, "INT32")

    def relative(self, name: str, layout: Layout) -> int:
        """An edge's codes relative to its zero-point."""
        codes, zero = self.codes(name, layout), self.values.zero(name)
        return self("SUB", codes, zero) if zero else codes

    def cast(self, source: int, before: str, after: str) -> int:
        """A tensor as one of another type."""
        kinds = self.graph.schema.TensorType
        return self._cast(source, getattr(kinds, before), getattr(kinds, after), after)

    def constant(self, numbers: int | NDArray[np.int32]) -> int:
        """Numbers that broadcast."""
        array = np.atleast_1d(np.asarray(numbers, dtype=np.int32))
        return self.graph.tensor(f"{self.label}.number", array.shape, "INT32", data=array.astype("<i4").tobytes())

    def __call__(self, code: str, left: int, right: int | NDArray[np.int32], tensor: bool = False) -> int:
        """One operation of two operands that broadcast.

        Args:
            code: its name in the schema.
            left: a tensor.
            right: a number, an array, or, if `tensor` says so, a tensor.
            tensor: whether `right` is one.
        """
        if not tensor:
            right = self.constant(right)
        assert isinstance(right, int), "constants are tensors now"
        shapes = [self.graph.shape(left), self.graph.shape(right)]
        shape = np.broadcast_shapes(*shapes)
        target = self.graph.tensor(f"{self.label}.wide", shape, "INT32")
        broad = shapes[0] != shapes[1] and len(shape) > 4
        version = 3 if broad and code in ("SUB", "MAXIMUM", "MINIMUM") else 1
        self.graph.operator(code, (left, right), target, version, f"{_OPTIONS[code]}Options")
        return target

    def reduced(self, source: int, axis: int) -> int:
        """Sums along an axis, which stays with size one."""
        shape = list(self.graph.shape(source))
        shape[axis] = 1
        target = self.graph.tensor(f"{self.label}.wide", shape, "INT32")
        inputs = (source, self.graph.integers("axes", (axis,)))
        self.graph.operator("SUM", inputs, target, 1, "ReducerOptions", keepDims=True)
        return target

    def taken(self, source: int, axis: int, indices: Sequence[int]) -> int:
        """Indices of an axis."""
        shape = list(self.graph.shape(source))
        shape[axis] = len(indices)
        target = self.graph.tensor(f"{self.label}.wide", shape, "INT32")
        inputs = (source, self.graph.integers("indices", indices))
        self.graph.operator("GATHER", inputs, target, 1, "GatherOptions", axis=axis)
        return target

    def shifted(self, source: int, bits: int) -> int:
        """Divided by a power of two, rounded half up."""
        return self("RIGHT_SHIFT", self("ADD", source, 1 << (bits - 1)), bits) if bits else source

    def write(self, relative: int, name: str, ends: tuple[int, int], layout: Layout) -> None:
        """An output edge from codes relative to its zero-point, clamped to ``low..high``."""
        zero, shift = self.values.zero(name), self.values.shift(name)
        low, high = (max(LOWEST, min(HIGHEST, end + shift)) - zero for end in ends)
        found = self("MINIMUM", self("MAXIMUM", relative, low), high)
        found = self("ADD", found, zero) if zero else found
        kinds = self.graph.schema.TensorType
        self._cast(found, kinds.INT32, kinds.INT8, self.values.new(name, layout))

    def _cast(self, source: int, before: int, after: int, target: int | str) -> int:
        if isinstance(target, str):
            target = self.graph.tensor(f"{self.label}.wide", self.graph.shape(source), target)
        self.graph.operator("CAST", (source,), target, 3, "CastOptions", inDataType=before, outDataType=after)
        return target
