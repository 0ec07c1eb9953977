"""Results -> tables. Results that do not belong together (other data, version, precision) never share a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evaltk.types import Cell, Result, Score, Table, canonical
from reports import layouts, published
from reports.layouts import Extra, Layout

INCOMPARABLE = "not comparable with published figures"  # how a data set says in its notes that it is not the whole
IMAGENET = {"imagenet": "ImageNet-1K"}
METHODS = {"dino": "DINO", "ibot": "iBOT", "msn": "MSN"}
NOT_PUBLISHED = ("student", "encoder")  # papers report the teacher, MSN the target encoder


def build(layout: Layout, results: Sequence[Result]) -> list[Table]:
    """One table for each set of results that may be compared: same data, protocol version, precision, preprocessing.

    Returns: tables in order of their data set; none where no result is of the layout's protocol.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        if result.protocol == layout.protocol:
            groups.setdefault(canonical(_comparable(result)), []).append(result)
    made = [(_table(layout, group), group[0]) for group in groups.values()]
    return [_with_difference(table, first, [f for t, f in made if t.title == table.title]) for table, first in made]


def overview(results: Sequence[Result]) -> list[Table]:
    """Tables of every protocol among the results that has a layout of its name."""
    present = dict.fromkeys(r.protocol for r in results)
    return [table for name in present if name in layouts.names() for table in build(layouts.load(name), results)]


def _comparable(result: Result) -> dict[str, Any]:
    data = _mapping(result.settings["dataset"])
    return {
        "data set": data["name"],
        "fingerprint": str(data["fingerprint"])[:12],
        "protocol version": result.version,
        "precision": result.settings.get("precision"),
        "position rule": result.settings.get("position"),
        "seed": result.seed,
        # Nets differ in image size and pixel statistics; what a user set beside these is another measurement.
        "preprocessing": dict(_mapping(result.settings.get("images"))) or "the protocol's",
    }


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _with_difference(table: Table, first: Result, others: Sequence[Result]) -> Table:
    """The table with what tells it from others of the same title, of which `others` are the first results."""
    mine = _comparable(first)
    told = [f"{k} {mine[k]}" for k in mine if any(_comparable(other)[k] != mine[k] for other in others)]
    return replace(table, title=f"{table.title} [{', '.join(told)}]") if told else table


def _table(layout: Layout, results: Sequence[Result]) -> Table:
    sweep = _sweep_columns(layout, results)
    extras = [e for e in layout.extra if any(_scores(r, e.metric) for r in results)]
    labels = _labels(results)
    rows = [
        (label, tuple(_swept(layout, r, at) for at in sweep) + tuple(_extra(e, r) for e in extras))
        for label, r in zip(labels, results, strict=True)
    ]
    alone = len({at.get(layout.also) for at in sweep}) <= 1
    titles = [
        f"{layout.sweep}={at[layout.sweep]}" + ("" if alone else f", {layout.also} {at[layout.also]}") for at in sweep
    ]
    measured = [s for r in results for s in _scores(r, layout.metric)]
    sizes = sorted({s.n for s in measured})
    data = _mapping(results[0].settings["dataset"])["name"]
    where = f" on {data}" + (f" {measured[0].split}, n = {' to '.join(f'{n:,}' for n in sizes)}" if measured else "")
    notes = _notes(labels, results)
    return Table(
        title=layout.title + where,
        columns=(*titles, *(e.title for e in extras)),
        rows=tuple(rows),
        digits=layout.digits,
        footnotes=(*(e.footnote for e in extras if e.footnote), *notes),
    )


def _sequence(value: object) -> Iterable[object]:
    return value if isinstance(value, list | tuple) else ()


def _labels(results: Sequence[Result]) -> list[str]:
    """The checkpoints' names; where two are alike, with the branch, then with the request that tells them apart."""
    names = [str(r.checkpoint["name"]) for r in results]
    with_branch = [f"{name} {r.checkpoint.get('branch')}" for name, r in zip(names, results, strict=True)]
    told = []
    for name, longer, result in zip(names, with_branch, results, strict=True):
        if names.count(name) == 1:
            told.append(name)
        else:
            told.append(longer if with_branch.count(longer) == 1 else f"{name} ({result.request[:6]})")
    return told


def _notes(labels: Sequence[str], results: Sequence[Result]) -> list[str]:
    """What the results say of themselves; what not all of them say comes with their names."""
    said: dict[str, list[str]] = {}
    for label, result in zip(labels, results, strict=True):
        for note in dict.fromkeys(map(str, _sequence(result.settings.get("notes")))):
            said.setdefault(note, []).append(label)
    return [note if len(who) == len(results) else f"{', '.join(who)}: {note}" for note, who in said.items()]


def _scores(result: Result, metric: str) -> list[Score]:
    return [s for s in result.scores if s.metric == metric]


def _sweep_columns(layout: Layout, results: Sequence[Result]) -> list[dict[str, Any]]:
    if not layout.sweep:
        return []
    keys = (layout.also, layout.sweep) if layout.also else (layout.sweep,)
    found = {tuple(s.at.get(key) for key in keys) for r in results for s in _scores(r, layout.metric)}
    return [dict(zip(keys, values, strict=True)) for values in sorted(found, key=lambda v: tuple(map(_order, v)))]


def _order(value: object) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))


def _swept(layout: Layout, result: Result, at: Mapping[str, Any]) -> Cell:
    for score in _scores(result, layout.metric):
        if all(score.at.get(key) == value for key, value in at.items()):
            return _cell(score, unit=layout.unit)
    return Cell()


def _extra(extra: Extra, result: Result) -> Cell:
    found = _scores(result, extra.metric)
    if not found:
        return Cell()
    score = found[0]
    note = f"{extra.show}={score.at[extra.show]}" if extra.show in score.at else ""
    known = _published(extra, result, score)
    return replace(_cell(score, note=note, known=known, unit=extra.unit), digits=extra.digits)


def _published(extra: Extra, result: Result, score: Score) -> float | None:
    """The paper's number for this method, architecture and whole data set: in percent, None where there is none."""
    method = METHODS.get(str(result.checkpoint["family"]))
    dataset = extra.published.get("dataset", IMAGENET).get(score.dataset)
    notes = " ".join(map(str, _sequence(result.settings.get("notes"))))
    if not extra.published or dataset is None or method is None or INCOMPARABLE in notes:
        return None
    if result.checkpoint.get("branch") in NOT_PUBLISHED or result.settings.get("images"):
        return None
    arch = published.arch_label(str(_mapping(result.checkpoint["arch"]).get("name")))
    key = extra.published
    row = published.find(
        task=key["task"],
        dataset=dataset,
        metric=key["metric"],
        arch=arch,
        method=method,
        variant=key["variant"],
    )
    return None if row is None else row.value


def _cell(score: Score, *, note: str = "", known: float | None = None, unit: layouts.Unit = "%") -> Cell:
    times = 100 if unit == "%" else 1
    low, high = score.interval or (None, None)
    interval = None if low is None or high is None else (times * low, times * high)
    return Cell(value=times * score.value, interval=interval, note=note, published=known)
