"""Recurrent layers as kernel calls."""

from __future__ import annotations

from typing import Any

import numpy as np

from sigmaquant.export.c.layer_calls import PIECE, depth_of
from sigmaquant.export.c.layout import natural
from sigmaquant.export.c.program import Scratch
from sigmaquant.export.c.translate import Translation, emit
from sigmaquant.operators import Matrix, Recurrent
from sigmaquant.operators.fixed_point import Factor
from sigmaquant.operators.recurrent import GATES, knots

_KERNELS = ("sq_recurrent", "sq_recurrent_from", "sq_recurrent_from_both")
"""By the number of states that are inputs."""
_KINDS = {"lstm": "SQ_LSTM", "gru": "SQ_GRU", "rnn_tanh": "SQ_RNN_TANH", "rnn_relu": "SQ_RNN_RELU"}
KEPT_BYTES = 2**16
"""Of RAM for a layer's weights that are unpacked once instead of at every step; those of the hidden states first."""
_WIDE, _LARGEST_INPUT = 33, 255
"""From this shift on a product's low word takes no part in its rounding: sums are enlarged so far where they can be."""
_SUMS = {**GATES, "gru": 4}
"""Blocks of sums in scratch."""


@emit.register
def _(operator: Recurrent, to: Translation) -> None:
    views = tuple(to.input_as(operator, natural(to.input(operator, i).shape), i) for i in range(len(operator.inputs)))
    steps, inputs = views[0].shape
    units, edge = operator.units, to.edge(operator.output)
    piece = min(max(inputs, units), PIECE)
    rows = operator.hidden_matrix.codes.shape[0]
    kept_hidden = _kept(rows, units, KEPT_BYTES)
    kept_input = _kept(rows, inputs, KEPT_BYTES - 2 * depth_of(kept_hidden) * depth_of(units))
    zeros = dict(zip(operator.given, (to.input_zero(operator, i) for i in range(1, len(views))), strict=True))
    carried = zeros.get("cell" if operator.kind == "lstm" else "hidden", 0)
    grid = {"out_zero": operator.zero, "low": operator.low, "high": operator.high}
    low, high = edge.range
    fields = {
        "input": _matrix(operator, operator.input_matrix, to, to.input_zero(operator), grid),
        "hidden": _matrix(operator, operator.hidden_matrix, to, operator.zero, grid),
        "kind": _KINDS[operator.kind],
        "steps": steps,
        "in": inputs,
        "units": units,
        "piece": piece,
        "kept_input": kept_input,
        "kept_hidden": kept_hidden,
        "fraction_bits": operator.fraction_bits,
        "state_bits": operator.state_bits,
        "sigmoid": to.table("sigmoid", "knots", knots("sigmoid")),
        "tangent": to.table("tangent", "knots", knots("tanh")),
        "start_hidden": to.table(operator.name, "hidden", operator.hidden),
        "start_state": to.table(operator.name, "state", operator.state),
        "given_cell": int(operator.given == ("cell",)),
        "given_zero": zeros.get("hidden", 0),
        **_factor("given_", operator.given_factor),
        "state_zero": carried,
        **_factor("state_", operator.given_state_factor),
        **_factor("", operator.hidden_factor),
        "gives_cell": int(operator.result == "cell"),
        **_factor("cell_", operator.cell_factor),
        "cell_zero": edge.zero_point,
        "cell_low": low,
        "cell_high": high,
    }
    fixed = 2 * units * _SUMS[operator.kind] + units + depth_of(units) + depth_of(inputs) + 4 * depth_of(piece)
    fixed += depth_of(kept_hidden) * depth_of(units) + depth_of(kept_input) * depth_of(inputs)
    macs = steps * (operator.input_matrix.codes.size + operator.hidden_matrix.codes.size)
    to.step(operator.name, _KERNELS[len(views) - 1], fields, views, to.output(operator), Scratch(fixed), macs)


def _kept(rows: int, depth: int, available: int) -> int:
    """How many rows of int16 fit into so many bytes: all, or whole fours."""
    fours = available // (8 * depth_of(depth))
    return rows if 4 * fours >= rows else 4 * fours


def _matrix(operator: Recurrent, matrix: Matrix, to: Translation, zero: int, grid: dict[str, int]) -> dict[str, Any]:
    """The fields of ``sq_layer``."""
    shift = matrix.factor.shift.astype(np.int64)
    up = max(0, _WIDE - int(shift.min()))
    largest = int(np.abs(matrix.codes.astype(np.int64)).sum(1).max(initial=1)) * _LARGEST_INPUT
    up = up if largest << up < 2**31 else 0
    return {
        **to.codes(matrix.layer, matrix.codes, matrix.bits, matrix.midrise),
        "gain": 1 << up,
        "bias": to.table(matrix.name, "bias", matrix.bias),
        "mantissa": to.table(matrix.name, "mantissa", matrix.factor.mantissa.astype(np.int32)),
        "shift": to.table(matrix.name, "shift", (shift + up).astype(np.uint8)),
        "in_zero": zero,
        **grid,
    }


def _factor(prefix: str, factor: Factor | None) -> dict[str, int]:
    mantissa, shift = (0, 1) if factor is None else (int(factor.mantissa[0]), int(factor.shift[0]))
    return {f"{prefix}mantissa": mantissa, f"{prefix}shift": shift}
