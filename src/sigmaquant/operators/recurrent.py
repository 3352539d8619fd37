"""Recurrent layers in integers: LSTM, GRU and RNN over a sequence, one layer in one direction.

Inputs and hidden states are codes of at most 8 bits, gates have 16 bits with 12 binary places, their sigmoids and
hyperbolic tangents 15, and the state that goes from step to step (an LSTM's cell, a GRU's hidden state) 16 bits with a
power of two as its unit: the form of LiteRT's and CMSIS-NN's LSTM in 8 and 16 bits, here with a scale for each row of
the weights and one rounding of each sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from sigmaquant.errors import LoweringError
from sigmaquant.exported.nodes import arguments, operator
from sigmaquant.exported.shapes import count, length
from sigmaquant.numerics import activation_range
from sigmaquant.operators.edge import Edge, encode
from sigmaquant.operators.fixed_point import Factor, factor
from sigmaquant.operators.layers import WeightCodes
from sigmaquant.operators.meaning import (
    Builder,
    Meaning,
    Pending,
    Value,
    constant_value,
    extent,
    in_float,
    is_codes,
    is_live,
)
from sigmaquant.operators.node import Operator, Reference, compute
from sigmaquant.operators.products import Operand, Product, dims, multiplies

Kind = Literal["lstm", "gru", "rnn_tanh", "rnn_relu"]
GATES: dict[str, int] = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
"""Blocks of rows in the matrices: input, forget, cell, output of an LSTM; reset, update, new of a GRU."""
STATES: dict[str, int] = {"lstm": 2, "gru": 1, "rnn_tanh": 1, "rnn_relu": 1}
"""States that go from step to step."""
GATE_BITS = 12
"""Binary places of a gate before its sigmoid or hyperbolic tangent."""
UNIT_BITS = 15
"""Binary places of these functions' values."""
LARGEST_FRACTION = 20
LEAST_STATE: dict[str, int] = {"lstm": 3, "gru": 0, "rnn_tanh": 0, "rnn_relu": 0}
"""A state reaches ``2**k``, with k at least this; a cell has no more binary places than gates have."""
LARGEST_STATE = 15
_HALF, _LOWEST, _HIGHEST = 1 << (UNIT_BITS - 1), -(1 << UNIT_BITS), (1 << UNIT_BITS) - 1
_INPUT_SPAN = 255
_ACCUMULATOR_LIMIT = 2**31


# -- functions of gates ----------------------------------------------------------------------------------------------


def knots(function: Literal["sigmoid", "tanh"]) -> NDArray[np.uint16]:
    """Values at equal distances from 0 to 8 in units of ``2**-15``, at most ``2**15 - 1``.

    Sigmoid has 257, hyperbolic tangent 513. Between them is interpolated; with the roundings that is off by at most
    1.6 units, over all 65,536 gates.
    """
    count = 257 if function == "sigmoid" else 513
    places = np.linspace(0.0, 8.0, count)
    values = 1 / (1 + np.exp(-places)) if function == "sigmoid" else np.tanh(places)
    return np.minimum(np.rint(values * (1 << UNIT_BITS)), _HIGHEST).astype(np.uint16)


def spacing_bits(function: str) -> int:
    """The distance of two knots is ``2**bits`` gates."""
    return 7 if function == "sigmoid" else 6


@cache
def gate_table(function: Literal["sigmoid", "tanh"]) -> Tensor:
    """The function's value for each gate: int16 [65536], the first one that of -32768.

    ``knots[i] + ((knots[i+1] - knots[i]) * rest + half) >> bits`` of ``min(|gate|, 32767)``; for a negative gate
    ``2**15`` minus that, or its negative.
    """
    gates = np.arange(_LOWEST, -_LOWEST)
    magnitude, bits, table = np.minimum(np.abs(gates), _HIGHEST), spacing_bits(function), knots(function).astype(int)
    index, rest = magnitude >> bits, magnitude & ((1 << bits) - 1)
    values = table[index] + (((table[index + 1] - table[index]) * rest + (1 << (bits - 1))) >> bits)
    mirrored = (1 << UNIT_BITS) - values if function == "sigmoid" else -values
    return torch.from_numpy(np.where(gates < 0, mirrored, values).astype(np.int16))


