"""Who is best at each task of the result view, who is next, and whether the difference could be chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaltk.types import Result
from reports import paired
from reports.layouts import Over
from reports.paired import Predictions
from reports.table import Cell, Table
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

    @property
    def tied(self) -> bool:
        """Whether the first two reached the same."""
        return len(self.places) > 1 and self.places[0][1] == self.places[1][1]


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
    """What the contests say, in a sentence or two; empty where fewer than two models met. Equal values have no best."""
    met = [one for one in found if len(one.places) > 1]
    if not met:
        return ""
    wins: dict[str, list[Contest]] = {}
    for one in met:
        if not one.tied:
            wins.setdefault(one.places[0][0], []).append(one)
    parts = []
    for name, mine in sorted(wins.items(), key=lambda pair: -len(pair[1]))[:3]:
        where = mine[0].title if len(mine) == 1 else f"{len(mine)} of {len(met)} tasks"
        parts.append(f"{name} is best at {where}, {_how_sure(mine)}")
    if left := len(wins) - len(parts):
        parts.append(f"{left} more {'model is' if left == 1 else 'models are'} best at one task or more")
    if ties := sum(one.tied for one in met):
        parts.append(f"at {ties} {'task' if ties == 1 else 'tasks'} the first are equal")
    return f"{'; '.join(parts)}."


def _how_sure(mine: Sequence[Contest]) -> str:
    """At how many of its tasks the best is significantly ahead of the next."""
    tested = [one for one in mine if one.p is not None]
    if not tested:
        return "without a test"
    sure = sum((one.p or 0.0) <= paired.ALPHA for one in tested)
    of = "" if len(tested) == len(mine) else f" of {len(tested)} tested"
    often = "never" if not sure else "each" if sure == len(mine) else "once" if sure == 1 else f"{sure} times"
    if len(mine) == 1:
        often = "" if sure else "not"
    return f"{often}{of} significantly ahead of the next (p ≤ 0.05, Holm)".strip()


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
