"""Tables -> Markdown, CSV, HTML, LaTeX or terminal text. Names are escaped."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence

from evaltk.errors import SettingsError, nearest, printable
from evaltk.results import rows
from reports.formats import cell_text, html, latex, terminal
from reports.table import Cell, Table

CSV_COLUMNS = (
    "table", "checkpoint", "column", "unit", "value", "low", "high", "bold", "published", "published_std", "verdict",
    "why", "note", "remark",
)  # fmt: skip
# Of Markdown's punctuation, what starts markup inside a name: `_` only at the edge of a word, `(` only after `]`.
MARKUP = re.compile(r"[\\|*`~$]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<=\])\(|(?<!\w)_|_(?!\w)")


def render(table: Table, form: str) -> str:
    """The table in a form (``md``, ``csv``, ``html``, ``latex``, ``terminal``), ending with a newline.

    Raises: SettingsError: another form.
    """
    if form not in FORMS:
        raise SettingsError(wanted="a format", got=repr(form), where="--format", do=nearest(form, FORMS))
    return FORMS[form](table)


def render_all(tables: Sequence[Table], form: str) -> str:
    """Several tables one after the other, their legends merged at the end; as CSV under one header.

    Raises: SettingsError: another form.
    """
    texts = render_parts(tables, form)
    if form == "csv":
        return "".join([*texts[:1], *(_without_header(text) for text in texts[1:])])
    return "\n".join(texts)


def render_parts(tables: Sequence[Table], form: str) -> list[str]:
    """A text per table; with several tables, a last one of what their columns and marks mean.

    Raises: SettingsError: another form.
    """
    if len(tables) == 1 or form not in LEGENDS:
        return [render(table, form) for table in tables]
    one, legend = LEGENDS[form]
    texts = [one(table) for table in tables]
    end = legend(tables)
    return [*texts, end] if end else texts


def markdown(table: Table) -> str:
    """A GitHub-style table, columns padded so that it also reads as plain text; footnotes and legend below."""
    return _markdown(table, legend=cell_text.legend([table]))


def markdown_legend(tables: Iterable[Table]) -> str:
    """What columns and marks of all these tables mean, as a list."""
    return "".join(f"- {escaped(text)}\n" for text in cell_text.legend(tables))


def _markdown(table: Table, legend: Sequence[str] = ()) -> str:
    letters = cell_text.lettered(table)
    bare = not cell_text.mixed(table)

    def cell(one: Cell) -> str:
        found = cell_text.pieces(one, table, letters)
        text = escaped(cell_text.plain(found, bare=bare))
        mark = f"**{found.value}**" if one.bold else f"<u>{found.value}</u>" if one.second else ""
        return text.replace(found.value, mark, 1) if mark and found.value else text

    head = [escaped(title) for title in (table.stub, *table.titles())]
    body = [[escaped(label), *map(cell, cells)] for label, cells in table.rows]
    widths = [max(3, *(len(row[i]) for row in [head, *body])) for i in range(len(head))]

    def line(row: list[str]) -> str:
        first, *rest = row
        return (
            "| "
            + " | ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))])
            + " |"
        )

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    below = [*cell_text.footnotes(table, letters), *(("", text) for text in legend)]
    notes = [f"- {f'[{a}] ' if a else ''}{escaped(text)}" for a, text in below]
    parts = [f"### {escaped(table.title)}", "", line(head), rule, *map(line, body)]
    return "\n".join([*parts, *([""] if notes else []), *notes]) + "\n"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return MARKUP.sub(lambda m: f"\\{m[0]}", printable(text))


def tidy_csv(table: Table) -> str:
    """One row per cell: our numbers in full, published ones as printed, 95 % intervals."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for label, cells in table.rows:
        for column, cell in zip(table.titles(), cells, strict=True):
            if cell.value is not None or cell.published is not None:
                writer.writerow([*map(rows.cell, (table.title, label, column)), *_fields(cell)])
    return stream.getvalue()


def _fields(cell: Cell) -> list[object]:
    low, high = (cell_text.exact(end, cell.unit) for end in cell.interval) if cell.interval else ("", "")
    digits = cell.published_digits

    def printed(number: float | None) -> object:
        return "" if number is None else number if digits is None else f"{number:.{digits}f}"

    value = "" if cell.value is None else cell_text.exact(cell.value, cell.unit)
    bold = "bold" if cell.bold else ""
    numbers = [value, low, high, bold, printed(cell.published), printed(cell.published_spread)]
    return [cell.unit, *numbers, cell.verdict, cell.why, cell.note, cell.remark]


def _without_header(text: str) -> str:
    return text.partition("\n")[2]


FORMS: dict[str, Callable[[Table], str]] = {
    "md": markdown,
    "csv": tidy_csv,
    "html": html.render,
    "latex": latex.render,
    "terminal": terminal.render,
}
# Formats that put what columns and marks mean once below several tables: (a table without it, it).
LEGENDS: dict[str, tuple[Callable[[Table], str], Callable[[Iterable[Table]], str]]] = {
    "md": (_markdown, markdown_legend),
    "html": (lambda table: html.grid(table) + html.notes(table), html.legend),
    "latex": (latex.environment, latex.legend),
    "terminal": (terminal.grid, terminal.legend),
}
