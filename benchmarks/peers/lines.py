"""Counts the lines that a user of each peer writes: code between two marker comments."""

from __future__ import annotations

import io
import tokenize
from pathlib import Path

BEGIN, END = "# user code: begin", "# user code: end"
TRAINING = Path(__file__).with_name("training.py")
_LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> set[int]:
    """Numbers of the lines that hold code: no blank lines, comments or docstrings."""
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    found: set[int] = set()
    fresh = True  # a statement begins here
    for token in tokens:
        if token.type in _LAYOUT:
            fresh = fresh or token.type == tokenize.NEWLINE
            continue
        if not (fresh and token.type == tokenize.STRING):
            found.update(range(token.start[0], token.end[0] + 1))
        fresh = False
    return found


def marked(source: str, stage: str = "") -> int:
    """Lines of code between the markers; a block marked ``begin (stage)`` counts for that stage alone.

    Raises:
        ValueError: no markers, or one without its partner.
    """
    code = code_lines(source)
    inside = counts = False
    found, blocks = 0, 0
    for number, text in enumerate(source.splitlines(), start=1):
        line = text.strip()
        if line.startswith(BEGIN):
            if inside:
                raise ValueError(f"line {number}: a block of user code begins inside another")
            only = line.removeprefix(BEGIN).strip(" ()")
            inside, counts, blocks = True, not only or only == stage, blocks + 1
        elif line == END:
            if not inside:
                raise ValueError(f"line {number}: a block of user code ends that did not begin")
            inside = False
        elif inside and counts and number in code:
            found += 1
    if inside or not blocks:
        raise ValueError("user code has no end" if inside else "no user code is marked")
    return found


def user_lines(program: Path, stage: str) -> int:
    """Lines that a user writes for one stage, with the training loop where the peer leaves it to the user."""
    source = program.read_text()
    own = marked(source, stage)
    return own + (marked(TRAINING.read_text()) if stage == "trained" and "from training import" in source else 0)
