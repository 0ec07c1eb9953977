"""A table before ink: what `reports` makes of results, and what every format is printed from (see `evaltk.types`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of a table; all numbers in `unit` (``%``, ``count`` or another word for "as it is").

    Attributes:
        value: ours, or None where nothing was measured. interval: its 95 % interval (low, high).
        published: the number printed for the same thing, or None. published_spread: the deviation printed beside it.
        verdict: what ours says about it: ``reproduced``, ``off``, ``not comparable``, or empty.
        why: by how much (``+0.12 points``), or what differs (``resize 224 for 256``).
        note: one setting shown in the cell (``k=20``). remark: a footnote of this cell.
        bold: best of its column, or not to be told from the best by test.
        digits: decimals of ours, None: the table's. published_digits: decimals as printed, None: as ours.
    """

    value: float | None = None
    interval: tuple[float, float] | None = None
    published: float | None = None
    published_spread: float | None = None
    verdict: str = ""
    why: str = ""
    note: str = ""
    remark: str = ""
    bold: bool = False
    unit: str = "%"
    digits: int | None = None
    published_digits: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table before ink: titles of its columns, and rows of (label, cells).

    Attributes:
        name: the layout it comes from. stub: what the rows are (title of the column of labels).
        digits: decimals of cells that do not say their own. footnotes: one sentence each.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    name: str = ""
    stub: str = "checkpoint"
    digits: int = 2
    footnotes: tuple[str, ...] = ()
