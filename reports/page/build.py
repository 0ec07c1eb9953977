"""The page: one HTML file with tables, figures, verdicts and provenance inside; nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from evaltk.errors import StorageError, printable
from evaltk.results import predictions_path, read_predictions
from evaltk.types import Result
from reports import comparable, layouts, paired
from reports.figures import course, overview, training, training_log
from reports.figures.style import Drawn, one_look
from reports.formats import cell_text, html, latex
from reports.formats.render import markdown, tidy_csv
from reports.layouts import Over, Paper
from reports.page import confused, mistakes
from reports.page.figures import figures_of_analyses, figures_of_scores, inline
from reports.page.galleries import GALLERY_ARRAYS, Gallery, build_gallery, bytes_per_gallery, gallery_fault
from reports.page.inset import Inset
from reports.page.provenance import provenance
from reports.published import verdicts
from reports.table import Table
from reports.tables import winners
from reports.tables.beside_published import checkpoint_names, compare_with_published
from reports.tables.build import build_tables
from reports.training import logs

TESTED = 20  # checkpoints above which the page has no tests: thousands of comparisons take too long
MOST_COLUMNS = 12  # of a table that is not turned
FOLDED = 40  # rows above which the table of verdicts is collapsed
TEMPLATES = Path(__file__).with_name("templates")
BADGES = {  # verdict: (CSS class, meaning)
    verdicts.REPRODUCED: ("reproduced", "within the tolerance, or the published number is in our interval"),
    verdicts.OFF: ("off", "same protocol, but outside tolerance and interval"),
    verdicts.NOT_COMPARABLE: ("not-comparable", "different protocol or data; the tables list the differences"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HtmlTable:
    """A table as HTML, its footnotes and how many there are, what both come from, and what can be copied of it.

    `copies`: {format: text}. `wide`: too many columns for the page, it scrolls.
    """

    title: str
    table: Markup
    notes: Markup
    noted: int
    source: Table
    copies: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tables under one heading. `folded`: collapsed. `task`: what the tasks of the result view are headed by."""

    title: str
    task: str
    name: str
    tables: tuple[HtmlTable, ...]
    folded: bool = False


def build_page(
    found: Sequence[tuple[Path, Result]],
    *,
    runs: Path,
    skipped: Sequence[tuple[Path, str]] = (),
    title: str = "",
    command: str = "",
    complain: Callable[[StorageError], object] = lambda _: None,
    find: mistakes.Find | None = None,
    wrong: int = mistakes.IMAGES,
    pictures: Inset | None = None,
) -> str:
    """The page of these results. The same results give the same text.

    Args:
        found: results and their files. runs: the folder they were found in, with training logs.
        skipped: files that are not results, and why; listed on the page.
        title: of the page (default: the models and datasets). command: that writes it, shown if given.
        complain: called for damaged predictions, which the page lists too. pictures: of `evaltk show`.
        find: the images of a result, for the pictures of its confident mistakes. wrong: how many of each classifier.
    """
    broken: dict[str, None] = {}
    note = _noting(broken, complain)
    results = [result for _, result in found]
    checkpoints = len(checkpoint_names(results))
    predictions = paired.beside(found, note) if checkpoints <= TESTED else None
    beside = compare_with_published(results)
    over = layouts.load("summary")
    assert isinstance(over, Over)
    won = winners.contests(over, results, predictions)
    summary = [to_html(table) for table in build_tables(over, results, predictions=predictions)]
    best = [to_html(table)] if (table := winners.table(won)) else []
    groups = [*_groups(results, predictions), *_classes(found, note)]
    published = to_html(beside.table) if beside.table else None
    on_page = [*summary, *best, *([published] if published else []), *(t for group in groups for t in group.tables)]
    names = list(checkpoint_names(results).values())
    values = {
        "title": title or _title(names, results),
        "command": command,
        "dates": _dates(results),
        "results": len(results),
        "checkpoints": checkpoints,
        "untested": predictions is None,
        "sentence": winners.sentence(won),
        "best": best,
        "cards": [(verdict, *BADGES[verdict], n) for verdict, n in beside.counts.items() if n and verdict in BADGES],
        "beside": published,
        "fold_beside": beside.table is not None and len(beside.table.rows) > FOLDED,
        "summary": summary,
        "groups": groups,
        "tasks": list(dict.fromkeys(group.task for group in groups if group.task)),
        "legend": Markup(html.legend(table.source for table in on_page)),
        "galleries": _galleries(found, note),
        "origins": provenance(found, runs),
        "skipped": [(_within(path, runs), why) for path, why in skipped],
        "pictures": pictures,
    }
    values |= _pictures(found, won, runs, names, note)
    strips, left = mistakes.strips(found, lambda path: _read(path, note), find, wrong, note) if find else ([], 0)
    return render(values | {"mistakes": strips, "mistakes_left": left, "broken": list(broken)})


