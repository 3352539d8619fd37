"""Recurrent layers step by step, in float between hidden states on their grid.

The runtime's own LSTM has one scale for a whole matrix and none of GRU and RNN; and it keeps its state from one call to
the next. So steps are written out: weights are stored with 8 bits and a scale for each row and read as floats, gates
are computed in float32 with the reference's clipping, and every hidden state is brought to its grid with one rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sigmaquant.export.litert.attention import Real
from sigmaquant.export.litert.emission import emit
from sigmaquant.export.litert.flatbuffer import Grid
from sigmaquant.export.litert.values import HIGHEST, LOWEST, Values
from sigmaquant.operators import Matrix, Recurrent
from sigmaquant.operators.recurrent import GATE_BITS, GATES, UNIT_BITS

_GATE_LIMIT = 2.0 ** (UNIT_BITS - GATE_BITS)
_UNIT = 2.0**-UNIT_BITS


@emit.register
def _(operator: Recurrent, values: Values) -> None:
    write_steps(operator, values, Steps(operator, values))


def write_steps(operator: Recurrent, values: Values, layer: Steps) -> None:
    """Write a layer from the tensors of its steps."""
    outputs, cell = layer.run(operator.result == "sequence")
    if operator.result == "cell":
        assert cell is not None, "an LSTM has one"
        target = values.new(operator.output, "plain")
        low = values.model.edges[operator.output].range[0] + values.shift(operator.output)
        flat = values.like(operator.output, values.graph.shape(cell), f"{operator.output}.unclamped")
        values.graph.operator("QUANTIZE", (cell,), flat, 1, "QuantizeOptions")
        if low > LOWEST:
            source, flat = flat, values.like(operator.output, values.graph.shape(cell), f"{operator.output}.flat")
            values.clamp(source, flat, low, HIGHEST)
        values.reshaped(flat, target)
        return
    fields = {"valuesCount": len(outputs), "axis": 1}
    values.graph.operator("PACK", outputs, values.new(operator.output, "plain"), 2, "PackOptions", **fields)


class Steps:
    """The tensors of one layer."""

    def __init__(self, operator: Recurrent, values: Values) -> None:
        self.operator, self.values, self.graph = operator, values, values.graph
        self.real = Real(values, operator.name)
        self.rows = values.model.edges[operator.inputs[0]].rows
        self.shift = HIGHEST - operator.high
        self.grid = Grid((operator.hidden_scale,), operator.zero + self.shift)

    def run(self, sequence: bool) -> tuple[list[int], int | None]:
        """The codes of each step's hidden state [rows, units], and the last state.

        Args:
            sequence: whether the codes of the last step are wanted.
        """
        operator, real = self.operator, self.real
        x = real.read(operator.inputs[0])
        gates = self.product(x, operator.input_matrix)
        count = self.graph.shape(x)[1]
        steps = self._parts("UNPACK", gates, count)
        weight = self.weight(operator.hidden_matrix)
        hidden, state = self._start_hidden(), self._start_state()
        outputs: list[int] = []
        for number, whole in enumerate(steps):
            part = self._start_product() if hidden is None else self.product(hidden, operator.hidden_matrix, weight)
            value, state = _STEPS[operator.kind](self, whole, part, state)
            if sequence or number + 1 < count:
                codes = self._quantized(value)
                outputs.append(codes)
                hidden = self._dequantized(codes)
        return outputs, state

    # -- matrices ----------------------------------------------------------------------------------------------------

    def weight(self, matrix: Matrix) -> int:
        """A matrix in float; in the file it has 8 bits."""
        grid = Grid(tuple(matrix.scale.tolist()), 0, 0)
        codes = np.ascontiguousarray(matrix.codes)
        stored = self.graph.tensor(f"{matrix.layer}.weight", codes.shape, "INT8", grid, codes.tobytes())
        weight = self.graph.tensor(f"{matrix.layer}.weight.real", codes.shape, "FLOAT32")
        self.graph.operator("DEQUANTIZE", (stored,), weight, 5, "DequantizeOptions")
        return weight

    def bias(self, matrix: Matrix) -> int:
        """A matrix's bias in float."""
        return self.real.constant(matrix.bias * 2.0**-self.operator.fraction_bits)

    def product(self, x: int, matrix: Matrix, weight: int | None = None) -> int:
        """A product with a matrix, plus its bias."""
        shape = (*self.graph.shape(x)[:-1], len(matrix.codes))
        target = self.real.tensor(shape)
        inputs = (x, self.weight(matrix) if weight is None else weight, self.bias(matrix))
        fields = {"keepNumDims": len(shape) > 2, "fusedActivationFunction": self.graph.activation("NONE")}
        self.graph.operator("FULLY_CONNECTED", inputs, target, 5, "FullyConnectedOptions", **fields)
        return target

    # -- states ------------------------------------------------------------------------------------------------------

    def _given(self, which: str) -> int | None:
        """A state that is an input, in float [rows, units]; None where it is none."""
        if which not in self.operator.given:
            return None
        source = self.real.read(self.operator.inputs[1 + self.operator.given.index(which)])
        return self.values.reshaped(source, self.real.tensor((self.rows, self.operator.units)))

    def _start_hidden(self) -> int | None:
        value = self._given("hidden")
        return None if value is None else self._dequantized(self._quantized(value))

    def _start_product(self) -> int:
        """Of a constant initial state: the same for all examples."""
        matrix, operator = self.operator.hidden_matrix, self.operator
        hidden = (operator.hidden.astype(np.float64) - operator.zero) * operator.hidden_scale
        product = (matrix.codes * matrix.scale[:, None].astype(np.float64)) @ hidden
        return self.real.constant((product + matrix.bias * 2.0**-operator.fraction_bits)[None])

    def _start_state(self) -> int | None:
        operator = self.operator
        if operator.kind not in ("lstm", "gru"):
            return None
        value = self._given("cell" if operator.kind == "lstm" else "hidden")
        state = operator.state * 2.0 ** (operator.state_bits - UNIT_BITS)
        return self.real.constant(state[None]) if value is None else value

    def _quantized(self, value: int) -> int:
        """On the grid of hidden states."""
        shape, name = self.graph.shape(value), f"{self.operator.name}.hidden"
        codes = self.graph.tensor(name, shape, "INT8", self.grid)
        self.graph.operator("QUANTIZE", (value,), codes, 1, "QuantizeOptions")
        low = self.operator.low + self.shift
        if low > LOWEST:
            source, codes = codes, self.graph.tensor(name, shape, "INT8", self.grid)
            self.values.clamp(source, codes, low, HIGHEST)
        return codes

    def _dequantized(self, codes: int) -> int:
        target = self.real.tensor(self.graph.shape(codes))
        self.graph.operator("DEQUANTIZE", (codes,), target, 2, "DequantizeOptions")
        return target

    # -- what steps are made of --------------------------------------------------------------------------------------

    def _parts(self, code: str, source: int, count: int) -> list[int]:
        """Steps of a sequence, or equal parts of a vector."""
        shape = self.graph.shape(source)
        if code == "UNPACK":
            targets = [self.real.tensor((shape[0], shape[2])) for _ in range(count)]
            self.graph.operator(code, (source,), targets, 1, "UnpackOptions", num=count, axis=1)
        else:
            targets = [self.real.tensor((*shape[:-1], shape[-1] // count)) for _ in range(count)]
            axis = self.graph.tensor("axis", (), "INT32", data=np.array(len(shape) - 1, "<i4").tobytes())
            self.graph.operator(code, (axis, source), targets, 1, "SplitOptions", numSplits=count)
        return targets

    def split(self, source: int, count: int) -> list[int]:
        """Equal parts of the last axis."""
        return self._parts("SPLIT", source, count)

    def binary(self, code: str, first: int, second: int) -> int:
        """Of two tensors that broadcast."""
        shape = np.broadcast_shapes(self.graph.shape(first), self.graph.shape(second))
        target = self.real.tensor(shape)
        options = "MaximumMinimumOptions" if code.endswith("IMUM") else f"{code.capitalize()}Options"
        self.graph.operator(code, (first, second), target, 1, options)
        return target

    def clipped(self, source: int, limit: float) -> int:
        """Between a limit's negative and the limit."""
        found = self.binary("MINIMUM", source, self.real.constant(limit))
        return self.binary("MAXIMUM", found, self.real.constant(-limit))

    @property
    def limit(self) -> float:
        """What a state does not exceed."""
        return 2.0**self.operator.state_bits * (1 - _UNIT)


def _lstm(step: Steps, x: int, h: int, cell: int | None) -> tuple[int, int | None]:
    assert cell is not None, "an LSTM has one"
    gates = step.split(step.clipped(step.binary("ADD", x, h), _GATE_LIMIT), GATES["lstm"])
    i, f, g, o = (step.real.unary("TANH" if n == 2 else "LOGISTIC", gate) for n, gate in enumerate(gates))
    kept = step.binary("ADD", step.binary("MUL", f, cell), step.binary("MUL", i, g))
    cell = step.clipped(kept, step.limit)
    seen = cell if math.isclose(step.limit, _GATE_LIMIT, rel_tol=2 * _UNIT) else step.clipped(cell, _GATE_LIMIT)
    return step.binary("MUL", o, step.real.unary("TANH", seen)), cell


def _gru(step: Steps, x: int, h: int, state: int | None) -> tuple[int, int | None]:
    assert state is not None, "a GRU has one"
    (xr, xz, xn), (hr, hz, hn) = step.split(x, 3), step.split(h, 3)
    pairs = ((xr, hr), (xz, hz))
    r, z = (step.real.unary("LOGISTIC", step.clipped(step.binary("ADD", *pair), _GATE_LIMIT)) for pair in pairs)
    n = step.real.unary("TANH", step.clipped(step.binary("ADD", xn, step.binary("MUL", r, hn)), _GATE_LIMIT))
    kept = step.binary("MUL", z, step.binary("SUB", state, n))
    state = step.clipped(step.binary("ADD", n, kept), step.limit)
    return state, state


def _rnn_tanh(step: Steps, x: int, h: int, state: int | None) -> tuple[int, int | None]:
    return step.real.unary("TANH", step.clipped(step.binary("ADD", x, h), _GATE_LIMIT)), state


def _rnn_relu(step: Steps, x: int, h: int, state: int | None) -> tuple[int, int | None]:
    return step.real.unary("RELU", step.binary("ADD", x, h)), state


_STEPS: dict[str, Callable[[Steps, int, int, int | None], tuple[int, int | None]]] = {
    "lstm": _lstm, "gru": _gru, "rnn_tanh": _rnn_tanh, "rnn_relu": _rnn_relu,
}  # fmt: skip
