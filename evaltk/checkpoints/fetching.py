"""Catalogued files that a command names and that are not there yet are fetched, after saying what they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from evaltk.checkpoints import catalog, locate
from evaltk.checkpoints.redirects import open_url
from evaltk.errors import DownloadError
from evaltk.progress import log

TIMEOUT_S = 10.0


def fetch_named(names: Sequence[str], *, offline: bool) -> None:
    """Fetch those of the names that are the catalogue's and have a public address, unless they are there.

    Asks for nothing: source, licence and size are said first. Where several processes start at once, the others wait
    for the one that downloads.

    Args:
        offline: fetch nothing, and let Hugging Face's libraries fetch nothing: what is not there is an error later.

    Raises: DownloadError, StorageError.
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"  # read when they are imported
        return
    if not any(_a_name(name) for name in names):
        return
    entries = catalog.load()
    for name in dict.fromkeys(names):
        entry = entries.get(name)
        if entry is None or not entry.fetchable or not _a_name(name) or catalog.local_path(entry).exists():
            continue
        size = size_of(entry.url)
        told = f", {size / 1e6:,.1f} MB" if size else ""
        log.info("fetching %s from %s%s; licence of the weights: %s", name, entry.url, told, entry.licence)
        catalog.fetch(entry)


def _a_name(name: str) -> bool:
    """Whether it is a name rather than a file or another source."""
    return ":" not in name and not locate.exists(Path(name))


def size_of(url: str) -> int | None:
    """The size that the server tells, in bytes; None where it does not answer: the download says why."""
    try:
        with open_url(url, {}, TIMEOUT_S) as response:  # closed before its body is read
            return response.length if response.status == 200 else None
    except (OSError, HTTPException, ValueError, DownloadError):
        return None
