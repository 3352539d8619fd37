"""Recurrent layers as TensorFlow Lite Micro computes them: LiteRT's steps, with the scales of rows behind products.

The runtime turns integers into floats with one scale for a whole tensor, whatever the file says.
"""

from __future__ import annotations

import numpy as np

from sigmaquant.export.litert.emission import emit
from sigmaquant.export.litert.flatbuffer import Grid
from sigmaquant.export.litert.recurrent import Steps, write_steps
from sigmaquant.export.litert.values import Values
from sigmaquant.export.tflm.form import MicroRecurrent
from sigmaquant.operators import Matrix


@emit.register
def _(operator: MicroRecurrent, values: Values) -> None:
    write_steps(operator, values, MicroSteps(operator, values))


class MicroSteps(Steps):
    """The tensors of one layer."""

    def weight(self, matrix: Matrix) -> int:
        """A matrix's codes as floats."""
        codes = np.ascontiguousarray(matrix.codes)
        stored = self.graph.tensor(f"{matrix.layer}.weight", codes.shape, "INT8", Grid((1.0,)), codes.tobytes())
        weight = self.graph.tensor(f"{matrix.layer}.weight.real", codes.shape, "FLOAT32")
        self.graph.operator("DEQUANTIZE", (stored,), weight, 5, "DequantizeOptions")
        return weight

    def product(self, x: int, matrix: Matrix, weight: int | None = None) -> int:
        """Sums of whole numbers, then the rows' scales, then the bias."""
        shape = (*self.graph.shape(x)[:-1], len(matrix.codes))
        sums = self.real.tensor(shape)
        fields = {"keepNumDims": len(shape) > 2, "fusedActivationFunction": self.graph.activation("NONE")}
        inputs = (x, self.weight(matrix) if weight is None else weight, self.real.constant(np.zeros(len(matrix.codes))))
        self.graph.operator("FULLY_CONNECTED", inputs, sums, 5, "FullyConnectedOptions", **fields)
        return self.binary("ADD", self.binary("MUL", sums, self.real.constant(matrix.scale)), self.bias(matrix))
