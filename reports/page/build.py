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
from evaltk.results import read_predictions
from evaltk.types import Result
from reports import comparable, layouts, paired
from reports.figures import training_log
from reports.formats import html
from reports.layouts import Paper
from reports.page.figures import figures_of_analyses, figures_of_scores
from reports.page.galleries import GALLERY_ARRAYS, Gallery, build_gallery, bytes_per_gallery
from reports.page.provenance import provenance
from reports.page.verdicts import NO_PUBLISHED, checkpoint_names, compare_with_published
from reports.published import verdicts
from reports.table import Table
from reports.tables.build import build_tables

TESTED = 20  # checkpoints above which nothing is tested on the page: thousands of comparisons take too long
FOLDED = 40  # lines above which the table of verdicts is behind a click
TEMPLATES = Path(__file__).with_name("templates")
BADGES = {  # verdict: (class, what it says)
    verdicts.REPRODUCED: ("reproduced", "within the protocol's tolerance or our interval"),
    verdicts.OFF: ("off", "measured in the same way, but further off"),
    verdicts.NOT_COMPARABLE: ("not-comparable", "measured in another way; the tables say what differs"),
    NO_PUBLISHED: ("alone", "results of which no paper or README that is known here prints a number"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inked:
    """A table as HTML, and what stands below it."""

    title: str
    table: Markup
    notes: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tables under one heading. `folded`: behind a click."""

    title: str
    name: str
    tables: tuple[Inked, ...]
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
        found: results and where they lie. runs: the folder they were found in; training logs lie below it too.
        skipped: files that are no results, and why: named on the page.
        complain: is told of damaged predictions; the page says so too.
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
    analyses, not_drawn = figures_of_analyses(found, lambda path: _read(path, note))
    figures, more = figures_of_scores(results, training_log.under(runs))
    summary = build_tables(layouts.load("summary"), results, predictions=predictions)
    told = {
        "results": len(results),
        "checkpoints": checkpoints,
        "untested": predictions is None,
        "cards": [(verdict, *BADGES[verdict], number) for verdict, number in beside.counts.items()],
        "beside": inked(beside.table) if beside.table else None,
        "fold_beside": beside.table is not None and len(beside.table.rows) > FOLDED,
        "summary": [inked(table) for table in summary],
        "groups": _groups(results, predictions),
        "figures": figures,
        "more_figures": more,
        "analyses": analyses,
        "analyses_left": not_drawn,
        "galleries": _galleries(found, note),
        "origins": provenance(found, runs),
        "skipped": [(_within(path, runs), why) for path, why in skipped],
        "broken": list(broken),
    }
    return render(told)


def render(told: Mapping[str, Any]) -> str:
    """The template with `told` in it; every text is escaped, only style and script of our own may run."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = {
        "default-src": "'none'",
        "style-src": f"'{_digest(style)}'",
        "script-src": f"'{_digest(script)}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            told,
            style=Markup(style),
            script=Markup(script),
            policy="; ".join(f"{key} {value}" for key, value in policy.items()),
        )
    )


@functools.cache
def environment() -> jinja2.Environment:
    """Templates that escape what they print and fail where a name is missing."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def inked(table: Table) -> Inked:
    """A table in the words of `html_table`."""
    text, end, notes = html.render(table).partition("</table>\n")
    return Inked(title=table.title, table=Markup(text + end), notes=Markup(notes))


def _shown(value: object) -> object:
    """What the template prints: on one line, without control characters, unless it is markup of ours."""
    return value if isinstance(value, Markup | jinja2.Undefined) else printable(str(value))


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _groups(results: Sequence[Result], predictions: paired.Predictions | None) -> list[Group]:
    """The tables of each protocol, then those of papers in which a number of ours has a place."""
    groups = []
    for protocol, layout in layouts.protocols().items():
        made = build_tables(layout, results, predictions=predictions)
        if made:
            groups.append(Group(title=protocol, name=f"table-{protocol}", tables=tuple(map(inked, made))))
    papers = [paper for name in layouts.names() if isinstance(paper := layouts.load(name), Paper)]
    shown = [
        inked(table)
        for paper in papers
        for table in build_tables(paper, results)  # the protocols' own tables test the same numbers already
        if any(cell.value is not None for _, row in table.rows for cell in row)
    ]
    if shown:
        groups.append(Group(title="Papers' tables, ours in place", name="papers", tables=tuple(shown), folded=True))
    return groups


def _galleries(
    found: Sequence[tuple[Path, Result]], note: Callable[[StorageError], object]
) -> list[tuple[str, Gallery | None]]:
    """(checkpoint and data set, its gallery; None: it does not fit) of results that have one."""
    names = checkpoint_names([result for _, result in found])
    mine = [(path, result) for path, result in found if result.protocol == "prototypes"]
    made = []
    for path, result in mine:
        arrays = _read(path, note, GALLERY_ARRAYS)
        if "gallery_images" in arrays:
            title = f"{names[comparable.identity(result)]} on {result.data.name}"
            made.append((title, build_gallery(title, arrays, bytes_per_gallery(mine))))
    return made


def _read(
    path: Path, note: Callable[[StorageError], object], names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """The arrays beside a result; {} where there are none or they are damaged, which is noted."""
    try:
        return read_predictions(path, names)
    except StorageError as error:
        note(error)
        return {}


def _within(path: Path, runs: Path) -> str:
    return str(path.relative_to(runs) if path.is_relative_to(runs) else path)
