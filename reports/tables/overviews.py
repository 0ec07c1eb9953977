"""The table `sweep`, one row per value of a swept setting, and what tables over all protocols share."""

from __future__ import annotations

from collections.abc import Sequence

from evaltk.types import Result
from reports import comparable, layouts
from reports.layouts import Extra, Layout, Over
from reports.paired import Predictions
from reports.table import Cell, Table
from reports.tables import cells


def sweep(over: Over, results: Sequence[Result], predictions: Predictions | None) -> list[Table]:
    """For each protocol that sweeps a setting, one row per checkpoint and value; [] if there is none."""
    made = []
    for layout in ordered(over):
        if not layout.sweep:
            continue
        groups = comparable.groups(results, layout)
        known = [comparable.conditions(group[0], layout) for group in groups]
        for group, mine in zip(groups, known, strict=True):
            names = comparable.labels(group)
            lines = [
                line
                for name, result in zip(names, group, strict=True)
                for line in _lines(layout, name, result, predictions)
            ]
            if lines:
                told = comparable.describe_difference(mine, [k for k in known if k["dataset"] == mine["dataset"]])
                end = f" [{told}]" if told else ""
                made.append(_swept(over, layout, lines, f"{group[0].data.name}{end}"))
    return made


def ordered(over: Over) -> list[Layout]:
    """The layouts of all protocols: those that `over` names first, in its order."""
    known = layouts.protocols()
    return [known[name] for name in dict.fromkeys((*over.protocols, *known)) if name in known]


def headlines(layout: Layout, results: Sequence[Result]) -> list[Extra]:
    """The columns that represent a protocol: one, or one per value if its headline is swept."""
    shown = [extra for extra in layout.extra if not extra.hidden]
    named = [extra for extra in shown if extra.metric == layout.headline] or ([] if layout.headline else shown)
    if named or not layout.metric:
        return (named or shown)[:1]
    sweep = comparable.sweep_columns(layout, results)
    titles = comparable.sweep_titles(layout, sweep) or [layout.metric]
    return [
        Extra(title=t, metric=layout.metric, at=at, unit=layout.unit)
        for t, at in zip(titles, sweep or [{}], strict=True)
    ]


def _lines(
    layout: Layout, name: str, result: Result, predictions: Predictions | None
) -> list[tuple[str, tuple[Cell, ...]]]:
    lines = []
    for score in comparable.scores(result, layout.metric):
        settings = [_setting(score.at.get(key)) for key in (layout.sweep, layout.also) if key]
        ours = cells.entry(cells.of_swept(layout, result, score), layout, result, score, predictions).cell
        lines.append((name, (*settings, ours, Cell(value=float(score.n), unit="count", digits=0))))
    return lines


def _swept(over: Over, layout: Layout, lines: Sequence[tuple[str, tuple[Cell, ...]]], end: str) -> Table:
    settings = [key for key in (layout.sweep, layout.also) if key]
    return Table(
        title=f"{over.title}: {layout.title} on {end}",
        name=over.name,
        columns=(*settings, layout.metric, "n"),
        rows=tuple(lines),
        digits=layout.digits,
        legend=over.footnotes,
    )


def _setting(value: object) -> Cell:
    """A setting as a cell: numbers as they are, words as a note."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Cell(note="" if value is None else str(value))
    text = f"{value:.15g}"
    return Cell(value=float(value), unit="setting", digits=len(text.partition(".")[2]) if "e" not in text else 2)
