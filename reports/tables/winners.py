"""Who is best at each task of the result view, who is next, and whether the difference could be chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaltk.types import Result
from reports import paired
from reports.layouts import Over
from reports.paired import Predictions
from reports.table import Cell, Table, in_unit
from reports.tables import view


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """A task with what each model reached, the best first.

    Attributes:
        title: of the column. unit: of the values. digits: to show of them.
        places: (model, value, interval), fractions where the unit is percent.
        p: the best against the next, paired on the same items, after Holm's correction over all tasks; None without
            a test.
    """

    title: str
    unit: str
    digits: int
    places: tuple[tuple[str, float, tuple[float, float] | None], ...]
    p: float | None = None


def contests(over: Over, results: Sequence[Result], predictions: Predictions | None) -> list[Contest]:
    """The ranked tasks of the result view, in its order."""
    columns = [column for column in view.columns_of(over, results) if column.ranked]
    names = view.models(results, columns)
    made: list[Contest] = []
    tests: list[float | None] = []
    for column in columns:
        entries = {who: view.entry(who, column, predictions) for who in names if who in column.scores}
        order = sorted(entries, key=lambda who: -(view.better(who, column) or 0.0))
        first = entries[order[0]].cell
        places = tuple((names[w], column.scores[w][1].value, entries[w].cell.interval) for w in order)
        digits = 2 if first.digits is None else first.digits
        made.append(Contest(title=column.whole, unit=first.unit, digits=digits, places=places))
        samples = [entries[who].sample for who in order[:2]]
        known = [sample() for sample in samples if sample]
        tests.append(paired.p_value(known[0], known[1]) if len(known) == 2 else None)
    found = [p for p in tests if p is not None]
    if not found:
        return made
    from evaltk.metrics import statistics

    adjusted = iter(statistics.holm(np.array(found)))
    return [
        replace(one, p=float(next(adjusted)) if p is not None else None) for one, p in zip(made, tests, strict=True)
    ]


def sentence(found: Sequence[Contest]) -> str:
    """What the contests say, in a sentence or two; empty where fewer than two models met."""
    met = [one for one in found if len(one.places) > 1]
    if not met:
        return ""
    wins: dict[str, list[Contest]] = {}
    for one in met:
        wins.setdefault(one.places[0][0], []).append(one)
    parts = []
    for name, mine in sorted(wins.items(), key=lambda pair: -len(pair[1]))[:3]:
        where = mine[0].title if len(mine) == 1 else f"{len(mine)} of {len(met)} tasks"
        sure = sum(one.p is not None and one.p <= paired.ALPHA for one in mine)
        tested = sum(one.p is not None for one in mine)
        told = "no test" if not tested else f"{_some(sure, len(mine))} significantly ahead of the next (p ≤ 0.05, Holm)"
        parts.append(f"{name} is best at {where}, {told}")
    left = len(wins) - len(parts)
    more = f"; {left} more {'model is' if left == 1 else 'models are'} best at one task or more" if left > 0 else ""
    return f"{'; '.join(parts)}{more}."


def _some(sure: int, of: int) -> str:
    if of == 1:
        return "" if sure else "not"
    return "each" if sure == of else f"{sure} times" if sure else "never"


def table(found: Sequence[Contest]) -> Table | None:
    """Best and next of each task with the difference and its p; None where fewer than two models met."""
    met = [one for one in found if len(one.places) > 1]
    if not met:
        return None
    rows = []
    for one in met:
        (best, value, interval), (second, other, around) = one.places[:2]
        known = one.p is not None and one.p <= paired.ALPHA
        rows.append((one.title, (
            Cell(note=best),
            Cell(value=value, interval=interval, unit=one.unit, digits=one.digits, bold=known),
            Cell(note=second),
            Cell(value=other, interval=around, unit=one.unit, digits=one.digits),
            Cell(value=value - other, unit=one.unit, digits=one.digits),
            Cell() if one.p is None else Cell(value=one.p, unit="p", digits=4),
        )))  # fmt: skip
    return Table(
        title="Best of each task",
        name="winners",
        stub="task",
        columns=("best", "value", "next", "its value", "difference", "p (Holm)"),
        rows=tuple(rows),
        half=True,
        legend=("p: best against next, paired on the same items, Holm's correction over the tasks; bold: p ≤ 0.05",),
    )


def label(one: Contest) -> str:
    """The best with its value, as a short text beside a chart."""
    name, value, _ = one.places[0]
    sign = " %" if one.unit == "%" else ""
    p = "" if one.p is None else ", p < 0.001" if one.p < 0.001 else f", p = {one.p:.3f}"
    return f"{name} {in_unit(value, one.unit):.1f}{sign}{p}"
