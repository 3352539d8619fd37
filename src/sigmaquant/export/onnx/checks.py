"""What is refused, each in one sentence that says what to do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from sigmaquant.errors import ExportError
from sigmaquant.lowering.model import FloatOperator, IntegerModel
from sigmaquant.operators import Operator

_AGAIN = "Lower the network again; a network from `lower` has no such place."


def refuse_floats(model: IntegerModel) -> None:
    """Refuse operators without an integer form.

    Raises:
        ExportError: names every one with its layer and the user's line.
    """
    found = [operator for operator in model.operators if isinstance(operator, FloatOperator)]
    if not found:
        return
    names = [f"{op.operator} ({op.line})" if op.line else op.operator for op in found]
    raise ExportError(
        f"the network has {len(found)} operators without an integer form: {', '.join(names)}. An exported network "
        "computes in integers alone: replace them (LayerNorm by BatchNorm, say), compute them outside the network, "
        "before its input or after its output, or export the part of it that has none."
    )


def refuse_damage(model: IntegerModel) -> None:
    """Refuse a model that is no network.

    Raises:
        ExportError: an activation is read before it is written, is not described, or has no grid.
    """
    for name in (*model.inputs, *model.outputs):
        if name not in model.edges:
            raise ExportError(f"the network has an input or output {name!r} that it does not describe. {_AGAIN}")
    known = set(model.inputs)
    for operator in model.operators:
        where = f"{operator.name!r} ({type(operator).__name__})"
        for name in (*operator.inputs, operator.output):
            if name not in model.edges:
                raise ExportError(f"{where} uses the activation {name!r}, which is not described. {_AGAIN}")
        missing = [name for name in operator.inputs if name not in known]
        if missing:
            raise ExportError(f"{where} reads the activation {missing[0]!r}, which nothing before it writes. {_AGAIN}")
        if operator.output in known:
            raise ExportError(f"{where} writes the activation {operator.output!r}, which has a value. {_AGAIN}")
        known.add(operator.output)
    for name in model.outputs:
        if name not in known:
            raise ExportError(f"the output {name!r} is written by no operator. {_AGAIN}")
    for edge in model.edges.values():
        low, high = edge.range if edge.has_grid else (0, 0)
        if not math.isfinite(edge.scale) or edge.scale <= 0 or not low <= edge.zero_point <= high:
            raise ExportError(
                f"the activation {edge.name!r} has the scale {edge.scale} and the zero-point {edge.zero_point}, which "
                "is no grid. Calibrate on data like those of use."
            )


@contextmanager
def told(operator: Operator) -> Iterator[None]:
    """Errors while an operator is written name it.

    Raises:
        ExportError: instead of whatever its fields made of Python, NumPy or ONNX.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ExportError(
            f"{operator.name!r} ({type(operator).__name__}) cannot be written as ONNX, since its numbers do not fit "
            f"together: {error}. {_AGAIN}"
        ) from error
