"""Recurrent layers as a Scan over the steps: hidden states are codes, the rest of a step is in float."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from sigmaquant.export.onnx.builder import GraphBuilder
from sigmaquant.export.onnx.translation import UNSIGNED, Translation, translate
from sigmaquant.numerics import activation_range
from sigmaquant.operators import Edge, Matrix, Recurrent
from sigmaquant.operators.recurrent import GATE_BITS, UNIT_BITS

_GATE_LIMIT = 2.0 ** (UNIT_BITS - GATE_BITS)
_UNIT = 2.0**-UNIT_BITS
_KEPT = ("lstm", "gru")
"""Kinds with a state besides the codes."""


@translate.register
def _(operator: Recurrent, to: Translation) -> None:
    """With the reference's clipping of gates and states, and its rounding of hidden states.

    The roundings of 16 bits are left out: what they change is far below a step of the hidden states.
    """
    sequence, state = _scanned(operator, to)
    if operator.result == "sequence":
        to.builder.node("Identity", [sequence], to.codes[operator.output])
        return
    edge = to.model.edges[operator.output]
    axis = to.builder.integers(1)
    value = to.builder.node("Unsqueeze", [state, axis], hint=f"{operator.name}.cell")
    to.quantize(value, edge, *edge.range, to.codes[operator.output])


def _scanned(operator: Recurrent, to: Translation) -> tuple[str, str]:
    """The codes of all hidden states [N, T, units], and the state after the last step [N, units]; once for both."""
    fields = (operator.inputs, operator.given, operator.input_matrix.layer, operator.hidden_matrix.layer,
              operator.hidden.tobytes(), operator.state.tobytes())  # fmt: skip
    known: tuple[str, str] | None = to.scans.get(fields)
    if known is None:
        known = to.scans[fields] = _scan(operator, to)
    return known


def _scan(operator: Recurrent, to: Translation) -> tuple[str, str]:
    builder, name, edge = to.builder, operator.name, to.edge(operator)
    hidden = Edge(name, (), 8, operator.hidden_scale, operator.zero)
    product = builder.node("MatMul", [to.real(edge), _columns(operator.input_matrix, to)], hint=f"{name}.products")
    whole = builder.node("Add", [product, _bias(operator, operator.input_matrix, to)], hint=f"{name}.gates")
    states = [_start(operator, hidden, to)]
    if operator.kind in _KEPT:
        states.append(_start_state(operator, to))
    body = _body(operator, hidden, to)
    finals = [builder.unique(f"{name}.last.{i}") for i in range(len(states))]
    sequence = builder.unique(f"{name}.sequence")
    fields: dict[str, Any] = {"num_scan_inputs": 1, "scan_input_axes": [1], "scan_output_axes": [1]}
    outputs = [*finals, sequence]
    builder.nodes.append(helper.make_node("Scan", [*states, whole], outputs, name, body=body, **fields))
    return sequence, finals[-1]


def _columns(matrix: Matrix, to: Translation) -> str:
    """A matrix as float values [inputs, gates * units]."""
    weight = to.weight(matrix)
    turned = to.builder.node("Transpose", [weight.codes], hint=f"{matrix.name}.turned", perm=(1, 0))
    zeros = to.zero_point(weight.zero_point, weight.kind, len(matrix.scale))
    return to.channels(turned, zeros, matrix.scale, matrix.name, axis=1)


def _bias(operator: Recurrent, matrix: Matrix, to: Translation) -> str:
    return to.builder.constant((matrix.bias * 2.0**-operator.fraction_bits).astype(np.float32), f"{matrix.name}.bias")


def _rows(operator: Recurrent, value: str, to: Translation) -> str:
    """A vector [units], once for each example."""
    builder = to.builder
    count = builder.node("Shape", [to.codes[operator.inputs[0]]], hint=f"{operator.name}.count", start=0, end=1)
    sizes = [count, builder.integers(operator.units)]
    shape = builder.node("Concat", sizes, hint=f"{operator.name}.shape", axis=0)
    return builder.node("Expand", [value, shape], hint=f"{operator.name}.start")


def _given(operator: Recurrent, which: str, to: Translation) -> str | None:
    """A state that is an input, in float [N, units]; None where it is none."""
    if which not in operator.given:
        return None
    value = to.real(to.edge(operator, 1 + operator.given.index(which)))
    shape = to.builder.integers(-1, operator.units)
    return to.builder.node("Reshape", [value, shape], hint=f"{operator.name}.{which}")


def _start(operator: Recurrent, hidden: Edge, to: Translation) -> str:
    value = _given(operator, "hidden", to)
    if value is not None:
        codes = to.builder.unique(f"{operator.name}.start")
        to.quantize(value, hidden, operator.low, operator.high, codes)
        return codes
    start = (operator.hidden.astype(np.int16) + UNSIGNED).astype(np.uint8)
    return _rows(operator, to.builder.constant(start, f"{operator.name}.start"), to)


def _start_state(operator: Recurrent, to: Translation) -> str:
    value = _given(operator, "cell" if operator.kind == "lstm" else "hidden", to)
    if value is not None:
        return value
    state = (operator.state * 2.0 ** (operator.state_bits - UNIT_BITS)).astype(np.float32)
    return _rows(operator, to.builder.constant(state, f"{operator.name}.state"), to)


class _Step:
    """Nodes of one step; constants are those of the graph around it."""

    def __init__(self, operator: Recurrent, to: Translation) -> None:
        self.operator, self.to = operator, to
        self.inner = GraphBuilder()

    def __call__(self, kind: str, *inputs: str, hint: str = "") -> str:
        output = self.to.builder.unique(f"{self.operator.name}.step.{hint or kind.lower()}")
        return self.inner.node(kind, inputs, output)

    def number(self, value: float) -> str:
        """A constant."""
        return self.to.builder.constant(np.array(value, np.float32), f"{self.operator.name}.number")

    def clipped(self, value: str, limit: float) -> str:
        """Between a limit's negative and the limit."""
        return self("Clip", value, self.number(-limit), self.number(limit))

    def parts(self, value: str, count: int) -> list[str]:
        """Equal parts of the last axis."""
        units = self.operator.units
        outputs = [self.to.builder.unique(f"{self.operator.name}.step.part") for _ in range(count)]
        sizes = self.to.builder.integers(*[units] * count)
        self.inner.nodes.append(helper.make_node("Split", [value, sizes], outputs, axis=-1))
        return outputs

    @property
    def limit(self) -> float:
        """What a state does not exceed."""
        return 2.0**self.operator.state_bits * (1 - _UNIT)


