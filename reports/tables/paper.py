"""A paper's table: its numbers in its own order, and ours beside each published match.

Checkpoints of ours without a match are listed below, in rows of their own where the paper's rows are methods, else in a
second table. Results that are not comparable make further tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from evaltk.errors import SettingsError
from evaltk.types import Result
from reports import comparable, layouts
from reports.layouts import Paper
from reports.paired import Predictions
from reports.published import match, verdicts
from reports.published.load import Published, select_published
from reports.published.match import Measured
from reports.table import Cell, Table
from reports.tables import cells

Place = tuple[int, int]  # (row, column)


@dataclass(frozen=True, slots=True, kw_only=True)
class Set:
    """Results that share a table, and what distinguishes them from those of the other tables."""

    results: tuple[Result, ...]
    difference: str


def build(layout: Paper, results: Sequence[Result], *, predictions: Predictions | None = None) -> list[Table]:
    """The paper's table, with ours beside where results fit.

    Raises: SettingsError: a cell of the layout that more than one published number fits.
    """
    printed = numbers(layout)
    tasks = {row.task for row in printed.values()}
    datasets = {row.dataset for row in printed.values()}
    ours = [r for r in results if any(m.task in tasks and m.dataset in datasets for m in match.every(r))]
    made = [table for one in _sets(ours) for table in _tables(layout, printed, one, predictions)]
    return made or [_plain(layout, printed)]


def numbers(layout: Paper) -> dict[Place, Published]:
    """{(row, column): the number printed there}. Raises: SettingsError: more than one number fits a cell."""
    found = {}
    for r, row in enumerate(layout.rows):
        for c, column in enumerate(layout.columns):
            fit = select_published(table=layout.table, **layout.where(row, column))
            if len(fit) > 1:
                got = f"{len(fit)} for {row.label}, {column.label}"
                do = "narrow the row or the column"
                raise SettingsError(wanted="one number a cell", got=got, where=layout.name, do=do)
            if fit:
                found[r, c] = fit[0]
    return found


def _plain(layout: Paper, printed: Mapping[Place, Published]) -> Table:
    """The published numbers alone."""
    width = range(len(layout.columns))
    rows = tuple(
        (row.label, tuple(_printed(layout, printed.get((r, c))) for c in width)) for r, row in enumerate(layout.rows)
    )
    return Table(
        title=layout.title,
        name=layout.name,
        stub=layout.stub,
        columns=tuple(column.label for column in layout.columns),
        rows=rows,
        digits=max((n.digits for n in printed.values()), default=2),
        footnotes=layout.footnotes,
    )


def _printed(layout: Paper, row: Published | None) -> Cell:
    if row is None:
        return Cell()
    fields = {key: getattr(row, key) for key in layouts.KEYS}
    remarks = [r.text for r in layout.remarks if all(fields[key] == value for key, value in r.where.items())]
    return Cell(
        published=row.value,
        published_spread=row.std,
        published_digits=row.digits,
        unit=row.unit,
        remark="; ".join(remarks),
    )


def _sets(results: Iterable[Result]) -> list[Set]:
    """Results in as few sets as leave each protocol and dataset of one kind; the first holds the first of each."""
    groups: dict[tuple[str, str], list[list[Result]]] = {}
    for result in results:
        key = result.protocol, result.data.name
        if key not in groups:
            same = [r for r in results if (r.protocol, r.data.name) == key]
            groups[key] = comparable.groups(same, layouts.protocols()[result.protocol])
    deepest = max((len(found) for found in groups.values()), default=0)
    sets = []
    for depth in range(deepest):
        members = [found[depth] for found in groups.values() if depth < len(found)]
        told = [_told(found, depth) for found in groups.values() if depth < len(found)]
        said = "; ".join(dict.fromkeys(text for text in told if text))
        sets.append(Set(results=tuple(r for group in members for r in group), difference=said))
    return sets


def _told(found: Sequence[Sequence[Result]], depth: int) -> str:
    layout = layouts.protocols()[found[0][0].protocol]
    known = [comparable.conditions(group[0], layout) for group in found]
    return comparable.describe_difference(known[depth], known)


def _tables(
    layout: Paper, printed: Mapping[Place, Published], one: Set, predictions: Predictions | None
) -> list[Table]:
    """The paper's table with a set of results in it, and one of the checkpoints that have no place in it."""
    base = _plain(layout, printed)
    base = replace(base, title=f"{base.title} [{one.difference}]" if one.difference else base.title)
    placed, rest = _placed(printed, one.results)
    rows = [
        (label, {c: _entry(cell, printed.get((r, c)), placed.get((r, c)), predictions) for c, cell in enumerate(row)})
        for r, (label, row) in enumerate(base.rows)
    ]
    measures, found = _others(layout, printed, rest)
    own = [(label, {c: _entry(Cell(), None, m, predictions) for c, m in row.items()}) for label, row in found]
    whose = dict.fromkeys(f"{m.result.checkpoint.get('name')} for {m.method} {m.arch}" for m in placed.values())
    inside = all({"method"} <= row.where.keys() <= {"method", "arch"} for row in layout.rows)
    if inside:
        rows, own = rows + own, []
    if layout.average:
        rows = _averaged(layout, printed, rows)
    made = [_finished(base, rows, whose, one.results)]
    if own:
        title = f"{base.title}: checkpoints without a published match"
        second = replace(base, title=title, columns=measures, stub="checkpoint", footnotes=())
        made.append(_finished(second, own, (), one.results))
    return made


