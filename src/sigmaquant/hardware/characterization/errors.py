"""What can go wrong between a cell library and a profile."""

from __future__ import annotations

from sigmaquant.errors import SigmaQuantError


class LibertyError(SigmaQuantError, ValueError):
    """A Liberty file is broken, of another kind, or lacks what the flow needs; the message names the line or cell."""


class CharacterizationError(SigmaQuantError):
    """A unit could not be synthesised, misses its clock, or computes something else than the integer reference."""
