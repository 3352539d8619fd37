"""The user's names as C identifiers, file names and comments."""

from __future__ import annotations

import re
from collections.abc import Sequence

_KEYWORDS = frozenset(
    re.findall(
        r"\w+",
        """
        auto break case char const continue default do double else enum extern float for goto if inline int long
        register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while
        alignas alignof and asm bool catch class constexpr delete explicit export false friend mutable namespace new
        not nullptr operator or private protected public static_assert template this thread_local throw true try
        typeid typename typeof using virtual wchar_t xor
        """,
    )
)
"""Of C99, of later C, and of C++."""
_HEADERS = frozenset(
    re.findall(
        r"\w+",
        """
        assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg
        stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string strings tgmath threads time uchar unistd wchar
        wctype
        """,
    )
)
_OWN_FILES = frozenset({"main", "export", "readme", "makefile"})
_LONGEST = 48


def identifier(text: str, fallback: str = "x") -> str:
    """Letters, digits and single underscores; begins with a letter, and is no keyword.

    Example:
        >>> identifier("layer1.0.conv-1"), identifier("1-bad name"), identifier("int"), identifier("été")
        ('layer1_0_conv_1', 'x_1_bad_name', 'x_int', 't')
    """
    found = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")
    if not found:
        return fallback
    if found[0].isdigit() or found.lower() in _KEYWORDS:
        return f"{fallback}_{found}"
    return found


def model_identifier(name: str) -> str:
    """The prefix of a model's files and symbols: no keyword, no standard header, none of the folder's other files.

    Example:
        >>> model_identifier("1-bad name"), model_identifier("string"), model_identifier("sq_conv")
        ('model_1_bad_name', 'model_string', 'model_sq_conv')
    """
    found = identifier(name, "model")[:_LONGEST].rstrip("_")
    if found.lower() in _HEADERS | _OWN_FILES or found.lower() == "sq" or found.lower().startswith("sq_"):
        return f"model_{found}"
    return found


def comment(text: str) -> str:
    """Text that cannot end a comment, begin one, or be read as a trigraph.

    Example:
        >>> comment("layer */ ??/ 1")
        'layer __ ___ 1'
    """
    return re.sub(r"[^A-Za-z0-9 .,:;_=+()\[\]-]", "_", text)


def ending_name(prefix: str, functions: Sequence[str], place: str) -> str:
    """The C function that makes of an output's values what the network returns.

    Example:
        >>> ending_name("model", ["softmax"], "output")
        'model_softmax_output'
    """
    return "_".join([prefix, *functions, place])


class Names:
    """Hands out each identifier once, also where letters differ in their case only (macros are upper case)."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, text: str) -> str:
        """An identifier made of `text` that was not handed out before."""
        base = identifier(text)
        candidate, count = base, 1
        while candidate.lower() in self._taken:
            count += 1
            candidate = f"{base}_{count}"
        self._taken.add(candidate.lower())
        return candidate