def _placed(
    printed: Mapping[Place, Published], results: Sequence[Result]
) -> tuple[dict[Place, Measured], list[Measured]]:
    """Scores in the cells of their published matches, and those without one."""
    where = {(_kind(row), row.arch, row.method): place for place, row in printed.items()}
    placed: dict[Place, Measured] = {}
    rest = []
    for found in (m for result in results for m in match.every(result)):
        place = where.get((_kind(found), found.arch, found.method))
        if place is not None and place not in placed:
            placed[place] = found
        elif place is not None or found.row() is None:  # one more of the same, or a checkpoint no paper knows
            rest.append(found)
    return placed, rest


def _kind(found: Published | Measured) -> tuple[str, str, str, str]:
    """What was measured, whoever's it is."""
    return found.task, found.dataset, found.metric, found.variant


def _others(
    layout: Paper, printed: Mapping[Place, Published], rest: Sequence[Measured]
) -> tuple[tuple[str, ...], list[tuple[str, dict[int, Measured]]]]:
    """(titles of what the table measures, in its order; by checkpoint {number of the title: score})."""
    by_row = any(row.where.keys() - {"arch", "method"} for row in layout.rows)
    axis = layout.rows if by_row else layout.columns
    titles = tuple(dict.fromkeys(line.measure for line in axis))
    number = {_kind(row): titles.index(axis[place[0 if by_row else 1]].measure) for place, row in printed.items()}
    results = list({id(m.result): m.result for m in rest if _kind(m) in number}.values())
    label = dict(zip(map(id, results), _labels(results), strict=True))
    found: dict[str, dict[int, Measured]] = {}
    for m in rest:
        if _kind(m) in number:
            found.setdefault(label[id(m.result)], {}).setdefault(number[_kind(m)], m)
    return titles, list(found.items())


def _labels(results: Sequence[Result]) -> list[str]:
    """Labels by checkpoint: what one reached on several datasets shares a row; a second result does not."""
    lines: dict[tuple[object, ...], list[int]] = {}
    for i, result in enumerate(results):
        taken = (result.protocol, result.data.name)
        nth = sum(
            (r.protocol, r.data.name) == taken and comparable.identity(r) == comparable.identity(result)
            for r in results[:i]
        )
        lines.setdefault((comparable.identity(result), nth), []).append(i)
    names = comparable.labels([results[members[0]] for members in lines.values()])
    return [name for _, name in sorted((i, n) for n, m in zip(names, lines.values(), strict=True) for i in m)]


def _entry(cell: Cell, row: Published | None, found: Measured | None, predictions: Predictions | None) -> cells.Entry:
    """A cell of the paper's table with our score in it, where there is one."""
    if found is None:
        return cells.Entry(cell=cell)
    ours = cells.of_extra(found.extra, found.result, found.score)
    ours = replace(
        ours, published=None, verdict="", why="", remark=cell.remark, digits=row.digits if row else ours.digits
    )
    if row:
        ours = verdicts.beside(ours, row, found)
    layout = layouts.protocols()[found.result.protocol]
    return cells.entry(ours, layout, found.result, found.score, predictions)


def _averaged(
    layout: Paper, printed: Mapping[Place, Published], rows: Sequence[tuple[str, dict[int, cells.Entry]]]
) -> list[tuple[str, dict[int, cells.Entry]]]:
    """The rows with the mean of ours, where all that it is a mean of was measured; it has no interval."""
    titles = [column.label for column in layout.columns]
    at = titles.index(layout.average)
    made = []
    for r, (label, row) in enumerate(rows):
        parts = {c: row[c].cell for c in range(len(titles)) if c != at and c in row}
        values = [cell.value for cell in parts.values() if cell.value is not None]
        if len(values) == len(titles) - 1:
            mean, known = Cell(value=sum(values) / len(values)), printed.get((r, at))
            apart = ", ".join(titles[c] for c, cell in parts.items() if cell.verdict == verdicts.NOT_COMPARABLE)
            if known:
                mean = replace(mean, published=known.value, published_digits=known.digits, digits=known.digits)
                verdict, why = (verdicts.NOT_COMPARABLE, apart) if apart else verdicts.judge(mean, known)
                mean = replace(mean, verdict=verdict, why=why)
            row = {**row, at: cells.Entry(cell=mean)}
        made.append((label, row))
    return made


def _finished(base: Table, rows: cells.Rows, whose: Iterable[str], results: Sequence[Result]) -> Table:
    done = cells.finish(rows, base.columns)
    ours = [f"measured here: {', '.join(whose)}"] if whose else []
    notes = comparable.notes([str(r.checkpoint.get("name")) for r in results], results)
    footnotes = (*base.footnotes, *ours, *done.footnotes, *dict.fromkeys(notes))
    return replace(base, rows=done.rows, footnotes=footnotes, legend=done.legend)
