"""Print tables of results beside published numbers, as Markdown or CSV.

Examples:
    evaltk table --runs runs
    evaltk table --layout knn --format csv > knn.csv
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evaltk.errors import StorageError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Print tables of results.

    Attributes:
        runs: folder that `evaltk run --out` wrote.
        layout: one layout (evaltk ls tables); default: every protocol's own.
        format: md or csv.
    """

    runs: Path = Path("runs")
    layout: str | None = None
    format: Literal["md", "csv"] = "md"


def main(argv: list[str]) -> int:
    """Print them. Raises: StorageError: no results there. SettingsError: no such layout."""
    import tyro

    from evaltk import results
    from reports import ink, layouts, tables

    options = tyro.cli(Options, args=argv, prog="evaltk table", description=__doc__)
    layout = layouts.load(options.layout) if options.layout else None
    found = [result for _, result in results.find(options.runs)]
    made = tables.build(layout, found) if layout else tables.overview(found)
    if not made:
        wanted = f"results of the protocol {layout.protocol}" if layout else "results"
        raise StorageError(wanted=wanted, got=f"none among {len(found)}", where=options.runs, do="evaltk run first")
    texts = [ink.ink(table, options.format) for table in made]
    if options.format == "csv":  # one header for all tables
        texts = [texts[0], *(text.partition("\n")[2] for text in texts[1:])]
    sys.stdout.write("".join(texts) if options.format == "csv" else "\n".join(texts))
    return 0
