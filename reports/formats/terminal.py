"""Tables for a terminal: as wide as it is, and never a number broken.

Where a table is too wide, intervals go first, then what stands beside numbers, then minor columns; then rows and
columns change places, and last it is cut into several tables. Names are shortened in the middle throughout.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from evaltk.errors import printable
from reports.formats import cell_text
from reports.published.verdicts import NOT_COMPARABLE, OFF, REPRODUCED
from reports.table import Cell, Table

CODES = {REPRODUCED: "32", OFF: "33", NOT_COMPARABLE: "2"}
ALONE = 200  # columns where stdout is no terminal
NAME, LEAST = 22, 12  # characters of a name that are kept while columns could still go, and at the very least
GAP = 2
ASCII = {"±": "+-", "…": "..", "─": "-", "κ": "kappa", "ρ": "rho", "τ": "tau", "≤": "<=", "×": "x", "·": "-"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Columns of the terminal, whether it shows colours, and whether it shows signs beyond ASCII."""

    width: int
    coloured: bool
    unicode: bool

    def text(self, words: str) -> str:
        """One line that the terminal can show."""
        words = printable(words)
        if self.unicode:
            return words
        plain = "".join(ASCII.get(c, c) for c in words)
        return plain.encode("ascii", "backslashreplace").decode()