def _noting(broken: dict[str, None], complain: Callable[[StorageError], object]) -> Callable[[StorageError], object]:
    """Keeps errors in `broken` and complains of each once."""

    def note(error: StorageError) -> None:
        if (text := str(error)) not in broken:
            broken[text] = None
            complain(error)

    return note


def _pictures(
    found: Sequence[tuple[Path, Result]],
    won: Sequence[winners.Contest],
    runs: Path,
    names: Sequence[str],
    note: Callable[[StorageError], object],
) -> dict[str, Any]:
    """All figures, in which each of the models called `names` looks the same."""
    with one_look(names):
        chart = [
            inline(drawn, name)
            for name, narrow in (("overview", False), ("overview-narrow", True))  # one of them is shown
            for drawn in overview.of_contests(won, narrow=narrow)
        ]
        figures, more = figures_of_scores([result for _, result in found], training_log.under(runs))
        trained = [inline(drawn, f"training-{n}") for n, drawn in enumerate(_trainings(runs), 1)]
        analyses, not_drawn = figures_of_analyses(found, lambda path: _read(path, note), note)
        courses = course.of_logs(training_log.courses_under(runs))
        analyses = [*(inline(drawn, f"course-{n}") for n, drawn in enumerate(courses, 1)), *analyses]
    shown = {"chart": chart, "figures": [*figures, *trained], "more_figures": more}
    return shown | {"analyses": analyses, "analyses_left": not_drawn}


def render(values: Mapping[str, Any]) -> str:
    """The page from its values; every text is escaped, and only our own style and script may run."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    style += values["pictures"].style if values["pictures"] else ""
    policy = {
        "default-src": "'none'",
        "style-src": f"'{content_digest(style)}'",
        "script-src": f"'{content_digest(script)}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            values,
            style=Markup(style),
            script=Markup(script),
            policy="; ".join(f"{key} {value}" for key, value in policy.items()),
        )
    )


@functools.cache
def environment() -> jinja2.Environment:
    """Templates that escape what they print and fail on undefined names."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.globals["raw"] = _raw
    return made


def to_html(table: Table) -> HtmlTable:
    """A table and its footnotes as HTML; its legend stands once on the page.

    Intervals are shown as half their width. A table of more columns than the page has room for is turned, where it
    has fewer rows.
    """
    table = replace(table, half=True)
    shown = table.turned() if len(table.columns) > MOST_COLUMNS > len(table.rows) > 0 else table
    bare = replace(table, rows=tuple((n, tuple(replace(c, interval=None) for c in row)) for n, row in table.rows))
    return HtmlTable(
        title=table.title,
        table=Markup(html.grid(shown, labelled=True)),
        notes=Markup(html.notes(table)),
        noted=len(cell_text.footnotes(table, cell_text.lettered(table))),
        source=table,
        copies={"CSV": tidy_csv(table), "Markdown": markdown(table), "LaTeX": latex.render(bare)},
    )