def _function(name: Literal["sigmoid", "tanh"], gates: Tensor) -> Tensor:
    return gate_table(name)[gates - _LOWEST].to(torch.int64)


# -- in integers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Matrix:
    """One of the two matrices of a recurrent layer: ``factor * sum code_w * (code_x - z_x) + bias``.

    Attributes:
        name: unique among operators and matrices.
        layer: name of the layer in the plan.
        codes: int8 [gates * units, inputs].
        bits: 2..8 of the codes.
        midrise: on which grid they lie.
        gain: 1; as of a `Weighted`.
        scale: float32 [gates * units], of the codes.
        bias: int32 [gates * units], in units of ``2**-fraction_bits``.
        factor: to these units, [gates * units].
    """

    name: str
    layer: str
    codes: NDArray[np.int8]
    bits: int
    midrise: bool
    scale: NDArray[np.float32]
    bias: NDArray[np.int32]
    factor: Factor
    gain: int = 1


@dataclass(frozen=True)
class Recurrent(Operator):
    """A recurrent layer over a sequence; its inputs are the sequence, then the states that `given` names.

    With ``x`` and ``h`` the sums of the two matrices in units of ``2**-fraction_bits``, ``gate(v)`` these rounded to
    12 binary places and to int16, and ``sigmoid``, ``tanh`` those of `gate_table`:

    - LSTM: ``c' = int16((f * c * 2**state_bits + i * g) >> 15 + state_bits)``, ``h' = o * tanh(c')``, where i, f, g, o
      are functions of ``gate(x + h)``.
    - GRU: ``n = tanh(gate(x + (r * h >> 15)))``, ``s' = int16(((2**15 - z) * n + z * s * 2**state_bits) >> 15 +
      state_bits)``.
    - RNN: ``tanh(gate(x + h))``, or ``max(x + h, 0)``.

    All shifts round half up. The new hidden state is ``clamp(zero + hidden_factor * value, low, high)``, which is the
    output, and what the matrix reads at the next step.

    Attributes:
        kind: of layer.
        result: ``"sequence"`` [T, units] of hidden states; ``"cell"`` [1, units], an LSTM's last cell.
        given: which states are inputs: ``"hidden"``, ``"cell"``.
        input_matrix: reads the sequence.
        hidden_matrix: reads the hidden state.
        fraction_bits: 12..20.
        state_bits: a state's unit is ``2**(state_bits - 15)``.
        hidden: int8 [units], codes of a hidden state that is no input.
        state: int16 [units], of a cell, or of a GRU's hidden state, that is no input.
        given_factor: from a given hidden state's codes to the codes of the output's grid; None: not given.
        given_state_factor: from a given state's codes to units of the state; None: not given.
        hidden_factor: from what a step computes to codes.
        zero: zero-point of hidden states.
        low: smallest code of a hidden state.
        high: largest code of one.
        cell_factor: from units of a cell to the output's codes, where that is the result.
    """

    kind: Kind
    result: Literal["sequence", "cell"]
    given: tuple[str, ...]
    input_matrix: Matrix
    hidden_matrix: Matrix
    fraction_bits: int
    state_bits: int
    hidden: NDArray[np.int8]
    state: NDArray[np.int16]
    given_factor: Factor | None
    given_state_factor: Factor | None
    hidden_factor: Factor
    zero: int
    low: int
    high: int
    cell_factor: Factor | None = None

    @property
    def hidden_scale(self) -> float:
        """Of the grid of hidden states."""
        places = {"lstm": 2 * UNIT_BITS, "gru": UNIT_BITS - self.state_bits, "rnn_tanh": UNIT_BITS}
        return float(2.0 ** -places.get(self.kind, self.fraction_bits) / self.hidden_factor.value[0])

    @property
    def units(self) -> int:
        """Of the hidden state."""
        return int(self.hidden_matrix.codes.shape[1])