def _lstm(step: _Step, x: str, h: str, cell: str) -> tuple[str, str]:
    gates = step.parts(step.clipped(step("Add", x, h), _GATE_LIMIT), 4)
    i, f, g, o = (step("Tanh" if n == 2 else "Sigmoid", gate) for n, gate in enumerate(gates))
    cell = step.clipped(step("Add", step("Mul", f, cell), step("Mul", i, g)), step.limit)
    return step("Mul", o, step("Tanh", step.clipped(cell, _GATE_LIMIT))), cell


def _gru(step: _Step, x: str, h: str, state: str) -> tuple[str, str]:
    (xr, xz, xn), (hr, hz, hn) = step.parts(x, 3), step.parts(h, 3)
    r, z = (step("Sigmoid", step.clipped(step("Add", *pair), _GATE_LIMIT)) for pair in ((xr, hr), (xz, hz)))
    n = step("Tanh", step.clipped(step("Add", xn, step("Mul", r, hn)), _GATE_LIMIT))
    kept = step("Mul", z, step("Sub", state, n))
    state = step.clipped(step("Add", n, kept), step.limit)
    return step("Identity", state), state


def _rnn_tanh(step: _Step, x: str, h: str, state: str) -> tuple[str, str]:
    return step("Tanh", step.clipped(step("Add", x, h), _GATE_LIMIT)), state


def _rnn_relu(step: _Step, x: str, h: str, state: str) -> tuple[str, str]:
    return step("Relu", step("Add", x, h)), state


_STEPS: dict[str, Callable[[_Step, str, str, str], tuple[str, str]]] = {
    "lstm": _lstm, "gru": _gru, "rnn_tanh": _rnn_tanh, "rnn_relu": _rnn_relu,
}  # fmt: skip


def _body(operator: Recurrent, hidden: Edge, to: Translation) -> onnx.GraphProto:
    """The graph of a step: hidden codes, state, gates of the input; the same after it, and codes to collect."""
    step, builder, name = _Step(operator, to), to.builder, operator.name
    weights, bias = _columns(operator.hidden_matrix, to), _bias(operator, operator.hidden_matrix, to)
    scale, zero = to.scale(hidden.scale, name), to.zero_point(hidden.zero_point + UNSIGNED)
    codes, state, gates = (builder.unique(f"{name}.step.{what}") for what in ("hidden", "state", "gates"))
    real = step("DequantizeLinear", codes, scale, zero)
    value, after = _STEPS[operator.kind](step, gates, step("Add", step("MatMul", real, weights), bias), state)
    found = step("QuantizeLinear", value, scale, zero)
    if (operator.low, operator.high) != activation_range(8):
        bounds = [builder.constant(np.array(c + UNSIGNED, np.uint8), "bound") for c in (operator.low, operator.high)]
        found = step("Clip", found, *bounds)
    collected = step("Identity", found)

    def described(tensor: str, kind: int, width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(tensor, kind, ["N", width])

    kept = operator.kind in _KEPT
    inputs = [described(codes, TensorProto.UINT8, operator.units)]
    outputs = [described(found, TensorProto.UINT8, operator.units)]
    if kept:
        inputs.append(described(state, TensorProto.FLOAT, operator.units))
        outputs.append(described(after, TensorProto.FLOAT, operator.units))
    inputs.append(described(gates, TensorProto.FLOAT, len(operator.input_matrix.codes)))
    outputs.append(described(collected, TensorProto.UINT8, operator.units))
    return helper.make_graph(step.inner.nodes, f"{name}.step", inputs, outputs)
