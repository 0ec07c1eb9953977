"""Results -> tables. Results that do not belong together (other data, version, precision) never share a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evaltk.types import Cell, Result, Score, Table, canonical
from reports import layouts, published
from reports.layouts import Extra, Layout

METHODS = {"dino": "DINO", "ibot": "iBOT", "msn": "MSN"}


def build(layout: Layout, results: Sequence[Result]) -> list[Table]:
    """One table for each set of results that may be compared: same data, protocol version, precision, preprocessing.

    Returns: tables in order of their data set; none where no result is of the layout's protocol.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        if result.protocol == layout.protocol:
            groups.setdefault(canonical(_comparable(result)), []).append(result)
    made = [(_table(layout, group), group[0]) for group in groups.values()]
    titles = [table.title for table, _ in made]
    return [
        _with_difference(table, first, [g[0] for g in groups.values()]) if titles.count(table.title) > 1 else table
        for table, first in made
    ]


def overview(results: Sequence[Result]) -> list[Table]:
    """Tables of every protocol among the results that has a layout of its name."""
    present = dict.fromkeys(r.protocol for r in results)
    return [table for name in present if name in layouts.names() for table in build(layouts.load(name), results)]


def _comparable(result: Result) -> dict[str, Any]:
    data = _mapping(result.settings["dataset"])
    views = {
        view: str(text).partition(", RGB")[0] for view, text in _mapping(result.settings.get("transforms", {})).items()
    }
    return {
        "data set": data["name"],
        "fingerprint": str(data["fingerprint"])[:12],
        "protocol version": result.version,
        "precision": result.settings.get("precision"),
        "position rule": result.settings.get("position"),
        "seed": result.seed,
        "kind of resize": {view: "resize" in text for view, text in views.items()},
    }


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _with_difference(table: Table, first: Result, others: Sequence[Result]) -> Table:
    mine = _comparable(first)
    differs = [k for k in mine if any(_comparable(o)[k] != mine[k] for o in others if o is not first)]
    told = ", ".join(f"{k} {mine[k]}" for k in differs)
    return Table(
        title=f"{table.title} [{told}]",
        columns=table.columns,
        rows=table.rows,
        digits=table.digits,
        footnotes=table.footnotes,
    )


def _table(layout: Layout, results: Sequence[Result]) -> Table:
    sweep = _sweep_columns(layout, results)
    extras = [e for e in layout.extra if any(_scores(r, e.metric) for r in results)]
    rows = []
    for result in results:
        label, repeated = _label(result), sum(_label(r) == _label(result) for r in results) > 1
        cells = [_swept(layout, result, column) for column in sweep] + [_extra(e, result) for e in extras]
        rows.append((f"{label} ({result.request[:6]})" if repeated else label, tuple(cells)))
    alone = len({at.get(layout.also) for at in sweep}) <= 1
    titles = [
        f"{layout.sweep}={at[layout.sweep]}" + ("" if alone else f", {layout.also} {at[layout.also]}") for at in sweep
    ]
    score = next((s for r in results for s in r.scores), None)
    data = _mapping(results[0].settings["dataset"])["name"]
    where = f" on {data}" + (f" {score.split}, n = {score.n:,}" if score else "")
    notes = dict.fromkeys(str(n) for r in results for n in _sequence(r.settings.get("notes")))
    return Table(
        title=layout.title + where,
        columns=(*titles, *(e.title for e in extras)),
        rows=tuple(rows),
        digits=layout.digits,
        footnotes=(*(e.footnote for e in extras if e.footnote), *notes),
    )


def _sequence(value: object) -> Iterable[object]:
    return value if isinstance(value, list | tuple) else ()


def _label(result: Result) -> str:
    return str(result.checkpoint["name"])


def _scores(result: Result, metric: str) -> list[Score]:
    return [s for s in result.scores if s.metric == metric]


def _sweep_columns(layout: Layout, results: Sequence[Result]) -> list[dict[str, Any]]:
    keys = (layout.also, layout.sweep) if layout.also else (layout.sweep,)
    found = {tuple(s.at.get(key) for key in keys) for r in results for s in _scores(r, layout.metric)}
    return [dict(zip(keys, values, strict=True)) for values in sorted(found, key=lambda v: tuple(map(_order, v)))]


def _order(value: object) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))


def _swept(layout: Layout, result: Result, at: Mapping[str, Any]) -> Cell:
    for score in _scores(result, layout.metric):
        if all(score.at.get(key) == value for key, value in at.items()):
            return _cell(score)
    return Cell()


def _extra(extra: Extra, result: Result) -> Cell:
    found = _scores(result, extra.metric)
    if not found:
        return Cell()
    score = found[0]
    note = f"{extra.show}={score.at[extra.show]}" if extra.show in score.at else ""
    return _cell(score, note=note, known=_published(extra, result, score))


def _published(extra: Extra, result: Result, score: Score) -> float | None:
    """The paper's number for this method and architecture, on ImageNet only: in percent, None where there is none."""
    method = METHODS.get(str(result.checkpoint["family"]))
    if not extra.published or score.dataset != "imagenet" or method is None:
        return None
    arch = published.arch_label(str(_mapping(result.checkpoint["arch"]).get("name")))
    key = extra.published
    row = published.find(
        task=key["task"],
        dataset="ImageNet-1K",
        metric=key["metric"],
        arch=arch,
        method=method,
        variant=key["variant"],
    )
    return None if row is None else row.value


def _cell(score: Score, *, note: str = "", known: float | None = None) -> Cell:
    low, high = score.interval or (None, None)
    interval = None if low is None or high is None else (100 * low, 100 * high)
    return Cell(value=100 * score.value, interval=interval, note=note, published=known)