@compute.register
def _(operator: Recurrent, reference: Reference, codes: Tensor, *states: Tensor) -> Tensor:
    return followed(operator, reference, None, codes, *states)


def followed(
    operator: Recurrent, reference: Reference, hidden_codes: Tensor | None, codes: Tensor, *states: Tensor
) -> Tensor:
    """The operator's output where each step reads other hidden states than its own, to judge steps one by one.

    Args:
        operator: of one layer.
        reference: as for `compute`.
        hidden_codes: int8 [N, T, units], what each step hands on; None: its own.
        codes: of the sequence.
        states: that are given.
    """
    kind = torch.int64 if reference.integer_kernels else torch.float64
    edges = [reference.edges[name] for name in operator.inputs]
    sums = _sums(operator.input_matrix, codes.to(torch.int64) - edges[0].zero_point, kind)
    relative = {
        name: x.reshape(len(codes), -1).to(torch.int64) - edge.zero_point
        for name, x, edge in zip(operator.given, states, edges[1:], strict=True)
    }
    shape = (len(codes), operator.units)
    if "hidden" in relative:
        assert operator.given_factor is not None, "of a state that is given"
        found = operator.given_factor.apply_(relative["hidden"].clone(), -1).add_(operator.zero)
        hidden = found.clamp_(operator.low, operator.high) - operator.zero
    else:
        hidden = torch.from_numpy(operator.hidden).to(torch.int64).expand(shape) - operator.zero
    carried = relative.get("cell" if operator.kind == "lstm" else "hidden")
    if carried is not None and operator.given_state_factor is not None:
        state = _int16(operator.given_state_factor.apply_(carried.clone(), -1))
    else:
        state = torch.from_numpy(operator.state).to(torch.int64).expand(shape)
    outputs = []
    for step in range(codes.shape[1]):
        value, state = _STEPS[operator.kind](
            operator, sums[:, step], _sums(operator.hidden_matrix, hidden, kind), state
        )
        hidden = operator.hidden_factor.apply_(value, -1).add_(operator.zero).clamp_(operator.low, operator.high)
        outputs.append(hidden.to(torch.int8))
        hidden = hidden if hidden_codes is None else hidden_codes[:, step].to(torch.int64)
        hidden = hidden - operator.zero
    if operator.result == "cell":
        assert operator.cell_factor is not None, "of this result"
        edge = reference.edges[operator.output]
        result = operator.cell_factor.apply_(state.clone(), -1).add_(edge.zero_point).clamp_(*edge.range)
        return result.to(torch.int8)[:, None]
    return torch.stack(outputs, 1)


def _sums(matrix: Matrix, x: Tensor, kind: torch.dtype) -> Tensor:
    """In units of ``2**-fraction_bits``; sums of products of 9-bit numbers are exact in float64."""
    sums = (x.to(kind) @ torch.from_numpy(matrix.codes).to(kind).T).to(torch.int64)
    return matrix.factor.apply_(sums, -1).add_(torch.from_numpy(matrix.bias))


def _int16(values: Tensor) -> Tensor:
    return values.clamp_(_LOWEST, _HIGHEST)


def _rounded(values: Tensor, shift: int) -> Tensor:
    return (values + (1 << shift >> 1)) >> shift


def _gate(operator: Recurrent, values: Tensor) -> Tensor:
    return _int16(_rounded(values, operator.fraction_bits - GATE_BITS))


