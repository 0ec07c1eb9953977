"""Tables as values: what `reports` makes of results, and what every format is rendered from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

Number = TypeVar("Number", float, np.ndarray)


def percent(fraction: Number) -> Number:
    """The only place where percent is made: values stay fractions until they are rendered or drawn."""
    return 100 * fraction


def in_unit(value: Number, unit: str) -> Number:
    """A measured value in the unit it is shown in: a fraction in percent, anything else as it is."""
    return percent(value) if unit == "%" else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of a table.

    Attributes:
        value: our value, a fraction where `unit` is ``%``; None: not measured. interval: its 95 % interval (low, high).
        published: the published value as printed, in `unit`, or None. published_spread: the printed deviation.
        verdict: ``reproduced``, ``off``, ``not comparable``, or empty.
        why: the difference (``+0.12; tolerance 0.15``), or what is not comparable (``resize 224 for 256``).
        note: one setting shown in the cell (``k=20``). remark: a footnote of this cell.
        bold: best of its column, or not significantly different from the best. second: best of those that are not bold.
        unit: ``%``, ``count``, or another word for values shown as they are.
        digits: decimals of our value; None: the table's. published_digits: decimals as printed; None: as ours.
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
    second: bool = False
    unit: str = "%"
    digits: int | None = None
    published_digits: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Column titles, and rows of (label, cells).

    Attributes:
        name: the layout it comes from. stub: title of the column of row labels.
        digits: decimals of cells that have none of their own.
        footnotes: what holds for this table's results, one sentence each.
        legend: what its columns and marks mean; where several tables are printed, each text is printed once.
        groups: a heading above each column, shared by neighbours of one text; () for none.
        minor: indices of columns that may be left out where there is no room, the first one first.
        half: intervals are shown as half their width (± 0.4), not by their ends.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    name: str = ""
    stub: str = "checkpoint"
    digits: int = 2
    footnotes: tuple[str, ...] = ()
    legend: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    minor: tuple[int, ...] = ()
    half: bool = False

    def turned(self) -> Table:
        """Rows and columns change places."""
        labels = tuple(label for label, _ in self.rows)
        cells = zip(*(row for _, row in self.rows), strict=True)
        rows = tuple(zip(self.titles(), cells, strict=True)) if self.rows else ()
        return replace(self, stub="", columns=labels, rows=rows, groups=(), minor=())

    def titles(self) -> tuple[str, ...]:
        """The column titles, each with its heading before it."""
        if not self.groups:
            return self.columns
        return tuple(
            f"{group} {title}".strip() if group != title else title
            for group, title in zip(self.groups, self.columns, strict=True)
        )
