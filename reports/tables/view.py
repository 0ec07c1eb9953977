"""The result view: one row per model, one column per task (protocol and dataset), the headline number of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from evaltk.results import foreign
from evaltk.types import DeviationKind, Result, Score
from reports import comparable, layouts
from reports.formats import cell_text
from reports.layouts import Layout, Over, Task
from reports.paired import Predictions
from reports.table import Cell, Table
from reports.tables import cells, facts
from reports.tables.overviews import ordered

# What is said even where notes are not asked for: numbers under these conditions mislead without it.
ALWAYS = (
    DeviationKind.SMOKE_TEST,
    DeviationKind.UNREADABLE_IMAGES,
    DeviationKind.EMPTY_CLASSES,
    DeviationKind.SHARED_IMAGES,
    DeviationKind.THEIRS,
)
RANK = "mean rank"
HALF = "±: half the width of the 95 % interval"
SECOND = "underlined: best of those that are not bold"
Who = tuple[str, str]  # identity of a checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: headings, what it shows of whom, and whether models are ranked by it."""

    group: str
    title: str
    layout: Layout
    footnote: str
    ranked: bool
    beside: bool
    scores: Mapping[Who, tuple[Result, Score]]

    @property
    def whole(self) -> str:
        """Its title with the group."""
        return f"{self.group} {self.title}".strip()


def build(
    over: Over,
    results: Sequence[Result],
    predictions: Predictions | None, *, notes: bool = True, costs: bool = False,
) -> list[Table]:  # fmt: skip
    """The view of all results, models in order of the first column; [] if there is nothing to show.

    Results that are not comparable have columns of their own, whose titles name the difference.

    Args:
        notes: all notes and deviations as footnotes; else those of `ALWAYS`, and how many others there are.
        costs: with columns of operations and images a second.
    """
    columns = list(columns_of(over, results))
    if not columns:
        return []
    who = models(results, columns)
    titles = [column.whole for column in columns]
    rows = [(name, {c: entry(one, column, predictions) for c, column in enumerate(columns) if one in column.scores})
            for one, name in who.items()]  # fmt: skip
    ranked = [c for c, column in enumerate(columns) if column.ranked]
    done = cells.finish(rows, titles, tested=ranked)
    values = [[better(one, column) for column in columns] for one in who]
    body = _with_second([list(row) for _, row in done.rows], values, ranked)
    groups, heads = [c.group for c in columns], [c.title for c in columns]
    legend = [
        *([HALF] if any(cell.interval for row in body for cell in row) else []),
        *done.legend,
        *([SECOND] if any(cell.second for row in body for cell in row) else []),
        *dict.fromkeys(c.footnote for c in columns if c.footnote),
    ]
    minor: list[int] = [c for c, column in enumerate(columns) if column.beside]
    told = facts.known(list(who), results, {id(r) for column in columns for r, _ in column.scores.values()})
    if costs:
        told += facts.costs(list(who), results)
        legend.append(facts.COSTS)
    if (ranks := _ranks(values, ranked)) is not None:
        told = [(RANK, [Cell(value=rank, unit="rank", digits=1) for rank in ranks[0]]), *told]
        legend.append(f"mean rank: over {ranks[1]}")
    for title, column_cells in told:
        minor.append(len(heads))
        groups.append("")
        heads.append(title)
        for row, cell in zip(body, column_cells, strict=True):
            row.append(cell)
    best = sorted(range(len(rows)), key=lambda r: (values[r][0] is None, -(values[r][0] or 0.0)))
    return [Table(
        title=_title(over, columns),
        name=over.name,
        stub="model",
        columns=tuple(heads),
        groups=tuple(groups),
        rows=tuple((rows[r][0], tuple(body[r])) for r in best),
        minor=tuple(reversed(minor)),
        half=True,
        footnotes=(*done.footnotes, *_notes(columns, who, titles, whole=notes)),
        legend=tuple(legend),
    )]  # fmt: skip


def _title(over: Over, columns: Sequence[Column]) -> str:
    """With the dataset, split and number of images where these are the same for all columns."""
    pairs = [pair for column in columns if not column.layout.analysis for pair in column.scores.values()]
    data = {result.data.name for column in columns for result, _ in column.scores.values()}
    if len(data) > 1:
        return over.title
    same = {(score.split, score.n) for _, score in pairs}
    told = "".join(f" {split}, n = {n:,}" for split, n in same) if len(same) == 1 else ""
    return f"{over.title} on {data.pop()}{told}"


