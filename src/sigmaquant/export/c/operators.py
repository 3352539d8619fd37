"""An `IntegerModel` as kernel calls."""

from __future__ import annotations

import math

from sigmaquant.errors import ExportError
from sigmaquant.export.c import elementwise, layer_calls, moves, pools, recurrent, sequences  # noqa: F401  # they add to `emit`
from sigmaquant.export.c.planes import SharedConstants
from sigmaquant.export.c.program import Program
from sigmaquant.export.c.translate import Translation, emit, refuse
from sigmaquant.export.rewriting import without_transposed
from sigmaquant.lowering import IntegerModel


def translate(model: IntegerModel, prefix: str, shared: SharedConstants | None = None) -> Program:
    """A model's kernel calls.

    Args:
        model: in integers alone.
        prefix: of all symbols.
        shared: constants that several plans share.

    Raises:
        ExportError: an operator that C has no kernel for; the message names it.
    """
    for edge in model.edges.values():
        if math.prod((edge.rows, *edge.shape)) == 0:
            shape = list(edge.shape)
            raise refuse(edge.name, f"its shape {shape} holds no value", "Leave it out of the network.")
    if all(model.edges[name].is_float for name in model.inputs):
        raise ExportError("the network reads none of its inputs in integers. There is nothing to export.")
    ordinary = without_transposed(model)
    to = Translation(ordinary, prefix, shared)
    for operator in ordinary.operators:
        emit(operator, to)
    return to.finish()
