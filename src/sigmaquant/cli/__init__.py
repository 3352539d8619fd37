"""The command line."""

from typing import TYPE_CHECKING, Any

from sigmaquant.cli.start import main

if TYPE_CHECKING:
    from sigmaquant.cli.program import app

__all__ = ["app", "main"]


def __getattr__(name: str) -> Any:
    if name == "app":  # with all that it imports
        from sigmaquant.cli.program import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
