"""Results -> tables. Results that are not comparable (other data, version, precision) never share a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evaltk.types import Result, canonical
from reports import comparable, layouts
from reports.layouts import AnyLayout, Extra, Layout, Paper
from reports.paired import Predictions
from reports.table import Cell, Table
from reports.tables import beside_published, cells, compare, overviews, paper, trajectory, view


def build_tables(
    layout: AnyLayout,
    results: Sequence[Result],
    *,
    predictions: Predictions | None = None,
    pair: Sequence[str] = (),
    notes: bool = True,
    costs: bool = False,
) -> list[Table]:
    """The tables of a layout.

    A protocol's: one for each set of results that may be compared (same data, protocol version, settings, precision,
    preprocessing), in order of their dataset; none where no result is of the protocol. A paper's: always one, with
    published numbers alone where no result fits; more where results of one column are not comparable.

    Args:
        predictions: per-item values, for bold and paired tests (`paired.beside`); None: no tests.
        pair: names of the two checkpoints for the layout `compare`; default: the only two.
        notes: all notes on the results below the result view; else how many there are.
        costs: operations and images a second as columns of the result view.

    Raises: SettingsError: `compare` without two checkpoints.
    """
    if isinstance(layout, Paper):
        return paper.build(layout, results, predictions=predictions)
    if not isinstance(layout, Layout):
        if layout.kind == "compare":
            return compare.build(layout, results, predictions=predictions, pair=pair)
        if layout.kind == "summary":
            return view.build(layout, results, predictions, notes=notes, costs=costs)
        if layout.kind == "published":
            compared = beside_published.compare_with_published(results).table
            return [compared] if compared else []
        if layout.kind == "trajectory":
            return trajectory.build(layout, results, predictions)
        return overviews.sweep(layout, results, predictions)
    groups = comparable.groups(results, layout)
    made = [_table(layout, group, predictions) for group in groups]
    first = [comparable.conditions(group[0], layout) for group in groups]
    return [
        _distinguish(table, mine, [other for t, other in zip(made, first, strict=True) if t.title == table.title])
        for table, mine in zip(made, first, strict=True)
    ]


def build_overview(results: Sequence[Result], *, predictions: Predictions | None = None) -> list[Table]:
    """Tables of every protocol among the results: by its layout, or plain where it has none."""
    known = layouts.protocols()
    tables: list[Table] = []
    for name in dict.fromkeys(r.protocol for r in results):
        if name in known:
            tables += build_tables(known[name], results, predictions=predictions)
        else:
            tables += plain_tables(name, results)
    return tables


def plain_tables(protocol: str, results: Sequence[Result]) -> list[Table]:
    """One column per score of the results, for a protocol without a layout."""
    layout = Layout(name=protocol, title=protocol, protocol=protocol)
    groups = comparable.groups(results, layout)
    apart = [comparable.conditions(group[0], layout) for group in groups]
    tables = []
    for group, mine in zip(groups, apart, strict=True):
        scores = [{(s.metric, canonical(s.at)): s for s in result.scores} for result in group]
        columns = {key: score for of_result in scores for key, score in of_result.items()}
        titles = tuple(" ".join((s.metric, *(f"{k}={v}" for k, v in s.at.items()))) for s in columns.values())
        blank = Cell(unit="as it is")
        cells_of = [
            tuple(cells.of_score(one[key], unit="as it is") if key in one else blank for key in columns)
            for one in scores
        ]
        names = comparable.labels(group)
        difference = comparable.describe_difference(
            mine, [other for other in apart if other["dataset"] == mine["dataset"]]
        )
        tables.append(
            Table(
                title=f"{protocol} on {group[0].data.name}" + (f" [{difference}]" if difference else ""),
                name=protocol,
                columns=titles,
                rows=tuple(zip(names, cells_of, strict=True)),
                digits=4,
                footnotes=tuple(comparable.notes(names, group)),
            )
        )
    return tables


def _distinguish(table: Table, mine: Mapping[str, object], others: Sequence[Mapping[str, object]]) -> Table:
    """The table, titled by what distinguishes it from others of the same title."""
    difference = comparable.describe_difference(mine, others)
    return replace(table, title=f"{table.title} [{difference}]") if difference else table


def _table(layout: Layout, results: Sequence[Result], predictions: Predictions | None) -> Table:
    sweep = comparable.sweep_columns(layout, results)
    extras = [e for e in layout.extra if not e.hidden and any(comparable.scores(r, e.metric, e.at) for r in results)]
    names = comparable.labels(results)
    titles = (*comparable.sweep_titles(layout, sweep), *(e.title for e in extras))
    columns: list[Extra | Mapping[str, Any]] = [*sweep, *extras]
    rows = []
    for label, result in zip(names, results, strict=True):
        found = {c: _entry(layout, result, column, predictions) for c, column in enumerate(columns)}
        rows.append((label, {c: one for c, one in found.items() if one}))
    # What was swept is a curve: its points are tested only where there is nothing else to test.
    tested = [c for c in range(len(sweep), len(titles)) if any(c in row and row[c].sample for _, row in rows)]
    done = cells.finish(rows, titles, tested=tested or None)
    return Table(
        title=layout.title + _measured_on(layout, results),
        name=layout.name,
        columns=titles,
        rows=done.rows,
        digits=layout.digits,
        footnotes=(*_other_sweeps(layout, results), *done.footnotes, *comparable.notes(names, results)),
        legend=(*(e.footnote for e in extras if e.footnote), *done.legend),
    )


def _measured_on(layout: Layout, results: Sequence[Result]) -> str:
    known = [s for r in results for s in comparable.scores(r, layout.metric)]
    sizes = sorted({s.n for s in known})
    name = results[0].data.name
    if not known:
        return f" on {name}"
    # Scores of prototypes are of the split "weights": of the head, whose use by a dataset's images is shown beside.
    split = "" if known[0].split == "weights" else f" {known[0].split}"
    told = "not stated" if sizes == [0] else " to ".join(f"{n:,}" for n in sizes[:: max(1, len(sizes) - 1)])
    return f" on {name}{split}, n = {told}"


def _entry(
    layout: Layout, result: Result, column: Extra | Mapping[str, Any], predictions: Predictions | None
) -> cells.Entry | None:
    metric, at = (column.metric, column.at) if isinstance(column, Extra) else (layout.metric, column)
    for score in comparable.scores(result, metric, at):
        if isinstance(column, Extra):
            cell = cells.of_extra(column, result, score)
        else:
            cell = cells.of_swept(layout, result, score)
        return cells.entry(cell, layout, result, score, predictions)
    return None


def _other_sweeps(layout: Layout, results: Sequence[Result]) -> list[str]:
    """Where results tried other values of a loose setting, their best values are not quite comparable."""
    said = []
    for name in layout.loose:
        tried = {tuple(comparable.as_sequence(r.settings.get(name))) for r in results}
        if len(tried) > 1 and all(tried):
            said.append(
                f"different {name}: " + "; ".join(" ".join(map(str, values)) for values in sorted(tried, key=str))
            )
    return said
