"""The text of a cell, the same in every format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from reports.published.verdicts import NOT_COMPARABLE, OFF, REPRODUCED
from reports.table import Cell, Table, in_unit

LETTERS = "abcdefghijklmnopqrstuvwyz"  # without x: `- [x]` is a ticked box in Markdown
PARENTHESES = "in parentheses: published, not measured here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """The parts of a cell as text without markup, each empty where there is none.

    Attributes:
        value: ours. interval: ``[74.1, 74.9]``, or ``± 0.4``. note: ``k=20``. published: with its spread.
        verdict: in a few words.
        marks: letters of the footnotes that the cell refers to.
    """

    value: str = ""
    interval: str = ""
    note: str = ""
    published: str = ""
    verdict: str = ""
    marks: str = ""


def pieces(cell: Cell, table: Table, letters: Mapping[str, str]) -> Pieces:
    """The parts of one of the table's cells; `letters` as by `lettered`."""
    digits = table.digits if cell.digits is None else cell.digits
    printed = digits if cell.published_digits is None else cell.published_digits
    interval = _interval(cell, digits, half=table.half)
    published = "" if cell.published is None else f"{cell.published:.{printed}f}"
    if cell.published_spread is not None:
        published += f" ± {cell.published_spread:.{printed}f}"
    return Pieces(
        value=_value(cell, digits),
        interval=interval,
        note=cell.note,
        published=published,
        verdict=_verdict(cell),
        marks=",".join(letters[text] for text in _explained(cell)),
    )


def lettered(table: Table) -> dict[str, str]:
    """{text: letter} of what cells refer to below the table: why they are not comparable, and their remarks."""
    texts = dict.fromkeys(text for _, cells in table.rows for cell in cells for text in _explained(cell))
    return {text: _letter(i) for i, text in enumerate(texts)}


def mixed(table: Table) -> bool:
    """Whether numbers of ours stand in a table that also has published ones without ours."""
    cells = [cell for _, row in table.rows for cell in row]
    return any(c.value is not None for c in cells) and any(c.value is None and c.published is not None for c in cells)


def legend(tables: Iterable[Table]) -> list[str]:
    """What columns and marks of these tables mean, each text once."""
    return list(
        dict.fromkeys(text for table in tables for text in (*([PARENTHESES] if mixed(table) else []), *table.legend))
    )


def footnotes(table: Table, letters: Mapping[str, str]) -> list[tuple[str, str]]:
    """(letter or "", text) of what holds for this table's results; its legend is not among them."""
    return [(letter, text) for text, letter in letters.items()] + [
        ("", text) for text in dict.fromkeys(table.footnotes)
    ]


def plain(found: Pieces, *, bare: bool) -> str:
    """A cell as one text. `bare`: a published number alone stands as it is, else in parentheses."""
    if not found.value:
        alone = found.published if bare or not found.published else f"({found.published})"
        text = alone or found.note or "-"
    else:
        text = " ".join(part for part in (found.value, found.interval, f"({found.note})" if found.note else "") if part)
        if found.published:
            text += f"; published {found.published}" + (f": {found.verdict}" if found.verdict else "")
    return text + (f" [{found.marks}]" if found.marks else "")


def _interval(cell: Cell, digits: int, *, half: bool) -> str:
    if cell.interval is None:
        return ""
    low, high = (in_unit(end, cell.unit) for end in cell.interval)
    return f"± {(high - low) / 2:.{digits}f}" if half else f"[{low:.{digits}f}, {high:.{digits}f}]"


def _value(cell: Cell, digits: int) -> str:
    if cell.value is None:
        return ""
    if cell.unit == "p" and cell.value < 10**-digits:
        return f"<{10**-digits:.{digits}f}"
    return f"{in_unit(cell.value, cell.unit):.{digits}f}"


def exact(value: float, unit: str) -> str:
    """The value in its unit with the fewest digits that identify it: 0.704 is ``70.4`` in percent."""
    decimal = Decimal(repr(float(value)))
    text = f"{decimal.scaleb(2) if unit == '%' else decimal:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _verdict(cell: Cell) -> str:
    why = (f" ({cell.why})", f" by {cell.why}") if cell.why else ("", "")
    words = {REPRODUCED: f"reproduced{why[0]}", OFF: f"off{why[1]}", NOT_COMPARABLE: "not comparable"}
    return words.get(cell.verdict, cell.verdict)


def _explained(cell: Cell) -> list[str]:
    why = f"not comparable: {cell.why}" if cell.verdict == NOT_COMPARABLE else ""
    return [text for text in (why, cell.remark) if text]


def _letter(i: int) -> str:
    return (_letter(i // len(LETTERS) - 1) if i >= len(LETTERS) else "") + LETTERS[i % len(LETTERS)]
