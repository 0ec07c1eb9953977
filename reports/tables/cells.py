"""Scores -> cells, each with its published match and the verdict."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from evaltk.types import OriginProof, Result, Score
from reports import comparable, paired
from reports.layouts import Extra, Layout
from reports.paired import Predictions, Sample
from reports.published import match, verdicts
from reports.table import Cell

BOLD = "bold: best, or not significantly different (p > 0.05, Holm)"


def of_score(score: Score, *, unit: str, note: str = "", digits: int | None = None) -> Cell:
    """A cell of one score, to be shown in `unit`."""
    return Cell(value=score.value, interval=score.interval, note=note, unit=unit, digits=digits)


def of_extra(extra: Extra, result: Result, score: Score) -> Cell:
    """A cell of an extra column, with its published match where there is one."""
    note = f"{extra.show}={score.at[extra.show]}" if extra.show in score.at else ""
    cell = of_score(score, unit=extra.unit, note=note, digits=extra.digits)
    measured = match.measured(result, score, extra)
    row = measured.row() if measured else None
    return verdicts.beside(cell, row, measured) if row and measured else cell


def of_swept(layout: Layout, result: Result, score: Score) -> Cell:
    """A cell of a sweep; a hidden column that fits the score gives its published match."""
    cell = of_score(score, unit=layout.unit)
    for extra in layout.extra:
        if extra.hidden and score in comparable.scores(result, extra.metric, extra.at):
            return replace(of_extra(extra, result, score), digits=None, note="")
    return cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A cell before its table is finished, with the score's value (negative where less is better) and, where they were
    kept, its per-item values.

    `assumed`: matched with the published weights by layout alone, see `match.ASSUMED`.
    """

    cell: Cell
    value: float = 0.0
    assumed: bool = False
    sample: Callable[[], Sample | None] | None = None


Rows = Sequence[tuple[str, Mapping[int, Entry]]]  # (label, {column: entry})


def entry(cell: Cell, layout: Layout, result: Result, score: Score, predictions: Predictions | None) -> Entry:
    """The cell with its per-item values, and an interval computed from them if its score has none.

    Scores without items in their layout (counts, correlations) have no per-item values; none has if `predictions` is
    None.
    """
    spec = layout.items_of(score.metric, score.at)
    assumed = bool(cell.verdict) and result.origin_proof is OriginProof.LAYOUT
    if spec is None or predictions is None:
        return Entry(cell=cell, assumed=assumed)
    sample = functools.partial(paired.sample, spec, score, result, predictions)
    if cell.interval is None and (found := paired.interval(sample())):
        cell = replace(cell, interval=found)
    value = -score.value if score.metric in layout.lower else score.value
    return Entry(cell=cell, value=value, assumed=assumed, sample=sample)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Rows of a table, and its `footnotes` and `legend` (see `reports.table.Table`)."""

    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    footnotes: tuple[str, ...]
    legend: tuple[str, ...]


def finish(rows: Rows, titles: Sequence[str], *, tested: Collection[int] | None = None) -> Finished:
    """The rows with the best of each column in bold, and what explains bold, intervals and verdicts.

    Args:
        tested: indices of the columns to test (None: all); the more there are, the less power each test has.
    """
    samples: dict[int, dict[int, tuple[float, Sample | None]]] = {}
    sizes = {c: sum(c in row and row[c].sample is not None for _, row in rows) for c in range(len(titles))}
    for r, (_, row) in enumerate(rows):  # row by row: a predictions file is opened once
        for c, one in row.items():
            if one.sample and 2 <= sizes[c] <= paired.MOST and (tested is None or c in tested):
                samples.setdefault(c, {})[r] = one.value, one.sample()
    bold, silent = paired.best(dict(sorted(samples.items())))

    def cell(r: int, c: int) -> Cell:
        found = rows[r][1][c].cell if c in rows[r][1] else Cell()
        return replace(found, bold=True) if (c, r) in bold else found

    finished_rows = tuple((label, tuple(cell(r, c) for c in range(len(titles)))) for r, (label, _) in enumerate(rows))
    footnotes: list[str] = []
    if silent:
        missing = ", ".join(dict.fromkeys(rows[r][0] for _, r in silent))
        where = ", ".join(dict.fromkeys(titles[c] for c, _ in silent))
        footnotes.append(f"no significance test in {where}: predictions of {missing} missing or for other images")
    if any(size > paired.MOST for size in sizes.values()):
        footnotes.append(f"no significance test in columns with more than {paired.MOST} checkpoints")
    for why, labels in _without_interval(rows).items():
        footnotes.append(f"no interval for {', '.join(labels)}: {why}")
    legend = [BOLD] if bold else []
    if any(one.assumed for _, row in rows for one in row.values()):
        legend.append(match.ASSUMED)
    return Finished(rows=finished_rows, footnotes=tuple(footnotes), legend=tuple(legend))


def _without_interval(rows: Rows) -> dict[str, list[str]]:
    """{reason: labels of the rows in which a score that could have an interval has none}."""
    found: dict[str, list[str]] = {}
    for label, row in rows:
        lacking = [e.sample for e in row.values() if e.sample and e.cell.interval is None]
        if lacking:
            kept = all(sample() is not None for sample in lacking)
            why = "too few items" if kept else "no predictions file"
            found.setdefault(why, []).append(label)
    return found
