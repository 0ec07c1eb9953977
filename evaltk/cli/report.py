"""Write results as one HTML page with tables and figures.

Examples:
    evaltk report --runs runs --out report.html
    evaltk report --data photos:imagefolder=/mnt/photos    # the images are elsewhere by now
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from evaltk.cli import _options
from evaltk.errors import SettingsError, StorageError

SHOWN = 5  # skipped files to list on stderr; the page lists all


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write a self-contained HTML report.

    Attributes:
        runs: results folder (evaltk run --out); training logs below it appear in trajectories.
        out: the HTML file to write.
        title: of the page (default: its models and datasets).
        wrong: images shown per model and task, of those that are wrong with the highest confidence; 0: none.
        data: where the images of results lie, if not where they were measured.
        cache: cache folder of evaltk run (default: $EVALTK_HOME, ~/.cache/evaltk).
    """

    runs: Path = Path("runs")
    out: Path = Path("report.html")
    title: str = field(default="", metadata={"metavar": "TEXT"})
    wrong: int = 8
    data: tuple[str, ...] = field(default=(), metadata={"metavar": "[LABEL:]NAME=PATH ..."})
    cache: Path | None = None


def main(argv: list[str]) -> int:
    """Write it and print its path. Raises: StorageError: no results there, or no room to write."""
    options = _options.parse(Options, argv, "report", __doc__)
    from evaltk import files, results
    from evaltk.errors import printable
    from evaltk.progress import log

    if options.out.is_dir():
        do = f"--out {options.out / 'report.html'}"
        raise StorageError(wanted="a file to write", got="a folder", where=options.out, do=do)
    if options.wrong < 0:
        raise SettingsError(wanted="0 or more", got=str(options.wrong), where="--wrong", do="--wrong 8")
    skipped: list[tuple[Path, str]] = []
    found = list(results.find(options.runs, skip=lambda path, why: skipped.append((path, why))))
    for path, why in skipped[:SHOWN]:
        log.warning("skipped %s: %s", printable(str(path)), why)
    if skipped:
        more = f" ({len(skipped) - SHOWN} listed only in the report)" if len(skipped) > SHOWN else ""
        log.warning("%d results read, %d JSON files skipped%s", len(found), len(skipped), more)
    if not found:
        raise StorageError(wanted="results", got="none", where=options.runs, do="evaltk run CKPT --protocols knn first")
    from evaltk.checkpoints import catalog
    from evaltk.pictures.thumbnails import Finder
    from reports.page.build import build_page

    text = build_page(
        found,
        runs=options.runs,
        skipped=skipped,
        title=options.title,
        command=shlex.join(["evaltk", "report", *argv]),
        complain=lambda error: log.warning("%s", error),
        find=Finder.of(options.data, options.cache or catalog.home()),
        wrong=options.wrong,
    )
    files.write_text(options.out, text)
    print(options.out)
    return 0
