"""Print results as one table: a row per model, a column per task.

Examples:
    evaltk table --runs runs --sort linear --models 'dino*' pixels:8
    evaltk table --format latex --rename 'runs/a=DINO' > results.tex
    evaltk table --format csv > scores.csv
    evaltk table --layout knn
    evaltk table --layout compare --models dino_vits16 mine
    evaltk table --layout paper/table2 --published-only
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evaltk.cli import _options
from evaltk.errors import SettingsError, StorageError

if TYPE_CHECKING:
    from evaltk.types import Result
    from reports.layouts import AnyLayout
    from reports.table import Table
    from reports.tables.choosing import Choice

RUNS = Path("runs")
SHOWN = 5  # skipped files to list
VIEW = "summary"
TIDY = ("csv", "json")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Print a table of results.

    Attributes:
        runs: results folder (evaltk run --out; default: runs).
        layout: summary (one row per model), all (every protocol's own), or one of evaltk ls tables.
        format: auto is terminal if stdout is one, else md; csv and json have one row per score.
        models: models to show, names or patterns such as 'dino*'; for --layout compare, the two.
        data: datasets to show.
        protocols: protocols to show.
        columns: columns to show, titles or parts of them, in this order; also GFLOPs and img/s, if asked for.
        sort: column to sort by, or model (default: the first).
        digits: decimals of percentages.
        rename: names to show.
        names: TOML file of names to show: "old" = "new".
        intervals: 95 % intervals (default: on, but for latex).
        notes: list the notes on data and settings.
        standalone: a complete document (latex) or page (html).
        published_only: print a paper's table without our results.
    """

    runs: Path | None = None
    layout: str = VIEW
    format: Literal["auto", "terminal", "md", "csv", "json", "html", "latex"] = "auto"
    models: tuple[str, ...] = field(default=(), metadata={"metavar": "NAME ..."})
    data: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    columns: tuple[str, ...] = field(default=(), metadata={"metavar": "TITLE ..."})
    sort: str = field(default="", metadata={"metavar": "TITLE"})
    digits: int | None = None
    rename: tuple[str, ...] = field(default=(), metadata={"metavar": "OLD=NEW ..."})
    names: Path | None = field(default=None, metadata={"metavar": "FILE"})
    intervals: bool = True
    notes: bool = False
    standalone: bool = False
    published_only: bool = False


def main(argv: list[str]) -> int:
    """Print them. Raises: StorageError: no results there. SettingsError: no such layout, flags that do not fit."""
    from reports import layouts
    from reports.formats import render

    options = _options.parse(Options, argv, "table", __doc__)
    layout = None if options.layout == "all" else layouts.load(options.layout)
    form = options.format if options.format != "auto" else "terminal" if sys.stdout.isatty() else "md"
    _check(options, layout, form)
    found = _found(options, layout)
    choice = _choice(options, [result for _, result in found])
    if options.layout in (VIEW, "all") and form in TIDY:
        sys.stdout.write(_tidy(found, choice, form))
        return 0
    made = _built(options, layout, found, choice)
    if form != "csv" and not (options.intervals and (form != "latex" or "--intervals" in argv)):
        made = [_without_intervals(table) for table in made]
    if form == "latex":  # how many notes there are is of no use in a paper
        made = [replace(one, footnotes=tuple(n for n in one.footnotes if not n.endswith(": --notes"))) for one in made]
    text = render.render_all(made, form)
    if options.standalone:
        from reports.formats import html, latex

        text = latex.document(render.render_parts(made, form)) if form == "latex" else html.page(text)
    sys.stdout.write(text)
    if options.layout == VIEW:
        _say_published(found)
    return 0


