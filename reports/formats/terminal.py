"""Tables for a terminal, by rich: as wide as it is, colours where it has them."""

from __future__ import annotations

import io
import sys

from evaltk.errors import printable
from reports.formats import cell_text
from reports.published.verdicts import NOT_COMPARABLE, OFF, REPRODUCED
from reports.table import Cell, Table

COLOURS = {REPRODUCED: "green", OFF: "yellow", NOT_COMPARABLE: "dim"}


def render(table: Table, *, width: int | None = None) -> str:
    """The table as wide as the terminal (or `width` columns), with its footnotes; colours if stdout is a terminal."""
    from rich.console import Console
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
    stream = io.StringIO()
    coloured = sys.stdout.isatty()
    size = width or (None if coloured else 200)
    console = Console(file=stream, width=size, force_terminal=coloured, highlight=False, legacy_windows=False)
    console.print(grid)
    for letter, text in cell_text.footnotes(table, letters):
        console.print(Text(f"{f'[{letter}] ' if letter else ''}{printable(text)}"))
    return stream.getvalue()
