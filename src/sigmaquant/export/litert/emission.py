"""`emit`: one operator of an `IntegerModel` as operators of LiteRT; a module for each family registers its own."""

from __future__ import annotations

from functools import singledispatch

from sigmaquant.errors import ExportError
from sigmaquant.export.litert.values import Values
from sigmaquant.lowering.model import Operator


@singledispatch
def emit(operator: Operator, values: Values) -> None:
    """Write one operator.

    Raises:
        ExportError: it has no exact form in LiteRT.
    """
    raise refusal(operator, f"operators of kind {type(operator).__name__!r} are not exported to LiteRT")


def refusal(operator: Operator, reason: str) -> ExportError:
    """The error for an operator that cannot be exported."""
    return ExportError(f"{operator.name!r}: {reason}. Change it, or export this network to another format.")
