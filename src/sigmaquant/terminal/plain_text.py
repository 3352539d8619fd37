"""Text for terminals and files that cannot show all characters: signs become words, letters lose their accents."""

from __future__ import annotations

import codecs
import unicodedata

ERRORS = "sigmaquant.plain"
"""Name of the encoding error handler, for ``open(..., errors=ERRORS)`` and the like."""

_SIGNS = {
    "σ": "sigma", "–": "-", "—": "-", "−": "-", "×": "x", "…": "...", "µ": "u", "μ": "u", "²": "^2", "³": "^3",
    "→": "->", "←": "<-", "≤": "<=", "≥": ">=", "≈": "~", "±": "+-", "·": "*", "•": "*", "°": " deg", "√": "sqrt",
    "‘": "'", "’": "'", "“": '"', "”": '"', "α": "alpha", "β": "beta", "Δ": "delta", "█": "#", "━": "-", "│": "|",
    "\u00a0": " ",
}  # fmt: skip


def plain_text(text: str, encoding: str) -> str:
    """`text` with what `encoding` lacks put in other words.

    Example:
        >>> plain_text("σ of 3×3 – é", "ascii")
        'sigma of 3x3 - e'
    """
    return text.encode(encoding, ERRORS).decode(encoding)


def _replacement(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte of a file's name that is no text
        return f"\\x{ord(character) - 0xDC00:02x}"
    base = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return base or "?"


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_replacement(character) for character in error.object[error.start : error.end]), error.end


codecs.register_error(ERRORS, _plain)
