"""The page of results with the pictures of `evaltk show` in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaltk.errors import StorageError, printable

if TYPE_CHECKING:
    from evaltk.types import Result
    from reports.pictures.album import Album
    from reports.pictures.page import Section

PAGE_BYTES = 4_800_000  # of the page, as far as smaller photographs can keep to it
TOKEN = "PHOTOGRAPHS-OF-EVALTK-SHOW"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Results below a folder, and the files there that are none, with the reasons."""

    runs: Path
    found: Sequence[tuple[Path, Result]]
    skipped: Sequence[tuple[Path, str]]


def measured(runs: Path) -> Measured:
    """Read the results. Raises: StorageError: there are none."""
    from evaltk import results
    from evaltk.progress import log

    skipped: list[tuple[Path, str]] = []
    found = list(results.find(runs, skip=lambda path, why: skipped.append((path, why))))
    if not found:
        raise StorageError(wanted="results", got="none", where=runs, do="evaltk run CKPT --protocols knn first")
    for path, why in skipped:
        log.warning("skipped %s: %s", printable(str(path)), why)
    return Measured(runs=runs, found=found, skipped=skipped)


def page(results: Measured, sections: Sequence[Section], album: Album, command: str, **told: Any) -> str:
    """The report with the pictures in it; photographs take what is left of `PAGE_BYTES`, at most their usual room.

    Args:
        told: title, checkpoints and notes of the pictures, see `reports.pictures.page.inset`.
    """
    from markupsafe import Markup

    from evaltk.progress import log
    from reports.page.build import build_page
    from reports.pictures import album as albums
    from reports.pictures import page as pictures

    text = build_page(
        results.found,
        runs=results.runs,
        skipped=results.skipped,
        command=command,
        complain=lambda error: log.warning("%s", error),
        pictures=pictures.inset(sections, Markup(TOKEN), **told),
    )
    room = max(0, min(albums.BYTES, PAGE_BYTES - len(text.encode())))
    return text.replace(TOKEN, album.symbols(room), 1)
