"""Tables never cut a number, however narrow the terminal is."""

from __future__ import annotations

import io
import random

import pytest
from rich.cells import cell_len
from rich.console import Console

from sigmaquant.terminal.grid import Column, Grid
from sigmaquant.terminal.plain_text import plain_text


def printed(grid: Grid, width: int, encoding: str = "utf-8") -> str:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=out, width=width, markup=False, highlight=False)
    for part in grid.shown(console.width, console.encoding):
        console.print(part)
    out.flush()
    return out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


def random_grid(draw: random.Random) -> Grid:
    columns = [Column("layer", words=True)]
    columns += [
        Column(draw.choice(["MACs", "bytes at 2", "validation", "σ", "time / float"]), words=draw.random() < 0.2)
        for _ in range(draw.randint(1, 14))
    ]
    rows = []
    for number in range(draw.randint(0, 6)):
        cells = [draw.choice(["conv", "a/long/path/of/a/model.safetensors", f"layer{number}.0.conv"])]
        for column in columns[1:]:
            value = f"{draw.choice([0.5, 12345.678, 1e9]) * (1 + draw.random()):,.2f} {draw.choice(['KB', '%', 'M'])}"
            cells.append("two words of text" if column.words else value)
        rows.append(tuple(cells))
    return Grid("Title", tuple(columns), tuple(rows), ("a note",), turned=draw.random() < 0.5)


@pytest.mark.parametrize("seed", range(40))
def test_every_number_is_printed_whole_and_no_line_is_too_long(seed: int) -> None:
    draw = random.Random(seed)
    grid = random_grid(draw)
    for width in (160, 80, 60, 50):
        text = printed(grid, width)
        assert max(map(cell_len, text.splitlines())) <= width
        for row in grid.rows:
            for column, cell in zip(grid.columns[1:], row[1:], strict=True):
                assert column.words or cell in text, (width, cell)
        assert "a note" in text


def test_few_rows_of_many_columns_are_turned() -> None:
    columns = (Column("network", words=True), *(Column(f"resource {i}") for i in range(12)))
    rows = tuple((name, *(f"{i}.25 KB" for i in range(12))) for name in ("float32", "quantized"))
    wide, narrow = (printed(Grid("", columns, rows, turned=True), width) for width in (300, 60))
    assert len(wide.splitlines()) == 6
    assert len(narrow.splitlines()) == 16
    assert "│ resource 11 │ 11.25 KB │  11.25 KB │" in narrow


def test_columns_that_do_not_fit_go_on_below_beside_the_first() -> None:
    columns = (Column("layer", words=True), *(Column(f"D({i})") for i in range(12)))
    text = printed(Grid("", columns, (("conv1", *["0.1234"] * 12),)), 60)
    assert text.count("layer") == text.count("conv1") == 3
    assert text.count("0.1234") == 12


def test_signs_that_an_encoding_lacks_become_words_before_widths_are_known() -> None:
    grid = Grid("σ – 3×3", (Column("layer", words=True), Column("σ")), (("café", "≤ 1"), ("b", "…")))
    assert printed(grid, 80, "ascii") == (
        "sigma - 3x3\n+---------------+\n| layer | sigma |\n|-------+-------|\n| cafe  |  <= 1 |\n| b     |   ... |\n"
        "+---------------+\n"
    )
    assert "sigma" in printed(grid, 80, "cp1252")
    assert "3×3" in printed(grid, 80, "cp1252")
    assert "σ – 3×3" in printed(grid, 80)


def test_brackets_are_text() -> None:
    grid = Grid("[bold]", (Column("[/b]", words=True),), (("exp[lr=0.1]",), ("exp[/b]",)), ("see [/i]",))
    for text in ("[bold]", "[/b]", "exp[lr=0.1]", "exp[/b]", "see [/i]"):
        assert text in printed(grid, 80)


def test_text_of_any_kind() -> None:
    assert plain_text("σ…é→😀\udce9", "ascii") == "sigma...e->?\\xe9"
    assert plain_text("é–σ", "latin-1") == "é-sigma"
    assert plain_text("é–σ", "utf-8") == "é–σ"
