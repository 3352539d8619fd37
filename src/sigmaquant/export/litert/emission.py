"""`emit`: one operator of an `IntegerModel` as operators of LiteRT; a module for each family registers its own."""

from __future__ import annotations

from functools import singledispatch

from sigmaquant.errors import ExportError
from sigmaquant.export.litert.values import Values
from sigmaquant.operators import Move, Operator, Weighted

LARGEST_RANK = 6
"""Dimensions that the default kernels take, the batch among them."""
ELSEWHERE = "Export this network to another format"


@singledispatch
def emit(operator: Operator, values: Values) -> None:
    """Write one operator.

    Raises:
        ExportError: it has no form in LiteRT.
    """
    raise refusal(operator, "it has no form in LiteRT", ELSEWHERE)


def write(operator: Operator, values: Values) -> None:
    """Write one operator, where the runtime's kernels take as many dimensions as it has.

    Raises:
        ExportError: it has no form in LiteRT.
    """
    ranks = [1 + len(values.model.edges[name].shape) for name in (*operator.inputs, operator.output)]
    if max(ranks) > LARGEST_RANK and not isinstance(operator, Move):
        raise refusal(
            operator,
            f"it computes with {max(ranks)} dimensions, and LiteRT's kernels take {LARGEST_RANK}",
            "Reshape its input to fewer dimensions, or export this network to another format",
        )
    emit(operator, values)


def refusal(operator: Operator, reason: str, remedy: str) -> ExportError:
    """The error for an operator that cannot be exported.

    Args:
        operator: which.
        reason: why, going on after the operator's kind and name.
        remedy: what helps, as a sentence without its full stop.
    """
    kind = type(operator).__name__
    layer = f" of layer {operator.layer!r}" if isinstance(operator, Weighted) else ""
    return ExportError(f"{operator.name!r} ({kind}{layer}): {reason}. {remedy}.")