def columns_of(over: Over, results: Sequence[Result]) -> Iterator[Column]:
    """The columns of the view, tasks before analyses."""
    known = ordered(over)
    plain = [_plain(name, results) for name in dict.fromkeys(r.protocol for r in results)
             if name not in {layout.protocol for layout in known}]  # fmt: skip
    known = [*(la for la in known if not la.analysis), *plain, *(la for la in known if la.analysis)]
    several = len({r.data.name for r in results}) > 1
    for layout in known:
        groups = comparable.groups(results, layout)
        conditions = [comparable.conditions(group[0], layout) for group in groups]
        for group, told in zip(groups, _differences(conditions), strict=True):
            for task, ranked in _tasks(layout, group):
                scored = [(r, s) for r in group for s in comparable.scores(r, task.metric, task.at)[:1]]
                parts = [group[0].data.name if several else "", task.title, f"[{told}]" if told else ""]
                for n, members in enumerate(_apart(scored)):
                    more = f"({n + 1})" if n else ""
                    yield Column(
                        group=layout.label or layout.protocol,
                        title=" ".join(part for part in (*parts, more) if part),
                        layout=layout,
                        footnote=task.footnote,
                        ranked=ranked,
                        beside=not ranked and not layout.analysis,
                        scores=members,
                    )


def _differences(conditions: Sequence[Mapping[str, object]]) -> list[str]:
    """What tells each set of results from others of its dataset; not by the fingerprint where words do.

    Figures of others are told by their source, our own from each other alone.
    """

    def told(without: str) -> list[str]:
        known = [{k: v for k, v in one.items() if k != without} for one in conditions]
        own = [one for one in known if comparable.SOURCE not in one]
        return [
            str(one[comparable.SOURCE])
            if comparable.SOURCE in one
            else comparable.describe_difference(one, [other for other in own if other["dataset"] == one["dataset"]])
            for one in known
        ]

    short = told("fingerprint")
    pairs = list(zip([one["dataset"] for one in conditions], short, strict=True))
    return short if len(set(pairs)) == len(pairs) else told("")


def _plain(protocol: str, results: Sequence[Result]) -> Layout:
    """A protocol without a layout: its first score, as it is."""
    scores = [s for r in results if r.protocol == protocol for s in r.scores]
    task = tuple(Task(metric=s.metric, title=s.metric) for s in scores[:1])
    return Layout(name=protocol, title=protocol, protocol=protocol, label=protocol, task=task, unit="count", digits=4,
                  analysis=True)  # fmt: skip


def _tasks(layout: Layout, group: Sequence[Result]) -> Iterator[tuple[Task, bool]]:
    """The first task that was measured, then those beside it; one per value where a setting is swept."""
    main = False
    for task in layout.task or _by_default(layout):
        found = [comparable.scores(r, task.metric, task.at) for r in group]
        if not any(found) or (main and not task.beside):
            continue
        if main and task.at and any(len(scores) > 1 for scores in found):
            continue  # beside the headline, only what has one meaning
        ranked = not layout.analysis and (not main or layout.protocol == "retrieval")
        if task.each:
            values = {comparable.plain(s.at.get(task.each)) for scores in found for s in scores}
            for value in sorted(values, key=comparable.order):
                title = task.values.get(str(value), str(value))
                yield replace(task, at={**task.at, task.each: value}, title=title), ranked
        else:
            yield task, ranked
        main = True
    if not main and foreign.source(group[0]):  # others' figures may lack the settings that tell our headline
        for score in [s for s in group[0].scores if layout.unit != "percent" or foreign.FRACTIONS.search(s.metric)][:1]:
            yield Task(metric=score.metric, title=score.metric), not layout.analysis


def _by_default(layout: Layout) -> tuple[Task, ...]:
    shown = [extra for extra in layout.extra if not extra.hidden]
    named = [extra for extra in shown if extra.metric == layout.headline] or shown
    return tuple(Task(metric=e.metric, title=e.title, at=e.at, footnote=e.footnote) for e in named[:1])


def _apart(scored: Sequence[tuple[Result, Score]]) -> list[dict[Who, tuple[Result, Score]]]:
    """By checkpoint; a second result of one (another k, say) takes one more column."""
    columns: list[dict[Who, tuple[Result, Score]]] = []
    for result, score in scored:
        who = comparable.identity(result)
        free = next((column for column in columns if who not in column), None)
        if free is None:
            columns.append(free := {})
        free[who] = (result, score)
    return columns


def models(results: Sequence[Result], columns: Sequence[Column]) -> dict[Who, str]:
    """{checkpoint: its label} of those that have a column, in order of their first result."""
    there = {who for column in columns for who in column.scores}
    first = {comparable.identity(r): r for r in reversed(results) if comparable.identity(r) in there}
    order = [who for who in dict.fromkeys(map(comparable.identity, results)) if who in there]
    return dict(zip(order, comparable.labels([first[who] for who in order]), strict=True))


