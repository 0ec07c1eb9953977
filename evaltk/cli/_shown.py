"""What commands print of results: the result view on stdout, and what to type next on stderr."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaltk.types import Result


def print_tables(pairs: Sequence[tuple[Path, Result]], *, trajectory: bool = False) -> None:
    """Print the result view, for a terminal where stdout is one, else as Markdown.

    Args:
        trajectory: also the headlines against the epoch.
    """
    from evaltk.progress import log
    from reports import layouts, paired
    from reports.formats import render
    from reports.tables.build import build_tables

    predictions = paired.beside(pairs, lambda error: log.warning("%s", error))
    results = [result for _, result in pairs]
    tables = build_tables(layouts.load("summary"), results, predictions=predictions, notes=False)
    if trajectory:
        tables += build_tables(layouts.load("trajectory"), results, predictions=predictions)
    sys.stdout.write(render.render_all(tables, "terminal" if sys.stdout.isatty() else "md"))
    sys.stdout.flush()


def say_next(out: Path, pairs: Sequence[tuple[Path, Result]]) -> None:
    """Where results are and what can be done with them, on stderr."""
    from evaltk.progress import log
    from reports.tables import beside_published

    where = "" if out == Path("runs") else f" --runs {shlex.quote(str(out))}"
    if told := beside_published.counted([result for _, result in pairs]):
        log.info("published numbers: %s (evaltk table --layout published%s)", told, where)
    log.info(
        "results are in %s; every setting: evaltk table --layout all%s; a page: evaltk report%s", out, where, where
    )
