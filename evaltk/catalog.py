"""Public checkpoints as data (`catalog.toml`), and their download: resumable, pinned by sha256 at the first time.

Their authors publish no checksums, so the first download is trusted, and `pins.json` holds every later one to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, datetime
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from evaltk import progress
from evaltk.atomic import make_folder, storage_errors, write_text
from evaltk.errors import DownloadError, EvaltkError, SettingsError, StorageError, nearest

KINDS = ("backbone", "full", "linear_head")
FIGURES = ("knn", "linear", "finetune")
TRIES, WAIT_S, TIMEOUT_S = 5, 1.0, 30.0  # tries that get no further; first pause, doubled each time; silence allowed
PASSING = {408, 425, 429, 500, 502, 503, 504}  # statuses that may be gone at the next try
BLOCK = 1 << 20  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One public file.

    Attributes:
        name: short name, also that of its folder. url: http or https address. family: format, hence loader.
        arch: timm's name where timm has one. title, method: for tables. licence: of the weights.
        kind: ``backbone`` | ``full`` (with heads) | ``linear_head`` (ImageNet-1K classifier on frozen features).
        branch: which network of its training run the file is, where it holds just one; else empty.
        knn, linear, finetune: published ImageNet-1K top-1 in percent, or None. source: where they were published.
        note: what else one must know. sha256: in hex, where it is known beforehand.
    """

    name: str
    url: str
    family: str
    arch: str
    title: str
    method: str
    licence: str
    kind: str = "backbone"
    branch: str = ""
    knn: float | None = None
    linear: float | None = None
    finetune: float | None = None
    source: str = ""
    note: str = ""
    sha256: str = ""


def load(path: Path | None = None) -> dict[str, Entry]:
    """{name: entry} of the bundled catalogue; those of `path`, a file of the same form, are added or take precedence.

    Raises: SettingsError: unreadable file, unknown or missing field, value out of range.
    """
    entries = _read(Path(__file__).with_name("catalog.toml"))
    return entries if path is None else entries | _read(path)


def find(name: str, path: Path | None = None) -> Entry:
    """The entry called `name`, in the bundled catalogue or in `path`. Raises: SettingsError: there is none."""
    entries = load(path)
    if name not in entries:
        raise SettingsError(wanted="the name of a catalogued checkpoint", got=repr(name), do=nearest(name, entries))
    return entries[name]


def _read(path: Path) -> dict[str, Entry]:
    do = "mend the file; evaltk/catalog.toml shows the form"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise SettingsError(wanted="a catalogue in TOML", got=str(error), where=path, do=do) from error
    shared, given = tables.pop("families", {}), tables.pop("checkpoints", {})
    groups = [shared, given, *(group.values() for group in (shared, given) if isinstance(group, dict))]
    flat = [item for group in groups for item in (group if not isinstance(group, dict) else [group])]
    if tables or not all(isinstance(item, dict) for item in flat):
        got = f"also {', '.join(tables)}" if tables else "something else"
        raise SettingsError(wanted="tables [checkpoints.NAME] and [families.NAME]", got=got, where=path, do=do)
    entries = {}
    for name, own in given.items():
        values = shared.get(str(own.get("family")), {}) | own
        for wanted, got in _faults(name, values):
            raise SettingsError(wanted=wanted, got=got, where=f"{path}, entry {name!r}", do=do)
        entries[name] = Entry(name=name, **values)
    return entries


def _faults(name: str, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(wanted, got) of what is wrong with an entry; a later check relies on the earlier ones."""
    required = {f.name: f.default is MISSING for f in fields(Entry) if f.name != "name"}
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        yield "a name of letters, digits, '_', '-' and '.'", repr(name)  # it becomes a folder
    for key in given:
        if key not in required:
            yield "a field of the catalogue", f"{key!r}; {nearest(key, required)}"
    for key in required:
        if required[key] and key not in given:
            yield f"the field {key!r}", "nothing"
    for key, value in given.items():
        if key in FIGURES:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
                yield f"{key} in percent, from 0 to 100", repr(value)
        elif not isinstance(value, str) or not value:
            yield f"{key} as text", repr(value)
    if not re.fullmatch(r"https?://[^\s/?#\[\]]+/([^\s?#]*/)?[^\s/?#]*[^\s/?#.][^\s/?#]*(\?\S*)?", given["url"]):
        yield "a url http(s)://HOST/FILE", repr(given["url"])
    if given.get("kind", KINDS[0]) not in KINDS:
        yield f"a kind ({', '.join(KINDS)})", repr(given["kind"])
    if not re.fullmatch(r"([0-9a-f]{64})?", given.get("sha256", "")):
        yield "sha256 as 64 lower-case hexadecimal digits", repr(given["sha256"])
    if any(key in given for key in FIGURES) and "source" not in given:
        yield "a source for the published figures", "nothing"


def home() -> Path:
    """Where downloads and caches live: $EVALTK_HOME, else $XDG_CACHE_HOME/evaltk, else ~/.cache/evaltk."""
    if chosen := os.environ.get("EVALTK_HOME"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "evaltk"


def _root(chosen: Path | None) -> Path:
    return home() if chosen is None else chosen


def local_path(entry: Entry, *, home: Path | None = None) -> Path:
    """Where the file of `entry` lies once it is fetched: HOME/checkpoints/NAME/FILE."""
    return _root(home) / "checkpoints" / entry.name / PurePosixPath(urlsplit(entry.url).path).name
