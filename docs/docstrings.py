"""Reads docstrings the way this project writes them."""

from __future__ import annotations

from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Takes the section ``Example:`` for ``Examples:``, the one that is shown as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("Example:\n    >>>", "Examples:\n    >>>")
