"""Tables for a terminal, by rich: as wide as it is, colours where it has them."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from evaltk.errors import printable
from reports.formats import cell_text
from reports.published.verdicts import NOT_COMPARABLE, OFF, REPRODUCED
from reports.table import Cell, Table

if TYPE_CHECKING:
    from rich.console import Console

COLOURS = {REPRODUCED: "green", OFF: "yellow", NOT_COMPARABLE: "dim"}


def render(table: Table, *, width: int | None = None) -> str:
    """The table as wide as the terminal (or `width` columns), footnotes and legend below; in colour on a terminal."""
    return grid(table, width=width) + legend([table], width=width)


def legend(tables: Iterable[Table], *, width: int | None = None) -> str:
    """What columns and marks of all these tables mean, a line each."""
    from rich.text import Text

    stream, console = _console(width)
    for text in cell_text.legend(tables):
        console.print(Text(printable(text)))
    return stream.getvalue()


def grid(table: Table, *, width: int | None = None) -> str:
    """The table and its footnotes."""
    from rich.table import Table as Grid
    from rich.text import Text

    letters = cell_text.lettered(table)
    bare = not cell_text.mixed(table)

    def cell(one: Cell) -> Text:
        found = cell_text.pieces(one, table, letters)
        text = Text(printable(cell_text.plain(found, bare=bare)), style=COLOURS.get(one.verdict, ""))
        if one.bold:
            text.stylize("bold", 0, len(found.value))
        return text

    grid = Grid(title=Text(printable(table.title)), title_justify="left", caption_justify="left")
    grid.add_column(Text(printable(table.stub)), overflow="fold")
    for title in table.columns:
        grid.add_column(Text(printable(title)), justify="right", overflow="fold")
    for label, cells in table.rows:
        grid.add_row(Text(printable(label)), *map(cell, cells))
    stream, console = _console(width)
    console.print(grid)
    for letter, text in cell_text.footnotes(table, letters):
        console.print(Text(f"{f'[{letter}] ' if letter else ''}{printable(text)}"))
    return stream.getvalue()


def _console(width: int | None) -> tuple[io.StringIO, Console]:
    from rich.console import Console

    stream = io.StringIO()
    coloured = sys.stdout.isatty()
    size = width or (None if coloured else 200)
    return stream, Console(file=stream, width=size, force_terminal=coloured, highlight=False, legacy_windows=False)
