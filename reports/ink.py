"""Tables -> text: Markdown and CSV. Percent becomes digits only here."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

from evaltk.errors import SettingsError, nearest
from evaltk.types import Cell, Table


def ink(table: Table, form: str) -> str:
    """The table in a form (``md``, ``csv``), ending with a newline. Raises: SettingsError: another form."""
    if form not in FORMS:
        raise SettingsError(wanted="a format", got=repr(form), where="--format", do=nearest(form, FORMS))
    return FORMS[form](table)


def _value(cell: Cell, digits: int) -> str:
    if cell.value is None:
        return "-"
    digits = digits if cell.digits is None else cell.digits
    text = f"{cell.value:.{digits}f}"
    if cell.note:
        text += f" ({cell.note})"
    if cell.published is not None:
        text += f"; published {cell.published:.{digits}f}"
    return text


def markdown(table: Table) -> str:
    """A GitHub-style table, columns padded so that it also reads as plain text; footnotes below."""
    head = ["checkpoint", *table.columns]
    body = [[label.replace("|", "\\|"), *(_value(c, table.digits) for c in cells)] for label, cells in table.rows]
    widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]

    def line(row: list[str]) -> str:
        first, *rest = row
        cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))]
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    notes = [f"- {note}" for note in table.footnotes]
    parts = [f"### {table.title}", "", line(head), rule, *map(line, body), *([""] if notes else []), *notes]
    return "\n".join(parts) + "\n"


def tidy_csv(table: Table) -> str:
    """One line a cell: table, checkpoint, column, value, low, high (95 %), published, note; numbers in full."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["table", "checkpoint", "column", "value", "low", "high", "published", "note"])
    for label, cells in table.rows:
        for column, cell in zip(table.columns, cells, strict=True):
            if cell.value is None:
                continue
            low, high = cell.interval or ("", "")
            known = "" if cell.published is None else cell.published
            writer.writerow([table.title, label, column, cell.value, low, high, known, cell.note])
    return stream.getvalue()


FORMS: dict[str, Callable[[Table], str]] = {"md": markdown, "csv": tidy_csv}
