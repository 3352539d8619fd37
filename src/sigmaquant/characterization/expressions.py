"""Boolean functions as Liberty writes them: ``"!(A*B)"``, ``"(SCE*SCD)+(SCE'*D)"``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

_TOKENS, _NAMES = 150, 16
"""Of a function, and variables; those of real cells have at most some dozens, and eight."""
_TOKEN = re.compile(r"\s*(?:([A-Za-z_][\w\[\].]*)|([01])(?!\w)|(.))")

Node = tuple[Any, ...]


@dataclass(frozen=True)
class Expression:
    """A parsed function.

    Attributes:
        text: as the library writes it.
        names: its variables, in the order of their first appearance.
        node: the tree: ``("name", n)``, ``("constant", 0 or 1)``, ``("not", x)``, ``("and" | "or" | "xor", x, y)``.
    """

    text: str
    names: tuple[str, ...]
    node: Node

    def source(self, names: Mapping[str, str]) -> str:
        """Python source that computes the function bit by bit, with `ones` as the word of all ones.

        Args:
            names: what stands for each variable in the source.

        Example:
            >>> parse_expression("!(A*B)").source({"A": "x", "B": "y"})
            '(ones ^ (x & y))'
        """
        return _source(self.node, names)

    def compiled(self) -> Callable[..., Any]:
        """The function over words or arrays: its arguments are those of `names`, then the word of all ones."""
        return _compiled(self.names, self.node)

    def truth(self) -> int:
        """The truth table as a number: bit i is the value where variable k has the value of bit k of i.

        Example:
            >>> bin(parse_expression("A B'").truth())
            '0b10'
        """
        rows = 1 << len(self.names)
        words = [sum(1 << row for row in range(rows) if row >> k & 1) for k in range(len(self.names))]
        value: int = self.compiled()(*words, (1 << rows) - 1)
        return value

    def possible(self, known: Mapping[str, int]) -> bool:
        """Whether the function can be 1 while some variables have known values."""
        arguments = [known.get(name) for name in self.names]
        table = self.truth()
        rows = range(1 << len(self.names))
        return any(
            table >> row & 1
            for row in rows
            if all(value is None or (row >> k & 1) == value for k, value in enumerate(arguments))
        )


@cache  # a netlist has thousands of instances of a few dozen functions
def _compiled(names: tuple[str, ...], node: Node) -> Callable[..., Any]:
    arguments = {name: f"v{number}" for number, name in enumerate(names)}
    source = f"lambda {', '.join([*arguments.values(), 'ones'])}: {_source(node, arguments)}"
    function: Callable[..., Any] = eval(source, {})
    return function


_SYMBOL = {"and": "&", "or": "|", "xor": "^"}


def _source(node: Node, names: Mapping[str, str]) -> str:
    kind = node[0]
    if kind == "name":
        return names[node[1]]
    if kind == "constant":
        return "ones" if node[1] else "(ones ^ ones)"
    if kind == "not":
        return f"(ones ^ {_source(node[1], names)})"
    return f"({_source(node[1], names)} {_SYMBOL[kind]} {_source(node[2], names)})"


def parse_expression(text: str) -> Expression:
    """Parse a function; inversion binds most, then exclusive or, then and (also written as a space), then or.

    Raises:
        ValueError: the text is no function; the message says where it ends to be one.

    Example:
        >>> parse_expression("A'*B + C").names
        ('A', 'B', 'C')
    """
    tokens = [match.group().strip() for match in _TOKEN.finditer(text.strip())]
    if len(tokens) > _TOKENS:
        raise ValueError(f"the function {text[:40]!r}… has {len(tokens)} symbols, more than {_TOKENS}")
    node, rest = _either(tokens, 0)
    if rest != len(tokens):
        raise ValueError(f"the function {text!r} cannot be read from {tokens[rest]!r} on")
    names: dict[str, None] = {}
    _collect(node, names)
    if len(names) > _NAMES:
        raise ValueError(f"the function {text[:40]!r}… has {len(names)} variables, more than {_NAMES}")
    return Expression(text, tuple(names), node)


def _collect(node: Node, names: dict[str, None]) -> None:
    if node[0] == "name":
        names[node[1]] = None
    elif node[0] != "constant":
        for part in node[1:]:
            _collect(part, names)


def _either(tokens: list[str], at: int) -> tuple[Node, int]:
    left, at = _all(tokens, at)
    while at < len(tokens) and tokens[at] in "+|":
        right, at = _all(tokens, at + 1)
        left = ("or", left, right)
    return left, at


def _all(tokens: list[str], at: int) -> tuple[Node, int]:
    left, at = _exclusive(tokens, at)
    while at < len(tokens) and tokens[at] not in "+|)":
        at += tokens[at] in "*&"
        right, at = _exclusive(tokens, at)
        left = ("and", left, right)
    return left, at


def _exclusive(tokens: list[str], at: int) -> tuple[Node, int]:
    left, at = _inverted(tokens, at)
    while at < len(tokens) and tokens[at] == "^":
        right, at = _inverted(tokens, at + 1)
        left = ("xor", left, right)
    return left, at


def _inverted(tokens: list[str], at: int) -> tuple[Node, int]:
    token = tokens[at] if at < len(tokens) else ""
    node: Node
    if token == "!":
        node, at = _inverted(tokens, at + 1)
        return ("not", node), at
    if token == "(":
        node, at = _either(tokens, at + 1)
        if at >= len(tokens) or tokens[at] != ")":
            raise ValueError("a parenthesis is not closed in " + repr("".join(tokens)))
    elif token in ("0", "1"):
        node = ("constant", int(token))
    elif token and (token[0].isalpha() or token[0] == "_"):
        node = ("name", token)
    else:
        raise ValueError(f"a variable is missing in {''.join(tokens)!r}" + (f" before {token!r}" if token else ""))
    at += 1
    while at < len(tokens) and tokens[at] == "'":
        node = ("not", node)
        at += 1
    return node, at
