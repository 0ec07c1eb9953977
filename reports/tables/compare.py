"""Two checkpoints on everything both were evaluated on: paired differences with intervals and p-values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evaltk.errors import SettingsError, nearest
from evaltk.types import Result, Score
from reports import comparable, paired
from reports.layouts import Extra, Layout, Over
from reports.paired import Difference, Predictions
from reports.table import Cell, Table
from reports.tables import cells
from reports.tables.overviews import ordered


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One metric of both checkpoints; `tested`: their difference on the same items, None if unknown."""

    label: str
    extra: Extra
    a: Score
    b: Score
    tested: Difference | None


def build(
    over: Over, results: Sequence[Result], *, predictions: Predictions | None, pair: Sequence[str]
) -> list[Table]:
    """One row per metric: both values, first minus second with its interval, p-value, and p after Holm's correction.

    Raises: SettingsError: not exactly two checkpoints, unknown names, or no comparable results.
    """
    from evaltk.metrics import statistics

    one, two = _pair(results, pair)
    apart, several = _apart(over, results, one, two), _several(over, results, one, two)
    lines = list(_lines(over, results, one, two, predictions))
    if not lines:
        do = f"not comparable: {'; '.join(apart)}" if apart else "evaltk run both on one dataset"
        raise SettingsError(wanted="comparable results of both checkpoints", got=f"none of {one} and {two}", do=do)
    adjusted = iter(statistics.holm(np.array([line.tested.p_value for line in lines if line.tested])))
    rows = tuple((line.label, _cells(line, float(next(adjusted)) if line.tested else None)) for line in lines)
    said = [f"not compared (different settings or data): {'; '.join(apart)}"] if apart else []
    said += [f"several results, first one used: {'; '.join(several)}"] if several else []
    if any(line.tested is None for line in lines):
        said.append("no test where per-item values are missing or for other items")
    return [
        Table(
            title=f"{over.title}: {one} vs. {two}",
            name=over.name,
            stub="metric",
            columns=(one, two, "difference", "p", "p (Holm)", "items"),
            rows=rows,
            footnotes=tuple(said),
            legend=over.footnotes,
        )
    ]


def _pair(results: Sequence[Result], pair: Sequence[str]) -> tuple[str, str]:
    known = list(dict.fromkeys(str(r.checkpoint.get("name")) for r in results))
    for name in pair:
        if name not in known:
            where = "--models"
            raise SettingsError(
                wanted="a checkpoint among the results", got=repr(name), where=where, do=nearest(name, known)
            )
    chosen = list(dict.fromkeys(pair)) or known
    if len(chosen) != 2:
        got = f"{len(chosen)}" + (f": {', '.join(chosen[:5])}" if chosen else "")
        do = "name two: --models A B" if len(chosen) > 2 else "evaltk run two checkpoints on one dataset"
        raise SettingsError(wanted="two checkpoints to compare", got=got, where="--models", do=do)
    return chosen[0], chosen[1]


def _lines(
    over: Over, results: Sequence[Result], one: str, two: str, predictions: Predictions | None
) -> Iterator[Line]:
    for layout in ordered(over):
        for group in comparable.groups(results, layout):
            first, second = _of(group, one), _of(group, two)
            if first and second:
                yield from _shared(layout, group, first[0], second[0], predictions)


def _of(group: Sequence[Result], name: str) -> list[Result]:
    return [r for r in group if r.checkpoint.get("name") == name]


def _several(over: Over, results: Sequence[Result], one: str, two: str) -> list[str]:
    """Evaluations of which a checkpoint has several comparable results (another k, say)."""
    return [
        f"{name}, {layout.protocol} on {group[0].data.name}"
        for layout in ordered(over)
        for group in comparable.groups(results, layout)
        for name in (one, two)
        if _of(group, one) and _of(group, two) and len(_of(group, name)) > 1
    ]


def _apart(over: Over, results: Sequence[Result], one: str, two: str) -> list[str]:
    """Evaluations that both have, but with settings or data that are not comparable."""
    found = []
    for layout in ordered(over):
        groups = comparable.groups(results, layout)
        for data in dict.fromkeys(group[0].data.name for group in groups):
            here = [group for group in groups if group[0].data.name == data]
            both = all(any(_of(group, name) for group in here) for name in (one, two))
            if both and not any(_of(group, one) and _of(group, two) for group in here):
                found.append(f"{layout.protocol} on {data}")
    return found


def _shared(
    layout: Layout, group: Sequence[Result], a: Result, b: Result, predictions: Predictions | None
) -> Iterator[Line]:
    extras = [e for e in layout.extra if not e.hidden]
    if not any(layout.items_of(e.metric) for e in extras):  # else the sweep's points are left to the sweep
        sweep = comparable.sweep_columns(layout, [a, b])
        titles = comparable.sweep_titles(layout, sweep)
        unit = layout.unit
        extras = [
            Extra(title=t, metric=layout.metric, at=at, unit=unit) for t, at in zip(titles, sweep, strict=True)
        ] + extras
    for extra in extras:
        for x in comparable.scores(a, extra.metric, extra.at)[:1]:
            for y in comparable.scores(b, extra.metric, extra.at)[:1]:
                spec = layout.items_of(extra.metric, x.at)
                first, second = (paired.sample(spec, s, r, predictions) for s, r in ((x, a), (y, b)))
                yield Line(
                    label=f"{layout.protocol} {group[0].data.name}: {extra.title or extra.metric}",
                    extra=extra,
                    a=x,
                    b=y,
                    tested=paired.difference(first, second),
                )


def _cells(line: Line, adjusted: float | None) -> tuple[Cell, ...]:
    unit, digits = line.extra.unit, line.extra.digits
    notes = [f"{line.extra.show}={s.at[line.extra.show]}" if line.extra.show in s.at else "" for s in (line.a, line.b)]
    both = [cells.of_score(s, unit=unit, note=n, digits=digits) for s, n in zip((line.a, line.b), notes, strict=True)]
    if line.tested is None or adjusted is None:
        apart = Cell(value=line.a.value - line.b.value, unit=unit, digits=digits)
        return (*both, apart, Cell(), Cell(), Cell())
    t = line.tested
    apart = Cell(value=t.value, interval=(t.low, t.high), unit=unit, digits=digits, bold=adjusted <= paired.ALPHA)
    p = Cell(value=t.p_value, unit="p", digits=4, note=t.test)
    return (*both, apart, p, Cell(value=adjusted, unit="p", digits=4), Cell(value=float(t.n), unit="count", digits=0))
