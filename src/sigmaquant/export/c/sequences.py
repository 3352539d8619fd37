"""Matrix products of two activations, and what sees a whole line of values: softmax and normalizations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sigmaquant.export.c.layout import RANK, Ints, Loop, View, loops, natural
from sigmaquant.export.c.program import Scratch
from sigmaquant.export.c.translate import Translation, emit, factor_fields, grid_fields, refuse, rounding_offset
from sigmaquant.operators import MatMul, Norm, Operator, Softmax
from sigmaquant.operators.norm import FRACTION_BITS
from sigmaquant.operators.softmax import EXPONENTIAL_BITS, RATIO_BITS

_SPAN = 255
_LARGEST_SUM = 2**31
_LARGEST_WIDE = 2**62
_LARGEST_SQUARE = 2**53
"""Of what the reference takes the square root of."""


@emit.register
def _(operator: MatMul, to: Translation) -> None:
    a, b, shape = to.whole(operator), to.whole(operator, 1), to.shape(operator)
    rows, columns, depth = shape[-2], shape[-1], a.shape[-1]
    if depth * _SPAN**2 >= _LARGEST_SUM:
        raise refuse(
            operator.name,
            f"its sums of {depth} products do not fit into 32 bits",
            f"Split it into products over at most {_LARGEST_SUM // _SPAN**2} values, and add these.",
        )
    y = to.output_whole(operator)
    fields = {
        "rows": rows,
        "depth": depth,
        "columns": columns,
        "a_stride": a.strides[-2:],
        "b_stride": b.strides[-2:],
        "y_stride": y.strides[-2:],
        **factor_fields(operator.factor),
        "a_zero": to.input_zero(operator),
        "b_zero": to.input_zero(operator, 1),
        **grid_fields(operator, to),
    }
    lead = shape[:-2]
    repeated = [tuple(s if n == m else 0 for n, m, s in zip(v.shape, lead, v.strides, strict=False)) for v in (a, b)]
    filled = (depth + 3) // 4 * 4
    to.step(
        operator.name, "sq_matmul", fields, (a, b), y, Scratch(2 * filled, filled, columns), rows * columns * depth,
        loops(lead, *repeated, y.strides[:-2]),
    )  # fmt: skip


@emit.register
def _(operator: Softmax, to: Translation) -> None:
    count = to.shape(operator)[-1]
    if (operator.multiplier << EXPONENTIAL_BITS + 1) + (count << EXPONENTIAL_BITS + RATIO_BITS + 1) >= _LARGEST_WIDE:
        raise refuse(
            operator.name,
            "its shares do not fit into 64 bits",
            "Calibrate on data like those of use, or use fewer values.",
        )
    mask = {} if operator.mask is None else {"mask": operator.mask}
    given = to.whole(operator, 1) if len(operator.inputs) > 1 else None
    lines = _lines(operator, to, 1, mask, RANK - 1, given)
    if len(lines.fields["size"]) > RANK:
        raise refuse(
            operator.name,
            f"its mask and its {len(to.shape(operator))} dimensions walk in too many ways",
            "Give the scores fewer dimensions, or export to ONNX instead.",
        )
    own = {key: value for key, value in lines.fields.items() if key != "given_stride"}
    fields = {
        **own,
        "table": to.table(operator.name, "table", operator.table.astype(np.int32)),
        "mask": "NULL",
        "multiplier": operator.multiplier,
        **grid_fields(operator, to),
    }
    for kind, truth in lines.tables.items():
        fields[kind] = to.table(operator.name, kind, np.packbits(truth.reshape(-1), bitorder="little"))
    if given is None:
        to.step(operator.name, "sq_softmax_codes", fields, (lines.x,), lines.y)
        return
    with_given = {"shares": fields, "given_stride": lines.fields["given_stride"]}
    to.step(operator.name, "sq_softmax_given", with_given, (lines.x, given), lines.y)


@emit.register
def _(operator: Norm, to: Translation) -> None:
    shape = to.edge(operator.inputs[0]).shape
    count = math.prod(shape[axis] for axis in operator.axes)
    square = ((_SPAN * count) ** 2 << 2 * operator.root_bits) + operator.epsilon
    if count**3 * _SPAN**2 >= 2 * _LARGEST_WIDE or square >= _LARGEST_SQUARE:
        raise refuse(
            operator.name,
            f"its sums over {count} values do not fit into 64 bits",
            "Normalize over fewer values, or with a smaller eps.",
        )
    rows = zip(operator.offset.flat, operator.shift.flat, strict=True)
    offsets = [rounding_offset(operator.name, int(offset), int(shift), [], []) for offset, shift in rows]
    tables: dict[str, NDArray[Any]] = {
        "multiplier": operator.multiplier.astype(np.int32),
        "offset": np.array(offsets, dtype=np.int32).reshape(operator.offset.shape),
        "shift": operator.shift.astype(np.uint8),
    }
    lines = _lines(operator, to, len(operator.axes), tables, RANK // 2)
    fields = {
        **lines.fields,
        **{kind: to.table(operator.name, kind, values) for kind, values in lines.tables.items()},
        "centred": int(operator.centred),
        "epsilon": operator.epsilon,
        "root_bits": operator.root_bits,
        "fraction_bits": FRACTION_BITS,
        "in_zero": to.input_zero(operator),
        **grid_fields(operator, to),
    }
    to.step(operator.name, "sq_norm", fields, (lines.x,), lines.y)


@dataclass(frozen=True)
class _Lines:
    """Lines of values along strides.

    Attributes:
        x: the input.
        y: the output.
        tables: constants, repeated as far as the loops need it.
        fields: the kernel's sizes and strides.
    """

    x: View
    y: View
    tables: Mapping[str, NDArray[Any]]
    fields: dict[str, Any]


def _lines(
    operator: Operator,
    to: Translation,
    inner: int,
    tables: Mapping[str, NDArray[Any]],
    room: int,
    given: View | None = None,
) -> _Lines:
    """The last `inner` dimensions as lines, the others as what is repeated.

    Args:
        operator: has one input of the output's shape.
        to: what is built.
        inner: how many dimensions a line has.
        tables: of one shape that broadcasts to an example.
        room: loops that the kernel has over lines; the rest of `RANK` are inside a line.
        given: a second input, which broadcasts to the first one.
    """
    shape, lead = to.shape(operator), to.lead(operator)
    split, own = len(shape) - inner, shape[lead:]
    table = next(iter(tables.values())).shape if tables else ()
    short = (1,) * (len(own) - len(table)) + table
    # where a table varies somewhere in a part, it may have to be repeated over all of it
    parts = (own[: split - lead], short[: split - lead]), (own[split - lead :], short[split - lead :])
    full = tuple(n for whole, few in parts for n in (whole if math.prod(few) > 1 else few))
    view = to.whole(operator)
    others = (
        [] if given is None else [tuple(s if n > 1 else 0 for n, s in zip(given.shape, given.strides, strict=True))]
    )
    for size, strides in ((short, view.strides), (full, view.strides), (full, natural(shape))):
        dense = view.dense if strides == view.strides else natural(shape)
        steps = (0,) * lead + tuple(s if n > 1 else 0 for n, s in zip(size, natural(size), strict=True))
        walks = (steps, strides, dense, *others)
        outside = loops(shape[:split], *(s[:split] for s in walks))
        inside = loops(shape[split:], *(s[split:] for s in walks))
        if len(outside) <= room and len(inside) <= RANK - room:
            break
    x = view if strides == view.strides else to.whole_as(operator, strides)
    once = Loop(1, (0,) * len(walks))
    found = [*[once] * (room - len(outside)), *outside, *[once] * (RANK - room - len(inside)), *inside]
    names: tuple[str, ...] = ("table_stride", "x_stride", "y_stride", "given_stride")[: len(walks)]
    fields: dict[str, Ints] = {"size": tuple(loop.count for loop in found)}
    fields |= {name: tuple(loop.steps[i] for loop in found) for i, name in enumerate(names)}
    repeated = {kind: np.broadcast_to(values, size) for kind, values in tables.items()}
    return _Lines(x, to.output_whole(operator, dense), repeated, dict(fields))
