"""The page: one HTML file with tables, figures, verdicts and provenance inside; nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from evaltk.errors import StorageError, printable
from evaltk.results import predictions_path, read_predictions
from evaltk.types import Result
from reports import comparable, layouts, paired
from reports.figures import course, training_log
from reports.formats import html
from reports.layouts import Paper
from reports.page.figures import figures_of_analyses, figures_of_scores, inline
from reports.page.galleries import GALLERY_ARRAYS, Gallery, build_gallery, bytes_per_gallery, gallery_fault
from reports.page.provenance import provenance
from reports.published import verdicts
from reports.table import Table
from reports.tables.beside_published import NO_PUBLISHED, checkpoint_names, compare_with_published
from reports.tables.build import build_tables

TESTED = 20  # checkpoints above which the page has no tests: thousands of comparisons take too long
FOLDED = 40  # rows above which the table of verdicts is collapsed
TEMPLATES = Path(__file__).with_name("templates")
BADGES = {  # verdict: (CSS class, meaning)
    verdicts.REPRODUCED: ("reproduced", "within the tolerance, or the published number is in our interval"),
    verdicts.OFF: ("off", "same protocol, but outside tolerance and interval"),
    verdicts.NOT_COMPARABLE: ("not-comparable", "different protocol or data; the tables list the differences"),
    NO_PUBLISHED: ("alone", "results without a published counterpart"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HtmlTable:
    """A table as HTML, its footnotes, and what both come from."""

    title: str
    table: Markup
    notes: Markup
    source: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tables under one heading. `folded`: collapsed."""

    title: str
    name: str
    tables: tuple[HtmlTable, ...]
    folded: bool = False


def build_page(
    found: Sequence[tuple[Path, Result]],
    *,
    runs: Path,
    skipped: Sequence[tuple[Path, str]] = (),
    complain: Callable[[StorageError], object] = lambda _: None,
) -> str:
    """The page of these results. The same results give the same text.

    Args:
        found: results and their files. runs: the folder they were found in, with training logs.
        skipped: files that are not results, and why; listed on the page.
        complain: called for damaged predictions, which the page lists too.
    """
    broken: dict[str, None] = {}

    def note(error: StorageError) -> None:
        if (text := str(error)) not in broken:
            broken[text] = None
            complain(error)

    results = [result for _, result in found]
    checkpoints = len(checkpoint_names(results))
    predictions = paired.beside(found, note) if checkpoints <= TESTED else None
    beside = compare_with_published(results)
    analyses, not_drawn = figures_of_analyses(found, lambda path: _read(path, note), note)
    figures, more = figures_of_scores(results, training_log.under(runs))
    courses = course.of_logs(training_log.courses_under(runs))
    analyses = [*(inline(drawn, f"course-{n}") for n, drawn in enumerate(courses, 1)), *analyses]
    summary = build_tables(layouts.load("summary"), results, predictions=predictions)
    groups = _groups(results, predictions)
    on_page = [
        *([to_html(beside.table)] if beside.table else []),
        *map(to_html, summary),
        *(table for group in groups for table in group.tables),
    ]
    values = {
        "results": len(results),
        "checkpoints": checkpoints,
        "untested": predictions is None,
        "cards": [(verdict, *BADGES[verdict], number) for verdict, number in beside.counts.items()],
        "beside": to_html(beside.table) if beside.table else None,
        "fold_beside": beside.table is not None and len(beside.table.rows) > FOLDED,
        "summary": [to_html(table) for table in summary],
        "groups": groups,
        "legend": Markup(html.legend(table.source for table in on_page)),
        "figures": figures,
        "more_figures": more,
        "analyses": analyses,
        "analyses_left": not_drawn,
        "galleries": _galleries(found, note),
        "origins": provenance(found, runs),
        "skipped": [(_within(path, runs), why) for path, why in skipped],
        "broken": list(broken),
    }
    return render(values)


def render(values: Mapping[str, Any]) -> str:
    """The page from its values; every text is escaped, and only our own style and script may run."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
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
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def to_html(table: Table) -> HtmlTable:
    """A table and its footnotes as HTML; its legend stands once on the page."""
    return HtmlTable(title=table.title, table=Markup(html.grid(table)), notes=Markup(html.notes(table)), source=table)


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
            groups.append(Group(title=protocol, name=f"table-{protocol}", tables=tuple(map(to_html, made))))
    papers = [paper for name in layouts.names() if isinstance(paper := layouts.load(name), Paper)]
    shown = [
        to_html(table)
        for paper in papers
        for table in build_tables(paper, results)  # tested in the protocols' own tables already
        if any(cell.value is not None for _, row in table.rows for cell in row)
    ]
    if shown:
        groups.append(Group(title="Papers' tables with our results", name="papers", tables=tuple(shown), folded=True))
    return groups


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