@dataclass(frozen=True, slots=True)
class Shown:
    """The text of a cell, how many of its first characters are bold, underlined, and the code of its colour."""

    text: str
    bold: int = 0
    second: int = 0
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What is laid out: heads, whose words may stand one below another, and rows of cells.

    `turned`: the heads are names, which may be shortened.
    """

    stub: str
    heads: tuple[str, ...]
    names: tuple[str, ...]
    cells: tuple[tuple[Shown, ...], ...]
    turned: bool = False


def render(table: Table, *, width: int | None = None) -> str:
    """The table as wide as the terminal (or `width` columns), footnotes and legend below; in colour on a terminal."""
    return grid(table, width=width) + legend([table], width=width)


def legend(tables: Iterable[Table], *, width: int | None = None) -> str:
    """What columns and marks of all these tables mean, a line each."""
    look, known = _look(width), list(tables)
    fitting = [_fitting(table, look)[0] for table in known]
    there = {title for table in fitting for title in table.columns}
    gone = {title for table in known for title in table.columns} - there
    texts = [text for text in cell_text.legend(known) if text.partition(": ")[0] not in gone]
    if not any(cell.interval for table in fitting for _, row in table.rows for cell in row):
        texts = [text for text in texts if not text.startswith("±")]
    if not look.coloured:
        texts = [text for text in texts if not text.startswith("underlined: ")]
    if not look.coloured and any(cell.bold for table in known for _, row in table.rows for cell in row):
        texts = ["*" + text[len("bold") :] if text.startswith("bold: ") else text for text in texts]
    return "".join(f"{line}\n" for text in texts for line in _wrapped(look.text(text), look.width))


def grid(table: Table, *, width: int | None = None) -> str:
    """The table and its footnotes."""
    look = _look(width)
    letters = cell_text.lettered(table)
    lines = [*_wrapped(look.text(table.title), look.width), *_laid_out(table, letters, look)]
    for letter, text in cell_text.footnotes(table, letters):
        lines += _wrapped(look.text(f"{f'[{letter}] ' if letter else ''}{text}"), look.width)
    return "\n".join(lines) + "\n"


def _look(width: int | None) -> Look:
    terminal = sys.stdout.isatty()
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    return Look(
        width=width or (shutil.get_terminal_size((80, 24)).columns if terminal else ALONE),
        coloured=terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        unicode=encoding.startswith("utf"),
    )


def _fitting(table: Table, look: Look) -> tuple[Table, bool]:
    """The version of the table that fits, or the smallest, and whether it does."""
    longest = max((_width(look.text(label)) for label, _ in table.rows), default=0)
    for one, least in _versions(table, longest):
        if _room(_grid(one, cell_text.lettered(table), look), look.width) >= least:
            return one, True
    return _bare(table, intervals=False, words=False), False


def _laid_out(table: Table, letters: Mapping[str, str], look: Look) -> list[str]:
    """The first layout that fits, from all that the table holds to several tables of a few columns."""
    one, fits = _fitting(table, look)
    made = _grid(one, letters, look)
    if fits:
        return _drawn(made, look, _room(made, look.width))
    turned = _transposed(made)
    if _fits(turned, look.width):
        return _drawn(turned, look, max(map(_width, turned.names), default=0))
    return _in_parts(made, look)


def _versions(table: Table, longest: int) -> Iterator[tuple[Table, int]]:
    """(version of the table, columns that its names need)."""
    name = min(longest, NAME)
    yield table, name
    yield _bare(table, intervals=False, words=True), name
    small = _bare(table, intervals=False, words=False)
    yield small, name
    gone: set[int] = set()
    for column in table.minor:
        gone.add(column)
        yield _without(small, gone), name
    yield _without(small, gone), min(longest, LEAST)


def _bare(table: Table, *, intervals: bool, words: bool) -> Table:
    """Without intervals, and without notes beside numbers."""

    def cell(one: Cell) -> Cell:
        kept = one if intervals else replace(one, interval=None)
        if words or kept.value is None:
            return kept
        # Why something is not comparable is a footnote, which the letter in the cell refers to.
        why = kept.why if kept.verdict == NOT_COMPARABLE else ""
        return replace(kept, note="", published_spread=None, why=why)

    return replace(table, rows=tuple((label, tuple(map(cell, row))) for label, row in table.rows))


def _without(table: Table, gone: set[int]) -> Table:
    kept = [c for c in range(len(table.columns)) if c not in gone]
    return replace(
        table,
        columns=tuple(table.columns[c] for c in kept),
        groups=tuple(table.groups[c] for c in kept) if table.groups else (),
        rows=tuple((label, tuple(row[c] for c in kept)) for label, row in table.rows),
        minor=(),
    )


def _grid(table: Table, letters: Mapping[str, str], look: Look) -> Grid:
    bare = not cell_text.mixed(table)
    known = {text: letters.get(text, "") for text in cell_text.lettered(table)}

    def cell(one: Cell) -> Shown:
        found = cell_text.pieces(one, table, known)
        text = look.text(cell_text.plain(found, bare=bare))
        marked = one.bold and bool(found.value)
        if marked and not look.coloured:
            return Shown(text.replace(found.value, f"{found.value}*", 1))
        return Shown(
            text,
            bold=len(found.value) if marked else 0,
            second=len(found.value) if one.second else 0,
            code=CODES.get(one.verdict, ""),
        )

    return Grid(
        stub=look.text(table.stub),
        heads=tuple(map(look.text, table.titles())),
        names=tuple(look.text(label) for label, _ in table.rows),
        cells=tuple(tuple(map(cell, row)) for _, row in table.rows),
    )


def _transposed(one: Grid) -> Grid:
    cells = tuple(zip(*one.cells, strict=True))
    return Grid(stub="", heads=one.names, names=one.heads, cells=cells, turned=True)


def _columns(one: Grid) -> list[int]:
    """Widths of the columns: of the widest cell, or of the longest word of the title, which is wrapped."""
    return [
        max([*(_width(word) for word in head.split()), *(_width(row[c].text) for row in one.cells), 1])
        for c, head in enumerate(one.heads)
    ]


def _room(one: Grid, width: int) -> int:
    """What is left for names beside the columns."""
    return width - sum(w + GAP for w in _columns(one))


def _fits(turned: Grid, width: int) -> bool:
    """Whether a transposed table fits, where its heads are names, which may be shortened."""
    cells = [max(_width(row[c].text) for row in turned.cells) for c in range(len(turned.heads))]
    names = max(map(_width, turned.names), default=0)
    least = min(LEAST, max(map(_width, turned.heads), default=0))
    return bool(turned.cells) and names + sum(max(w, least) + GAP for w in cells) <= width


def _in_parts(one: Grid, look: Look) -> list[str]:
    """Several tables below one another, each with as many columns as fit beside names of `LEAST` or more."""
    widths = _columns(one)
    longest = max(map(_width, one.names), default=0)
    if max(widths, default=0) + GAP + min(longest, LEAST) > look.width:
        return list(_listed(one, look))
    name = min(longest, max(LEAST, look.width // 3))
    lines: list[str] = []
    at = 0
    while at < len(widths) or not lines:
        end, used = at, name
        while end < len(widths) and (end == at or used + widths[end] + GAP <= look.width):
            used += widths[end] + GAP
            end += 1
        cut = Grid(stub=one.stub, heads=one.heads[at:end], names=one.names, cells=tuple(r[at:end] for r in one.cells))
        lines += [*([""] if lines else []), *_drawn(cut, look, max(1, min(longest, look.width - used + name)))]
        at = max(end, at + 1)
    return lines


def _listed(one: Grid, look: Look) -> Iterator[str]:
    """A line per cell, for a table one of whose columns is wider than the terminal."""
    for name, row in zip(one.names, one.cells, strict=True):
        yield from _wrapped(name, look.width)
        for head, cell in zip(one.heads, row, strict=True):
            if cell.text != "-":
                yield from (f"  {line}" for line in _wrapped(f"{head}: {cell.text}", look.width - 2))


def _drawn(one: Grid, look: Look, room: int) -> list[str]:
    """The lines of a table whose names have `room` columns."""
    dots = "…" if look.unicode else ".."
    names, key = _distinct(one.names, max(1, room), dots)
    first = max([_width(one.stub), *map(_width, names)]) if names else _width(one.stub)
    if one.turned:
        heads, more = _distinct(one.heads, max(LEAST, (look.width - first) // max(1, len(one.heads)) - GAP), dots)
        key += more
    else:
        heads = list(one.heads)
    one = replace(one, heads=tuple(heads), names=tuple(names))
    widths = _columns(one)
    rows = [_wrapped(head, width) if head else [""] for head, width in zip(heads, widths, strict=True)]
    height = max(map(len, rows), default=1)
    lines = []
    for line in range(height):
        parts = [(row[line - height + len(row)] if line >= height - len(row) else "") for row in rows]
        stub = _padded(one.stub if line == height - 1 else "", first)
        lines.append((stub + "".join(" " * GAP + _padded(p, w, right=True) for p, w in zip(parts, widths, strict=True))).rstrip())  # fmt: skip  # noqa: E501
    lines.append(("─" if look.unicode else "-") * (first + sum(w + GAP for w in widths)))
    for name, row in zip(names, one.cells, strict=True):
        cells = "".join(" " * GAP + _coloured(c, w, look) for c, w in zip(row, widths, strict=True))
        lines.append((_padded(name, first) + cells).rstrip())
    return [*lines, *(line for short, name in key for line in _wrapped(f"{short}: {name}", look.width))]


def _distinct(names: Sequence[str], room: int, dots: str) -> tuple[list[str], list[tuple[str, str]]]:
    """(names in at most `room` columns, what those stand for that would look alike)."""
    short = [_middle(name, room, dots) for name in names]
    alike = {s for s in short if len({n for n, t in zip(names, short, strict=True) if t == s}) > 1}
    key: list[tuple[str, str]] = []
    for i, name in enumerate(names):
        if short[i] in alike:
            end = f"#{len(key) + 1}"
            short[i] = f"{_middle(name, max(1, room - len(end)), dots)}{end}" if room > len(end) else end
            key.append((short[i], name))
    return short, key


def _middle(text: str, room: int, dots: str) -> str:
    """The text in at most `room` columns: its beginning and its end."""
    if _width(text) <= room:
        return text
    if room <= len(dots) + 1:
        return _start(text, room)
    left = (room - len(dots) + 1) // 2
    end = _start(text[::-1], room - len(dots) - left)[::-1]
    return f"{_start(text, left)}{dots}{end}"


def _start(text: str, room: int) -> str:
    widths = itertools.accumulate(map(_width, text))
    return text[: sum(width <= room for width in widths)]


def _width(text: str) -> int:
    """Columns that a terminal gives the text: letters of East Asia take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _padded(text: str, width: int, *, right: bool = False) -> str:
    blank = " " * max(0, width - _width(text))
    return blank + text if right else text + blank


def _coloured(cell: Shown, width: int, look: Look) -> str:
    blank = " " * max(0, width - _width(cell.text))
    if not look.coloured:
        return blank + cell.text
    marked = max(cell.bold, cell.second)
    code = "1" if cell.bold else "4" if cell.second else ""
    text = f"\x1b[{code}m{cell.text[:marked]}\x1b[0m{cell.text[marked:]}" if code else cell.text
    return blank + (f"\x1b[{cell.code}m{text}\x1b[0m" if cell.code else text)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(1, width), break_on_hyphens=False) or [""]