def entry(who: Who, column: Column, predictions: Predictions | None) -> cells.Entry:
    """A model's cell of a column, with its values by item."""
    result, score = column.scores[who]
    layout = column.layout
    extra = next((e for e in layout.extra if e.metric == score.metric), None)
    unit = extra.unit if extra else layout.unit
    digits = extra.digits if extra and extra.digits is not None else layout.digits
    return cells.entry(cells.of_score(score, unit=unit, digits=digits), layout, result, score, predictions)


def better(who: Who, column: Column) -> float | None:
    """The value, of which more is better: negative where less is; None where there is none."""
    if who not in column.scores:
        return None
    score = column.scores[who][1]
    return -score.value if score.metric in column.layout.lower else score.value


def _with_second(
    body: list[list[Cell]], values: Sequence[Sequence[float | None]], ranked: Sequence[int]
) -> list[list[Cell]]:
    """The cells, the best of those that are not bold marked in each column that has bold ones."""
    for c in ranked:
        if not any(row[c].bold for row in body):
            continue
        rest = {r: v for r, row in enumerate(values) if (v := row[c]) is not None and not body[r][c].bold}
        for r, value in rest.items():
            if value == max(rest.values()):
                body[r][c] = replace(body[r][c], second=True)
    return body


def _ranks(values: Sequence[Sequence[float | None]], ranked: Sequence[int]) -> tuple[list[float], str] | None:
    """(mean rank of each row, over which columns), None if there is nothing to rank; equal values share a mean rank."""
    whole = [c for c in ranked if all(row[c] is not None for row in values)]
    if len(values) < 2 or len(whole) < 2:
        return None
    columns = [[float(row[c] or 0.0) for row in values] for c in whole]
    each = [[1 + sum(w > v for w in one) + (one.count(v) - 1) / 2 for v in one] for one in columns]
    told = f"the {len(whole)} tasks" if len(whole) == len(ranked) else f"the {len(whole)} of {len(ranked)} tasks"
    return [mean(one[r] for one in each) for r in range(len(values))], f"{told} that all models have"


def _notes(columns: Sequence[Column], who: Mapping[Who, str], titles: Sequence[str], *, whole: bool) -> list[str]:
    """Notes and deviations, each with the models and tasks it concerns where these are not all."""
    said: dict[str, set[tuple[str, str]]] = {}
    always: set[str] = set()
    every = {(title, who[one]) for column, title in zip(columns, titles, strict=True) for one in column.scores}
    for column, title in zip(columns, titles, strict=True):
        for one, (result, _) in column.scores.items():
            for deviation in result.deviations:
                if deviation.kind in ALWAYS:
                    always.add(deviation.words())
            for text in (*(d.words() for d in result.deviations), *result.notes):
                said.setdefault(text, set()).add((title, who[one]))
    shown = list(said) if whole else [text for text in said if text in always]
    lines = []
    for text in shown:
        where = said[text]
        tasks = list(dict.fromkeys(t for t in titles if any(t == task for task, _ in where)))
        models = [name for name in who.values() if any(name == model for _, model in where)]
        parts = [] if len(tasks) == len(set(titles)) else [", ".join(tasks)]
        of_them = {name for task, name in every if task in tasks}
        parts += [] if len(models) == len(of_them) else [", ".join(models)]
        lines.append(f"{'; '.join(parts)}: {text}" if parts else text)
    left = len(said) - len(shown)
    return lines + ([f"{left} note{'s' if left > 1 else ''} on data and settings: --notes"] if left else [])


def headline(result: Result) -> str:
    """The result's headline in words, for a log: ``k-NN chosen k 74.50 % ± 0.38``; empty if it has no score."""
    layout = layouts.protocols().get(result.protocol) or _plain(result.protocol, [result])
    told = []
    for task, _ in _tasks(layout, [result]):
        for score in comparable.scores(result, task.metric, task.at)[:1]:
            extra = next((e for e in layout.extra if e.metric == score.metric), None)
            unit = extra.unit if extra else layout.unit
            cell = Cell(value=score.value, interval=score.interval, unit=unit)
            found = cell_text.pieces(cell, Table(title="", columns=(), rows=(), digits=layout.digits, half=True), {})
            percent = " %" if unit == "%" else ""
            told.append(" ".join(part for part in (task.title, found.value + percent, found.interval) if part))
    return f"{layout.label or layout.protocol} {', '.join(told)}" if told else "no scores"