def _check(options: Options, layout: AnyLayout | None, form: str) -> None:
    from reports.layouts import Paper

    if options.published_only and not isinstance(layout, Paper):
        do = "evaltk table --layout paper/table2 --published-only"
        raise SettingsError(wanted="a paper's table", got=f"--layout {options.layout}", where="--published-only", do=do)
    if options.standalone and form not in ("latex", "html"):
        do = "add --format latex or html, or drop --standalone"
        raise SettingsError(wanted="latex or html", got=form, where="--standalone", do=do)
    if form == "json" and options.layout not in (VIEW, "all"):
        do = "drop --layout: JSON has every score, one object each"
        raise SettingsError(wanted="json without --layout", got=f"--layout {options.layout}", where="--format", do=do)
    if options.digits is not None and not 0 <= options.digits <= 10:
        raise SettingsError(wanted="0 to 10 decimals", got=str(options.digits), where="--digits", do="--digits 1")
    for flag in ("columns", "sort", "digits"):
        if options.layout != VIEW and getattr(options, flag) not in ((), "", None):
            do = f"drop --layout {options.layout}, or --{flag}"
            raise SettingsError(
                wanted="the table of one row per model", got=f"--layout {options.layout}", where=f"--{flag}", do=do
            )


def _found(options: Options, layout: AnyLayout | None) -> Sequence[tuple[Path, Result]]:
    from reports.layouts import Paper

    runs = options.runs or RUNS
    alone = options.published_only or (isinstance(layout, Paper) and options.runs is None and not runs.is_dir())
    found = [] if alone else _results(runs)
    if not found and not isinstance(layout, Paper):
        raise StorageError(wanted="results", got="none", where=runs, do="evaltk run CKPT --data NAME=PATH first")
    return found


def _choice(options: Options, results: Sequence[Result]) -> Choice:
    from evaltk.progress import log
    from reports.tables import choosing

    known = [str(result.checkpoint.get("name")) for result in results]
    rename, unknown = choosing.renames(options.rename, options.names, known)
    if unknown:
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        log.warning("%s: no model called %s%s", options.names, ", ".join(map(repr, unknown[:SHOWN])), more)
    return choosing.Choice(
        models=() if options.layout == "compare" else options.models,
        data=options.data,
        protocols=options.protocols,
        columns=options.columns,
        sort=options.sort,
        digits=options.digits,
        rename=rename,
    )


def _tidy(found: Sequence[tuple[Path, Result]], choice: Choice, form: str) -> str:
    from reports import tidy
    from reports.tables import choosing

    rows = tidy.rows(choosing.filtered([result for _, result in found], choice), choice.called)
    return tidy.as_csv(rows) if form == "csv" else tidy.as_json(rows)


def _built(
    options: Options, layout: AnyLayout | None, found: Sequence[tuple[Path, Result]], choice: Choice
) -> list[Table]:
    from evaltk.progress import log
    from reports import paired
    from reports.layouts import Layout, Paper
    from reports.tables import choosing
    from reports.tables.build import build_overview, build_tables

    known = choosing.filtered([result for _, result in found], choice)
    predictions = paired.beside(found, lambda error: log.warning("%s", error))
    runs = options.runs or RUNS
    if layout is None:
        made = build_overview(known, predictions=predictions)
    else:
        pair = options.models if options.layout == "compare" else ()
        made = build_tables(
            layout, known, predictions=predictions, pair=pair, notes=options.notes, costs=choice.costs()
        )
    if not made:
        wanted = f"results of the protocol {layout.protocol}" if isinstance(layout, Layout) else "results"
        if options.layout == "published":
            wanted = "results with a published counterpart"
        do = "evaltk results ls shows what there is" if options.layout == VIEW else "evaltk run first"
        raise StorageError(wanted=wanted, got=f"none among {len(found)}", where=runs, do=do)
    if isinstance(layout, Paper) and not options.published_only and all(_published_alone(t) for t in made):
        log.info("published numbers only: no results for %s in %s", layout.name, runs)
    if options.layout == VIEW:
        return [choosing.shown(table, choice) for table in made]
    return [choosing.called(table, choice) for table in made]


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


def _say_published(found: Sequence[tuple[Path, Result]]) -> None:
    """How many results have a published counterpart, and the verdicts, on stderr."""
    from evaltk.progress import log
    from reports.tables import beside_published

    if told := beside_published.counted([result for _, result in found]):
        log.info("published numbers: %s (evaltk table --layout published)", told)


def _published_alone(table: Table) -> bool:
    return all(cell.value is None for _, cells in table.rows for cell in cells)


def _without_intervals(table: Table) -> Table:
    rows = tuple((label, tuple(replace(cell, interval=None) for cell in cells)) for label, cells in table.rows)
    return replace(table, rows=rows, legend=tuple(text for text in table.legend if not text.startswith("±")))
