"""Tables whose numbers are never cut: where the width does not do, they are turned, or go on below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from sigmaquant.terminal.plain_text import plain_text

_WORDS = 14
"""Characters that a column of text keeps at least, where it has so many."""
_LETTERS = 8
"""Likewise of a name that may be broken."""
_FRAME = 3
"""Characters beside each column; one more ends the line."""


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: its header.
        words: whether it holds text, which may be broken into lines; numbers stand on the right, whole.
        breaks: whether the name itself may be broken anywhere, as a path.
    """

    name: str
    words: bool = False
    breaks: bool = False


@dataclass(frozen=True)
class Grid:
    """A table, as text.

    Attributes:
        title: above it.
        columns: its columns; the first one says what a row is about.
        rows: their cells.
        notes: lines below it.
        turned: whether rows may become columns: for few rows of many columns.
        header: whether the columns' names are shown.
        last: whether the last row is set off, as a total.
        soft: of each row, whether its cells may be broken into lines although their columns hold numbers.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    turned: bool = False
    header: bool = True
    last: bool = False
    soft: tuple[bool, ...] = ()

    def shown(self, width: int, encoding: str = "utf-8") -> Iterator[RenderableType]:
        """What to print, each part no wider than `width` where that is possible at all.

        Args:
            width: characters of a line.
            encoding: of what it is printed to.
        """
        grid = self._in(encoding)
        if grid.title:
            yield Text(grid.title, style="italic")
        for part in grid._fitted(width):
            yield part._table(width)
        for note in grid.notes:
            yield Text(note)

    def _in(self, encoding: str) -> Grid:
        """The same with other words for what the encoding lacks; before the widths are known."""

        def text(value: str) -> str:
            return plain_text(value, encoding)

        return replace(
            self,
            title=text(self.title),
            columns=tuple(replace(column, name=text(column.name)) for column in self.columns),
            rows=tuple(tuple(text(cell) for cell in row) for row in self.rows),
            notes=tuple(text(note) for note in self.notes),
        )

    def _fitted(self, width: int) -> list[Grid]:
        if self._least() <= width or len(self.columns) < 2:
            return [self]
        if self.turned and (other := self._turned())._least() <= width:
            return [other]
        return self._stacked(width)

    def _turned(self) -> Grid:
        """Rows as columns."""
        columns = (Column(self.columns[0].name), *(Column(row[0], breaks=True) for row in self.rows))
        rows = tuple(
            (column.name, *(row[number] for row in self.rows)) for number, column in enumerate(self.columns) if number
        )
        soft = tuple(column.words for column in self.columns[1:])
        return replace(self, columns=columns, rows=rows, soft=soft, turned=False)

    def _stacked(self, width: int) -> list[Grid]:
        """As many columns as fit beside the first one, then the others below, beside it again."""
        parts: list[Grid] = []
        chosen: list[int] = []
        for number in range(1, len(self.columns)):
            if chosen and self._of([0, *chosen, number])._least() > width:
                parts.append(self._of([0, *chosen]))
                chosen = []
            chosen.append(number)
        return [*parts, self._of([0, *chosen])]

    def _of(self, numbers: Sequence[int]) -> Grid:
        rows = tuple(tuple(row[number] for number in numbers) for row in self.rows)
        return replace(self, columns=tuple(self.columns[number] for number in numbers), rows=rows)

    def _least(self) -> int:
        return sum(self._narrowest()) + _FRAME * len(self.columns) + 1

    def _narrowest(self) -> list[int]:
        return [self._least_of(number) for number in range(len(self.columns))]

    def _least_of(self, number: int) -> int:
        soft = self.soft if number else ()
        cells = [
            min(cell_len(row[number]), _WORDS) if place < len(soft) and soft[place] else cell_len(row[number])
            for place, row in enumerate(self.rows)
        ]
        name = self.columns[number].name if self.header else ""
        longest = max((cell_len(word) for word in name.split()), default=1)
        if self.columns[number].breaks:
            longest = min(longest, _LETTERS)
        if not self.columns[number].words:
            return max([longest, *cells])
        return max(min(longest, _WORDS), min(max(cells, default=1), _WORDS))

    def _widest(self) -> list[int]:
        return [
            max([cell_len(column.name) if self.header else 1, *(cell_len(row[number]) for row in self.rows)])
            for number, column in enumerate(self.columns)
        ]

    def _table(self, width: int) -> Table:
        widths = self._narrowest()
        room = width - sum(widths) - _FRAME * len(widths) - 1
        wanted = self._widest()
        while room > 0 and widths != wanted:  # evenly, so that no long cell takes all
            growing = [number for number, (has, wants) in enumerate(zip(widths, wanted, strict=True)) if has < wants]
            for number in growing[:room]:
                widths[number] += 1
                room -= 1
        table = Table(show_header=self.header)
        for number, (column, size) in enumerate(zip(self.columns, widths, strict=True)):
            justify = "left" if column.words or not number else "right"
            table.add_column(Text(column.name), justify=justify, width=size, overflow="fold")  # type: ignore[arg-type]
        for number, row in enumerate(self.rows):
            style = "bold" if self.last and number == len(self.rows) - 1 else None
            table.add_row(*(Text(cell, overflow="fold") for cell in row), style=style)
        return table
