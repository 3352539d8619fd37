"""Reads docstrings the way this project writes them."""

from __future__ import annotations

import re
from typing import Any

import griffe

_SEVERAL = re.compile(r"^    (\w+(?:, \w+)+): (.*(?:\n {8}.*)*)", re.MULTILINE)


class HouseStyle(griffe.Extension):
    """Two habits that the parser of Google's style does not know.

    The section ``Example:`` is its ``Examples:``, which is shown as code; and an entry for ``a, b`` is one for each.
    """

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring before it is parsed."""
        if obj.docstring is not None:
            text = obj.docstring.value.replace("Example:\n    >>>", "Examples:\n    >>>")
            obj.docstring.value = _SEVERAL.sub(
                lambda entry: "\n".join(f"    {name}: {entry[2]}" for name in entry[1].split(", ")), text
            )
