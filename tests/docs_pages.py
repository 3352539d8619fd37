"""What the pages of the documentation hold: their fenced blocks, and the command lines in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted(DOCS.rglob("*.md"))

_FENCE = re.compile(r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$', re.M | re.S)
_EXIT_CODE = re.compile(r"#\s*exit code (\d+)")


@dataclass(frozen=True)
class Block:
    """One fenced block; `title` is the name of the file that it stands for, or empty."""

    language: str
    title: str
    text: str


@dataclass(frozen=True)
class Line:
    """One command: its words, and the exit code that the page announces for it."""

    words: tuple[str, ...]
    code: int


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found = _FENCE.finditer(page.read_text(encoding="utf-8"))
    return [Block(match["language"], match["title"] or "", match["text"]) for match in found]


def lines(text: str) -> Iterator[Line]:
    """The commands of a shell block; lines that end in a backslash go on."""
    for line in text.replace("\\\n", " ").splitlines():
        words = tuple(shlex.split(line, comments=True))
        if words:
            code = _EXIT_CODE.search(line)
            yield Line(words, int(code[1]) if code else 0)


def calls(page: Path) -> Iterator[tuple[str, ...]]:
    """The words after ``sigmaquant`` of every command of that name in a block without Python or output."""
    for block in blocks(page):
        if block.language in ("", "sh", "console"):
            for line in block.text.replace("\\\n", " ").splitlines():
                if line.strip().startswith("sigmaquant "):
                    yield tuple(shlex.split(line, comments=True))[1:]


def command_of(words: tuple[str, ...], application: Any) -> tuple[str, Any]:
    """The verb that a command line names, and its command.

    Raises:
        LookupError: there is none.
    """
    command, name = application, []
    for word in words:
        if not hasattr(command, "commands"):
            break
        if word not in command.commands:
            raise LookupError(f"there is no verb {' '.join([*name, word])!r}")
        command = command.commands[word]
        name.append(word)
    if hasattr(command, "commands"):
        raise LookupError(f"{' '.join(name)!r} names no verb")
    return " ".join(name), command


def options_of(command: Any) -> set[str]:
    """Every option of a verb, short and negative forms included."""
    return {
        name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts) if name[0] == "-"
    }
