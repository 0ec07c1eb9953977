"""Tables as HTML: a fragment with caption and header cells for a page to take up; every name is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from evaltk.errors import printable
from reports.formats import cell_text
from reports.table import Cell, Table


def render(table: Table) -> str:
    """The table with its footnotes and legend below, as a fragment."""
    return grid(table) + notes(table) + legend([table])


def grid(table: Table, *, labelled: bool = False) -> str:
    """A ``<table class="evaltk">`` with caption and header cells with scope, without what stands below it.

    A cell's parts are spans of class value, interval, note, published, verdict, marks; the cell has the verdict as
    class (``not-comparable``), its reason as title, and the number to sort by as ``data-value``. `labelled`: and the
    title of its column as ``data-label``, for a layout in which columns do not stand below their titles.
    """
    letters = cell_text.lettered(table)
    body = [
        f'<tr><th scope="row">{escaped(label)}</th>'
        + "".join(
            _cell(cell, table, letters, title if labelled else "")
            for title, cell in zip(table.titles(), cells, strict=True)
        )
        + "</tr>"
        for label, cells in table.rows
    ]
    lines = [
        '<table class="evaltk">',
        f"<caption>{escaped(table.title)}</caption>",
        f"<thead>{_head(table)}</thead>",
        "<tbody>",
        *body,
        "</tbody>",
        "</table>",
    ]
    return "\n".join(lines) + "\n"


def _head(table: Table) -> str:
    """The titles; with groups, a row of these above, and a column's whole title as ``data-title``."""
    if not any(table.groups):
        titles = "".join(f'<th scope="col">{escaped(title)}</th>' for title in (table.stub, *table.columns))
        return f"<tr>{titles}</tr>"
    above = [f'<th scope="col" rowspan="2">{escaped(table.stub)}</th>']
    below: list[str] = []
    columns = zip(table.groups, table.columns, table.titles(), strict=True)
    for group, members in groupby(columns, key=lambda one: one[0]):
        here = list(members)
        if not group or (len(here) == 1 and not here[0][1]):
            above += [_column(whole, whole, 'rowspan="2" ') for _, _, whole in here]
            continue
        above.append(f'<th scope="colgroup" colspan="{len(here)}">{escaped(group)}</th>')
        below += [_column(title, whole) for _, title, whole in here]
    return f'<tr class="groups">{"".join(above)}</tr><tr>{"".join(below)}</tr>'


def _column(title: str, whole: str, span: str = "") -> str:
    label = "" if title else f' aria-label="{escaped(whole)}"'
    return f'<th {span}scope="col" data-title="{escaped(whole)}"{label}>{escaped(title)}</th>'


def notes(table: Table) -> str:
    """The table's footnotes as a list, empty where it has none."""
    return _list([_note(*note) for note in cell_text.footnotes(table, cell_text.lettered(table))])


def legend(tables: Iterable[Table]) -> str:
    """What columns and marks of all these tables mean, as one list."""
    return _list([_note("", text) for text in cell_text.legend(tables)])


def escaped(text: str) -> str:
    """Text that HTML shows as it is, also inside an attribute, on one line."""
    return html.escape(printable(text), quote=True)


def _list(items: Sequence[str]) -> str:
    return "\n".join(['<ul class="evaltk-notes">', *items, "</ul>"]) + "\n" if items else ""


def _note(letter: str, text: str) -> str:
    mark = f"<sup>{letter}</sup> " if letter else ""
    return f"<li>{mark}{escaped(text)}</li>"


def _cell(cell: Cell, table: Table, letters: Mapping[str, str], title: str) -> str:
    found = cell_text.pieces(cell, table, letters)
    number = "" if cell.published is None else repr(cell.published)
    if cell.value is not None:
        number = cell_text.exact(cell.value, cell.unit)
    kinds = [cell.verdict.replace(" ", "-"), "published-only" if cell.value is None and found.published else ""]
    attributes = {
        "class": " ".join(kind for kind in kinds if kind),
        "data-value": number,
        "title": cell.why,
        "data-label": title,
    }
    told = "".join(f' {name}="{escaped(text)}"' for name, text in attributes.items() if text)
    tag = "strong" if cell.bold else "u" if cell.second else ""
    ours = f"<{tag}>{escaped(found.value)}</{tag}>" if tag else escaped(found.value)
    parts = {
        "value": ours,
        "interval": _interval(cell, table, found.interval),
        "note": escaped(f"({found.note})" if found.note and found.value else found.note),
        "published": escaped(_published(found, table)),
        "verdict": escaped(found.verdict),
    }
    spans = " ".join(
        text if text.startswith("<span") else f'<span class="{name}">{text}</span>'
        for name, text in parts.items()
        if text
    )
    marks = f'<sup class="marks">{escaped(found.marks)}</sup>' if found.marks else ""
    return f"<td{told}>{spans or '-'}{marks}</td>"


def _interval(cell: Cell, table: Table, text: str) -> str:
    """The interval; where half its width is shown, its ends as title."""
    if not text or not table.half:
        return escaped(text)
    ends = cell_text.pieces(cell, replace(table, half=False), cell_text.lettered(table)).interval
    return f'<span class="interval" title="95 % interval {escaped(ends)}">{escaped(text)}</span>'


def _published(found: cell_text.Pieces, table: Table) -> str:
    if not found.published or (not found.value and not cell_text.mixed(table)):
        return found.published
    return f"published {found.published}" if found.value else f"({found.published})"


def page(fragments: str) -> str:
    """A whole page around tables: no script, nothing from elsewhere."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>evaltk tables</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>\n'
        ":root { color-scheme: light dark; } body { font: 1rem/1.4 system-ui, sans-serif; margin: 1rem; }\n"
        "table { border-collapse: collapse; margin-top: 2rem; } caption { text-align: left; font-weight: bold; }\n"
        "th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #8886; }\n"
        "tbody th { text-align: left; }\n"
        "td.not-comparable { opacity: .7; }\n"
        f"</style>\n</head>\n<body>\n{fragments}</body>\n</html>\n"
    )