def _lstm(operator: Recurrent, x: Tensor, h: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = _gate(operator, x + h).chunk(4, -1)
    i, f, o = (_function("sigmoid", gate) for gate in (i, f, o))
    products = ((f * cell) << operator.state_bits) + i * _function("tanh", g)
    cell = _int16(_rounded(products, UNIT_BITS + operator.state_bits))
    return o * _function("tanh", _int16(cell << (operator.state_bits - (UNIT_BITS - GATE_BITS)))), cell


def _gru(operator: Recurrent, x: Tensor, h: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    units = operator.units
    r, z = (_function("sigmoid", g) for g in _gate(operator, (x + h)[:, : 2 * units]).chunk(2, -1))
    n = _function("tanh", _gate(operator, x[:, 2 * units :] + _rounded(r * h[:, 2 * units :], UNIT_BITS)))
    products = ((1 << UNIT_BITS) - z) * n + ((z * state) << operator.state_bits)
    state = _int16(_rounded(products, UNIT_BITS + operator.state_bits))
    return state.clone(), state


def _rnn_tanh(operator: Recurrent, x: Tensor, h: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    return _function("tanh", _gate(operator, x + h)), state


def _rnn_relu(operator: Recurrent, x: Tensor, h: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    return (x + h).clamp_(min=0), state


_STEPS: dict[str, Callable[[Recurrent, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "lstm": _lstm, "gru": _gru, "rnn_tanh": _rnn_tanh, "rnn_relu": _rnn_relu,
}  # fmt: skip


# -- meanings --------------------------------------------------------------------------------------------------------


class Grid(Protocol):
    """The quantizer of a layer's hidden states."""

    bits: int
    scale: nn.Parameter
    zero_point: int
    enabled: bool


class Layer(Protocol):
    """The module that computes a recurrent layer on its grids."""

    kind: Kind
    state_bits: int
    grid: Grid


@dataclass(frozen=True)
class Call:
    """A recurrent operator of one layer and one direction, batch first.

    Attributes:
        node: the call.
        kind: of layer.
        source: the sequence.
        states: hidden, and an LSTM's cell; None: zeros.
        weights: of input and hidden state.
        biases: of these, or none.
    """

    node: fx.Node
    kind: Kind
    source: fx.Node
    states: tuple[fx.Node | None, ...]
    weights: tuple[fx.Node, fx.Node]
    biases: tuple[fx.Node, ...]


def recurrent_call(node: fx.Node) -> Call | None:
    """The recurrent layer that a node computes, where integers can; None for any other node."""
    kind: Any
    if node.op == "call_module":
        module: Any = node.graph.owning_module
        module = None if module is None else module.get_submodule(str(node.target))
        kind = getattr(module, "kind", None)
        if kind not in GATES or not hasattr(module, "state_bits") or len(node.args) < 4:
            return None
        given_args: Any = node.args
        source, states, weights, biases = given_args
    else:
        kind, given = operator(node), arguments(node)
        if kind not in GATES or "batch_sizes" in given:
            return None
        parameters = tuple(given["params"])
        plain = given["num_layers"] == 1 and not given["bidirectional"] and given["batch_first"]
        if not plain or len(parameters) != (4 if given["has_biases"] else 2):
            return None
        source, weights, biases = given["input"], parameters[:2], parameters[2:]
        states = tuple(given["hx"]) if kind == "lstm" else (given["hx"],)
        states = tuple(None if _is_zero(state) else state for state in states)
    place = extent(source)
    if place is None or len(place.shape) != 2 or any(w is not None and not isinstance(w, fx.Node) for w in weights):
        return None
    first, second = weights
    return Call(node, kind, source, tuple(states), (first, second), tuple(biases))


def _is_zero(state: fx.Node) -> bool:
    if is_live(state):
        return False
    value = constant_value(state)
    return value is not None and not bool(value.any())


def parse_recurrent(node: fx.Node, is_weight: Callable[[object], bool]) -> Meaning | None:
    """The meaning of a node that picks a result of a recurrent layer; None for any other.

    Args:
        node: any node.
        is_weight: tells the nodes that hold a weight.
    """
    picked, index = (node.args[0], node.args[1]) if operator(node) == "getitem" else (None, None)
    call = recurrent_call(picked) if isinstance(picked, fx.Node) else None
    if call is None or not all(map(is_weight, call.weights)) or any(map(is_live, call.biases)):
        return None
    place = extent(call.source)
    assert place is not None, "the call has been read"
    live = tuple(state for state in call.states if is_live(state))
    for state in live:
        found = extent(state, anywhere=True)
        if found is None or found.rows != place.rows or len(found.shape) != 2 or found.shape[0] != 1:
            return None
    units = int(call.weights[1].meta["val"].shape[1])
    if index == 0:
        return RecurrentCall((call.source, *live), place.rows, (place.shape[0], units), call)
    if index == 2 and call.kind == "lstm" and _is_read(call.node):
        return RecurrentCall((call.source, *live), place.rows, (1, units), call, "cell")
    return None


def _is_read(node: fx.Node) -> bool:
    """Whether anything reads the outputs, whose grid hidden states need."""
    return any(operator(user) == "getitem" and user.args[1] == 0 and user.users for user in node.users)


@dataclass(frozen=True)
class RecurrentCall(Meaning):
    """A result of a recurrent layer.

    Attributes:
        call: the layer.
        result: which.
    """

    call: Call = None  # type: ignore[assignment]
    result: Literal["sequence", "cell"] = "sequence"

    producer: ClassVar[str] = "recurrent"

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        call = self.call
        layer: Any = to.module(call.node) if call.node.op == "call_module" else None
        weights = [to.weight(weight) for weight in call.weights]
        if layer is None or not layer.grid.enabled or any(w is None or w.axis != 0 for w in weights):
            return None
        edges = [value for value in values if is_codes(value)]
        if len(edges) != len(values):
            return None
        names = ("hidden", "cell")
        given = tuple(name for name, state in zip(names, call.states, strict=False) if is_live(state))
        constants = {
            name: to.constant(state).detach().double().cpu().reshape(-1)
            for name, state in zip(names, call.states, strict=False)
            if state is not None and not is_live(state)
        }
        biases = [to.constant(bias).detach().double().cpu().numpy() for bias in call.biases]
        return Unrolled(
            name=str(scope_of(weights[0].layer)), call=call, edges=tuple(edges), given=given, constants=constants,
            weights=tuple(weights), biases=tuple(biases), state_bits=layer.state_bits, grid=layer.grid,
            result=self.result,
        )  # fmt: skip


def scope_of(layer: str) -> str:
    """The module that holds a matrix, and which of its layers it is of.

    Example:
        >>> scope_of("lstm.weight_ih_l1_reverse"), scope_of("cell.weight_ih")
        ('lstm.l1_reverse', 'cell')
    """
    owner, _, name = layer.rpartition(".")
    rest = name.removeprefix("weight_ih").removeprefix("_")
    return ".".join(part for part in (owner, rest) if part) or layer


@dataclass(frozen=True)
class Unrolled(Pending):
    """A recurrent layer that waits for the grid of its result."""

    name: str = ""
    call: Call = None  # type: ignore[assignment]
    edges: tuple[Edge, ...] = ()
    given: tuple[str, ...] = ()
    constants: dict[str, Tensor] = None  # type: ignore[assignment]
    weights: tuple[WeightCodes, ...] = ()
    biases: tuple[NDArray[np.float64], ...] = ()
    state_bits: int = 0
    grid: Grid = None  # type: ignore[assignment]
    result: Literal["sequence", "cell"] = "sequence"

    def finish(self, edge: Edge, name: str) -> Operator:
        kind, source = self.call.kind, self.edges[0]
        scale, zero, bits = float(self.grid.scale), self.grid.zero_point, self.grid.bits
        hidden_grid = Edge("hidden", (), bits, scale, zero)
        scales = [source.scale * self.weights[0].scale, scale * self.weights[1].scale]
        biases = self.biases or tuple(np.zeros(len(s)) for s in scales)
        fraction = _fraction_bits(self.weights, scales, biases)
        matrices = [
            Matrix(
                f"{name}.{what}", w.layer, np.ascontiguousarray(w.codes), w.bits, w.midrise,
                w.scale.astype(np.float32), np.rint(bias * 2.0**fraction).astype(np.int32),
                factor(s * 2.0**fraction, f"layer {w.layer!r}"),
            )
            for what, w, s, bias in zip(("input", "hidden"), self.weights, scales, biases, strict=True)
        ]  # fmt: skip
        units = self.weights[1].codes.shape[1]
        unit = 2.0 ** (self.state_bits - UNIT_BITS)
        zeros = torch.zeros(units, dtype=torch.float64)
        hidden = self.constants.get("hidden", zeros)
        state = self.constants.get("cell", zeros) if kind == "lstm" else hidden
        known = dict(zip(self.given, self.edges[1:], strict=True))
        carried = known.get("cell" if kind == "lstm" else "hidden") if kind in ("lstm", "gru") else None
        computed = {"lstm": 2.0 ** (-2 * UNIT_BITS), "gru": unit, "rnn_tanh": 2.0**-UNIT_BITS}
        low, high = activation_range(bits)
        return Recurrent(
            name=name,
            inputs=tuple(e.name for e in self.edges),
            output=edge.name,
            kind=kind,
            result=self.result,
            given=self.given,
            input_matrix=matrices[0],
            hidden_matrix=matrices[1],
            fraction_bits=fraction,
            state_bits=self.state_bits,
            hidden=encode(hidden.float(), hidden_grid).numpy(),
            state=np.clip(np.rint(state.numpy() / unit), _LOWEST, _HIGHEST).astype(np.int16),
            given_factor=factor(known["hidden"].scale / scale, name) if "hidden" in known else None,
            given_state_factor=factor(carried.scale / unit, name) if carried is not None else None,
            hidden_factor=factor(computed.get(kind, 2.0**-fraction) / scale, name),
            zero=zero,
            low=low,
            high=high,
            cell_factor=factor(unit / edge.scale, name) if self.result == "cell" else None,
        )


def _fraction_bits(
    weights: Sequence[WeightCodes], scales: Sequence[NDArray[np.float64]], biases: Sequence[NDArray[np.float64]]
) -> int:
    """Binary places of the gates' sums, so that the sum of both fits into 31 bits."""
    reach = 0.0
    for weight, scale, bias in zip(weights, scales, biases, strict=True):
        sums = np.abs(weight.codes.astype(np.int64)).sum(1) * _INPUT_SPAN
        if sums.max(initial=0) >= _ACCUMULATOR_LIMIT:
            raise LoweringError(
                f"layer {weight.layer!r}: its sums can reach {sums.max():.3g}, more than an int32 accumulator holds. "
                "Use fewer bits for its weights or its input."
            )
        reach += float((sums * scale + np.abs(bias)).max(initial=0))
    fraction = min(LARGEST_FRACTION, 30 - math.ceil(math.log2(max(reach, 1.0)))) if math.isfinite(reach) else 0
    if fraction < GATE_BITS:
        raise LoweringError(
            f"layer {weights[0].layer!r}: its gates can reach {reach:.3g}, more than 32 bits hold with {GATE_BITS} "
            "binary places. Calibrate on data like those of use, or scale its input down."
        )
    return fraction


# -- products --------------------------------------------------------------------------------------------------------

RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
CELLS = ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")


@multiplies(*RECURRENT, *CELLS)
def _(node: fx.Node, bound: Mapping[str, Any]) -> tuple[Product, ...]:
    if "params" in bound:
        source, parameters = bound["input" if "input" in bound else "data"], list(bound["params"])
    else:
        source, parameters = bound["input"], [bound[key] for key in ("w_ih", "w_hh", "b_ih", "b_hh") if bound[key]]
    steps = count(source) // max(1, length(source, -1))
    matrices = [parameter for parameter in parameters if dims(parameter) == 2]
    biases = tuple(parameter for parameter in parameters if dims(parameter) == 1)
    return tuple(
        Product(node, (source,), (Operand(matrix, (1,), 0),), biases, steps * count(matrix), recurrent=True)
        for matrix in matrices
    )


in_float(*RECURRENT, *CELLS, producer="recurrent")
