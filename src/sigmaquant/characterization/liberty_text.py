"""The grammar of Liberty files: groups, simple and complex attributes; no meaning yet."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from sigmaquant.errors import LibertyError

_DEPTH = 20
"""Of groups in each other; a library has six."""
_TOKEN = re.compile(
    r'(?P<skip>(?:\s|\\\r?\n|/\*.*?\*/|//[^\n]*)+)|(?P<string>"(?:[^"\\]|\\.)*")|(?P<mark>[(){};:,])'
    r"|(?P<word>[^\s(){};:,\"\\]+)|(?P<bad>.)",
    re.DOTALL,
)


@dataclass
class Group:
    """One ``name (arguments) { ... }``.

    Attributes:
        name: such as ``cell``.
        arguments: without their quotation marks.
        line: where it begins.
        values: simple attributes, ``name : value ;``.
        lists: complex attributes, ``name (a, b) ;``, every occurrence.
        groups: the groups inside, in order.
    """

    name: str
    arguments: tuple[str, ...]
    line: int
    values: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    @property
    def argument(self) -> str:
        """The first argument, or an empty text."""
        return self.arguments[0] if self.arguments else ""

    def all(self, *names: str) -> Iterator[Group]:
        """The groups inside that have one of these names."""
        return (group for group in self.groups if group.name in names)

    def within(self, *names: str) -> Iterator[Group]:
        """The groups with one of these names at any depth."""
        for group in self.groups:
            if group.name in names:
                yield group
            yield from group.within(*names)


def parse_groups(text: str, source: str) -> Group:
    """The outermost group of a Liberty file, ``library``.

    Args:
        text: the file.
        source: its name, for messages.

    Raises:
        LibertyError: the file is broken, or no Liberty file at all; the message names the line.
    """
    reader = _Reader(text, source)
    if reader.text != "library":
        shown = reader.text[:30] or "nothing"
        raise LibertyError(
            f"{source} is no Liberty file: it begins with {shown!r} instead of 'library (name) {{ ... }}'."
        )
    outer = Group("", (), 1)
    reader.statement(outer)
    if not outer.groups:
        raise LibertyError(f"{source}, line 1: 'library' is not followed by a group in braces.")
    return outer.groups[0]


def number(text: str) -> float:
    """A number of the file.

    Raises:
        ValueError: it is none, or not finite.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:24]!r} is no finite number")
    return value


class _Reader:
    """Walks over the tokens; `text`, `line` and `mark` describe the next one."""

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self._tokens = self._scan(text)
        self.text, self.line, self.mark = "", 1, False
        self._depth = 0
        self.next()

    def _scan(self, text: str) -> Iterator[tuple[str, int, bool]]:
        line = 1
        for match in _TOKEN.finditer(text):
            kind, token = match.lastgroup, match.group()
            if kind == "bad":
                what = "a string that is not closed" if token == '"' else f"the character {token!r}"
                raise LibertyError(f"{self.source}, line {line}: {what}.")
            if kind == "string":
                yield token[1:-1].replace("\\\n", " ").replace("\\\r\n", " "), line, False
            elif kind != "skip":
                yield token, line, kind == "mark"
            line += token.count("\n")
        yield "", line, True

    def next(self) -> str:
        token = self.text
        self.text, self.line, self.mark = next(self._tokens, ("", self.line, True))
        return token

    def fail(self, expected: str) -> LibertyError:
        found = repr(self.text) if self.text else "the end of the file"
        return LibertyError(
            f"{self.source}, line {self.line}: {expected}, found {found}. The file is cut off or damaged."
        )

    def at(self, mark: str) -> bool:
        return self.mark and self.text == mark

    def statement(self, group: Group) -> None:
        if self.mark:
            raise self.fail(f"expected an attribute or a group inside {group.name or 'the file'!r}")
        line = self.line
        name = self.next()
        if self.at(":"):
            self.next()
            group.values[name] = self.value()
        elif self.at("("):
            arguments = self.arguments()
            if self.at("{"):
                inner = Group(name, arguments, line)
                group.groups.append(inner)
                self.body(inner)
            else:
                group.lists.setdefault(name, []).append(arguments)
        else:
            raise self.fail(f"expected ':' or '(' after {name!r}")
        if self.at(";"):
            self.next()

    def value(self) -> str:
        """Up to the semicolon; many files leave it out at the end of a line."""
        parts: list[str] = []
        line = self.line
        while not (self.at(";") or self.at("}") or self.line != line):
            if not self.text:
                raise self.fail("expected a value")
            parts.append(self.next())
        return " ".join(parts)

    def arguments(self) -> tuple[str, ...]:
        self.next()
        parts: list[str] = []
        while not self.at(")"):
            if self.at(","):
                self.next()
            elif self.mark and self.text != ":":
                raise self.fail("expected ')'")
            else:
                parts.append(self.next())
        self.next()
        return tuple(parts)

    def body(self, group: Group) -> None:
        self._depth += 1
        if self._depth > _DEPTH:
            raise LibertyError(f"{self.source}, line {self.line}: groups are nested more than {_DEPTH} deep.")
        self.next()
        while not self.at("}"):
            if self.at(";"):
                self.next()
            elif not self.text and self.mark:
                raise self.fail(f"expected '}}' for {group.name} ({group.argument}) of line {group.line}")
            else:
                self.statement(group)
        self.next()
        self._depth -= 1
