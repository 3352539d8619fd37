"""The command line."""

from sigmaquant.cli.app import app, main

__all__ = ["app", "main"]