def _title(names: Sequence[str], results: Sequence[Result]) -> str:
    data = list(dict.fromkeys(result.data.name for result in results))
    models = names[0] if len(names) == 1 else f"{len(names)} models"
    return f"{models} on {', '.join(data) if len(data) <= 3 else f'{len(data)} datasets'}"


def _dates(results: Sequence[Result]) -> str:
    """The days on which the results were measured."""
    days = sorted({str(result.made["date"])[:10] for result in results if result.made.get("date")})
    return f"{days[0]} to {days[-1]}" if len(days) > 1 else "".join(days)


def _runs_with_logs(runs: Path) -> Mapping[str, logs.RunLog]:
    try:
        return logs.under(runs)
    except StorageError:  # no training below the results
        return {}


def _trainings(runs: Path) -> list[Drawn]:
    """Curves of the trainings whose logs lie below the results: all in one figure, or the only one's."""
    return list(training.of_logs(_runs_with_logs(runs)))[:1]


def _raw(text: str) -> Markup:
    """Text with its line breaks, escaped."""
    return Markup(escape("".join(c if c.isprintable() or c == "\n" else " " for c in text)))


def _shown(value: object) -> object:
    """Printable text on one line, unless it is our own markup."""
    return value if isinstance(value, Markup | jinja2.Undefined) else printable(str(value))


def content_digest(text: str) -> str:
    """What a content security policy calls this text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _groups(results: Sequence[Result], predictions: paired.Predictions | None) -> list[Group]:
    """The tables of each protocol, then those of papers with a result of ours."""
    groups = []
    for protocol, layout in layouts.protocols().items():
        made = build_tables(layout, results, predictions=predictions)
        if made:
            title, tables = layout.label or protocol, tuple(map(to_html, made))
            groups.append(
                Group(
                    title=title if title[1:2] == "-" else title[0].upper() + title[1:],
                    task=title,
                    name=f"table-{protocol}",
                    tables=tables,
                )
            )
    papers = [paper for name in layouts.names() if isinstance(paper := layouts.load(name), Paper)]
    shown = [
        to_html(table)
        for paper in papers
        for table in build_tables(paper, results)  # tested in the protocols' own tables already
        if any(cell.value is not None for _, row in table.rows for cell in row)
    ]
    if shown:
        title = "Papers' tables with our results"
        groups.append(Group(title=title, task="", name="papers", tables=tuple(shown), folded=True))
    return groups


def _classes(found: Sequence[tuple[Path, Result]], note: Callable[[StorageError], object]) -> list[Group]:
    """What classifiers get wrong, collapsed."""
    made, left = confused.tables(found, lambda path: _read(path, note), note)
    if not made:
        return []
    title = "Classes: least accurate, most confused" + (f" (of {left} more: evaltk classes)" if left else "")
    return [Group(title=title, task="", name="classes", tables=tuple(map(to_html, made)), folded=True)]


def _galleries(
    found: Sequence[tuple[Path, Result]], note: Callable[[StorageError], object]
) -> list[tuple[str, Gallery | None]]:
    """(checkpoint and dataset, gallery or None if it does not fit) of results that have one."""
    names = checkpoint_names([result for _, result in found])
    mine = [(path, result) for path, result in found if result.protocol == "prototypes"]
    made = []
    for path, result in mine:
        arrays = _read(path, note, GALLERY_ARRAYS)
        if "gallery_images" in arrays:
            if fault := gallery_fault(arrays):
                do = "run again with --again"
                note(StorageError(wanted="a whole gallery", got=fault, where=predictions_path(path), do=do))
                continue
            title = f"{names[comparable.identity(result)]} on {result.data.name}"
            made.append((title, build_gallery(title, arrays, bytes_per_gallery(mine))))
    return made


def _read(
    path: Path, note: Callable[[StorageError], object], names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """The predictions of a result; {} if there are none, or if they are damaged, which is noted."""
    try:
        return read_predictions(path, names)
    except StorageError as error:
        note(error)
        return {}


def _within(path: Path, runs: Path) -> str:
    return str(path.relative_to(runs) if path.is_relative_to(runs) else path)
