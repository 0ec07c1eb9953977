"""Print tables of results beside published numbers.

Examples:
    evaltk table --runs runs
    evaltk table --layout paper/table2 --published-only
    evaltk table --layout knn --format csv > knn.csv
    evaltk table --layout compare --checkpoints dino_vits16 mine --format latex --standalone > compare.tex
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evaltk.cli import _options
from evaltk.errors import SettingsError, StorageError

if TYPE_CHECKING:
    from evaltk.types import Result
    from reports.layouts import AnyLayout
    from reports.table import Table

RUNS = Path("runs")
SHOWN = 5  # skipped files to list


@dataclass(frozen=True, kw_only=True)
class Options:
    """Print tables of results.

    Attributes:
        runs: results folder (evaltk run --out; default: runs).
        layout: name of a layout (evaltk ls tables); default: each protocol's own.
        format: auto is terminal if stdout is one, else md.
        published_only: print a paper's table without our results.
        intervals: print 95 % intervals (always in CSV).
        standalone: a complete document (latex) or page (html).
        checkpoints: the two to compare, with --layout compare.
    """

    runs: Path | None = None
    layout: str | None = None
    format: Literal["auto", "terminal", "md", "csv", "html", "latex"] = "auto"
    published_only: bool = False
    intervals: bool = True
    standalone: bool = False
    checkpoints: tuple[str, ...] = ()


def main(argv: list[str]) -> int:
    """Print them. Raises: StorageError: no results there. SettingsError: no such layout, flags that do not fit."""
    from reports import layouts
    from reports.formats import render

    options = _options.parse(Options, argv, "table", __doc__)
    layout = layouts.load(options.layout) if options.layout else None
    form = options.format if options.format != "auto" else "terminal" if sys.stdout.isatty() else "md"
    _check(options, layout, form)
    made = _built(options, layout)
    if not options.intervals and form != "csv":
        made = [_without_intervals(table) for table in made]
    text = render.render_all(made, form)
    if options.standalone:
        from reports.formats import html, latex

        text = latex.document(render.render_parts(made, form)) if form == "latex" else html.page(text)
    sys.stdout.write(text)
    return 0


def _check(options: Options, layout: AnyLayout | None, form: str) -> None:
    from reports.layouts import Over, Paper

    if options.published_only and not isinstance(layout, Paper):
        got = f"--layout {options.layout}" if options.layout else "no --layout"
        do = "evaltk table --layout paper/table2 --published-only"
        raise SettingsError(wanted="a paper's table", got=got, where="--published-only", do=do)
    if options.standalone and form not in ("latex", "html"):
        raise SettingsError(
            wanted="latex or html",
            got=form,
            where="--standalone",
            do="add --format latex or html, or drop --standalone",
        )
    if options.checkpoints and not (isinstance(layout, Over) and layout.kind == "compare"):
        raise SettingsError(
            wanted="--layout compare",
            got=f"{options.layout}" if options.layout else "no --layout",
            where="--checkpoints",
            do="add --layout compare, or drop --checkpoints",
        )


def _built(options: Options, layout: AnyLayout | None) -> list[Table]:
    from evaltk.progress import log
    from reports import paired
    from reports.layouts import Layout, Paper
    from reports.tables.build import build_overview, build_tables

    runs = options.runs or RUNS
    alone = options.published_only or (isinstance(layout, Paper) and options.runs is None and not runs.is_dir())
    found = [] if alone else _results(runs)
    known = [result for _, result in found]
    predictions = paired.beside(found, lambda error: log.warning("%s", error))
    if layout is None:
        made = build_overview(known, predictions=predictions)
    else:
        made = build_tables(layout, known, predictions=predictions, pair=options.checkpoints)
    if not made:
        wanted = f"results of the protocol {layout.protocol}" if isinstance(layout, Layout) else "results"
        raise StorageError(wanted=wanted, got=f"none among {len(found)}", where=runs, do="evaltk run first")
    if isinstance(layout, Paper) and not options.published_only and all(_published_alone(t) for t in made):
        log.info("published numbers only: no results for %s in %s", layout.name, runs)
    return made


def _results(runs: Path) -> Sequence[tuple[Path, Result]]:
    """Results below `runs`; other JSON files are skipped with a warning."""
    from evaltk import results
    from evaltk.errors import printable
    from evaltk.progress import log

    skipped: list[tuple[Path, str]] = []
    found = list(results.find(runs, skip=lambda path, why: skipped.append((path, why))))
    for path, why in skipped[:SHOWN]:
        log.warning("skipped %s: %s", printable(str(path)), why)
    if skipped:
        more = f" ({len(skipped) - SHOWN} not listed)" if len(skipped) > SHOWN else ""
        log.warning("%d results read, %d JSON files skipped%s", len(found), len(skipped), more)
    return found


def _published_alone(table: Table) -> bool:
    return all(cell.value is None for _, cells in table.rows for cell in cells)


def _without_intervals(table: Table) -> Table:
    from dataclasses import replace

    rows = tuple((label, tuple(replace(cell, interval=None) for cell in cells)) for label, cells in table.rows)
    return replace(table, rows=rows)
