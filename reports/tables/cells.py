"""Scores -> cells: percent is made here, once; a published twin and the verdict come beside."""

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

BOLD = (
    "best of its column and all that cannot be told from it at 5 %, compared on the same items (McNemar's exact test "
    "or paired bootstrap, Holm's correction over these columns)"
)


def of_score(score: Score, *, unit: str, note: str = "", digits: int | None = None) -> Cell:
    """A cell of one score, to be shown in `unit`."""
    return Cell(value=score.value, interval=score.interval, note=note, unit=unit, digits=digits)


def of_extra(extra: Extra, result: Result, score: Score) -> Cell:
    """A cell of an extra column, with its published twin where there is one."""
    note = f"{extra.show}={score.at[extra.show]}" if extra.show in score.at else ""
    cell = of_score(score, unit=extra.unit, note=note, digits=extra.digits)
    measured = match.measured(result, score, extra)
    row = measured.row() if measured else None
    return verdicts.beside(cell, row, measured) if row and measured else cell


def of_swept(layout: Layout, result: Result, score: Score) -> Cell:
    """A cell of a sweep; a hidden column that fits the score tells of its published twin."""
    cell = of_score(score, unit=layout.unit)
    for extra in layout.extra:
        if extra.hidden and score in comparable.scores(result, extra.metric, extra.at):
            return replace(of_extra(extra, result, score), digits=None, note="")
    return cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A cell on its way into a table, with the score's fraction and, where they are kept, its values by item.

    `assumed`: the weights are taken for the published ones by their layout, see `match.ASSUMED`.
    """

    cell: Cell
    value: float = 0.0
    assumed: bool = False
    sample: Callable[[], Sample | None] | None = None


Rows = Sequence[tuple[str, Mapping[int, Entry]]]  # (label, {column: entry})


def entry(cell: Cell, layout: Layout, result: Result, score: Score, predictions: Predictions | None) -> Entry:
    """The cell with the values behind it, and with an interval where its score had none but these give one.

    Scores whose items no layout tells of (counts, correlations) have none; nothing has where `predictions` is None.
    """
    spec = layout.items_of(score.metric)
    assumed = bool(cell.verdict) and result.origin_proof is OriginProof.LAYOUT
    if spec is None or predictions is None:
        return Entry(cell=cell, assumed=assumed)
    sample = functools.partial(paired.sample, spec, score, result, predictions)
    if cell.interval is None and (found := paired.interval(sample())):
        cell = replace(cell, interval=found)
    return Entry(cell=cell, value=score.value, assumed=assumed, sample=sample)


def finished(
    rows: Rows, titles: Sequence[str], *, tested: Collection[int] | None = None
) -> tuple[tuple[tuple[str, tuple[Cell, ...]], ...], list[str]]:
    """The rows with the best of each column in bold, and the footnotes that bold, intervals and verdicts ask for.

    Args:
        tested: numbers of the columns whose best is sought (None: all); the more there are, the less a test can tell.
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

    made = tuple((label, tuple(cell(r, c) for c in range(len(titles)))) for r, (label, _) in enumerate(rows))
    said = [f"bold, in {', '.join(dict.fromkeys(titles[c] for c, _ in sorted(bold)))}: {BOLD}"] if bold else []
    if silent:
        missing = ", ".join(dict.fromkeys(rows[r][0] for _, r in silent))
        where = ", ".join(dict.fromkeys(titles[c] for c, _ in silent))
        said.append(f"no bold in {where}: the predictions of {missing} are missing or of other items")
    if any(size > paired.MOST for size in sizes.values()):
        said.append(f"no bold in columns of more than {paired.MOST} checkpoints")
    for why, labels in _without_interval(rows).items():
        said.append(f"no interval for {', '.join(labels)}: {why}")
    if any(one.assumed for _, row in rows for one in row.values()):
        said.append(match.ASSUMED)
    return made, said


def _without_interval(rows: Rows) -> dict[str, list[str]]:
    """{why: labels of the rows in which a score whose items could be known has no interval}."""
    found: dict[str, list[str]] = {}
    for label, row in rows:
        lacking = [e.sample for e in row.values() if e.sample and e.cell.interval is None]
        if lacking:
            kept = all(sample() is not None for sample in lacking)
            why = "too few items to tell" if kept else "no predictions beside the result"
            found.setdefault(why, []).append(label)
    return found
