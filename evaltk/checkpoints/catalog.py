"""Public checkpoints as data (`catalog.toml`), and their download: resumable, pinned by sha256 at the first time.

Their authors publish no checksums, so the first download is trusted, and `pins.json` holds every later one to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from evaltk.checkpoints.download import download, state_path
from evaltk.errors import DownloadError, SettingsError, StorageError, nearest
from evaltk.files import make_folder, storage_errors, write_text

KINDS = ("backbone", "full", "linear_head")
FIGURES = ("knn", "linear", "finetune")


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
    do = "correct the file; evaltk/checkpoints/catalog.toml shows the form"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise SettingsError(wanted="a catalogue in TOML", got=str(error), where=path, do=do) from error
    found = {part: tables.pop(part, {}) for part in ("families", "checkpoints")}
    if tables or not all(isinstance(p, dict) and all(isinstance(t, dict) for t in p.values()) for p in found.values()):
        got = f"also {', '.join(tables)}" if tables else "something that is no table"
        raise SettingsError(wanted="tables [checkpoints.NAME] and [families.NAME]", got=got, where=path, do=do)
    entries = {}
    for name, own in found["checkpoints"].items():
        values = found["families"].get(str(own.get("family")), {}) | own
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
    if not re.fullmatch(r"https?://[\w.:-]+/[!-~]+", given["url"]) or _file_name(given["url"]) in ("", ".."):
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
    return _root(home) / "checkpoints" / entry.name / _file_name(entry.url)


def _file_name(url: str) -> str:
    return PurePosixPath(urlsplit(url).path).name


def pins(*, home: Path | None = None) -> dict[str, dict[str, Any]]:
    """{name: {url, sha256, bytes, date}} of the first download of each. Raises: StorageError: the file is damaged."""
    path = _root(home) / "pins.json"
    try:
        with storage_errors(path):
            found = json.loads(path.read_text(encoding="utf-8"))
        return {name: {**pin, "sha256": str(pin["sha256"])} for name, pin in found.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        do = "restore it from a copy, or delete it: the files are then trusted as they are and pinned anew"
        raise StorageError(wanted="recorded sha256s", got="a damaged file", where=path, do=do) from error


def pinned(sha256: str, *, home: Path | None = None) -> Entry | None:
    """The catalogued file with these bytes, by the catalogue's own sha256s and the pins; None where there is none.

    Damaged pins prove nothing, and are no error here: `fetch` and `verify` report them.
    """
    if not sha256:
        return None
    known, there = load(), {}
    with suppress(StorageError):
        there = pins(home=home)
    names = [name for name, entry in known.items() if sha256 in (entry.sha256, there.get(name, {}).get("sha256"))]
    return known[names[0]] if names else None


def verify(path: Path, name: str, *, home: Path | None = None, aside: bool = True) -> str:
    """The sha256 of `path` in hex, which is the one pinned for `name`.

    Raises: DownloadError: another sha256, the file is then moved to FILE.mismatch (left where it is unless `aside`); or
        nothing was pinned.
    """
    pin = pins(home=home).get(name)
    if pin is None:
        where = _root(home) / "pins.json"
        raise DownloadError(wanted=f"a pinned sha256 of {name}", got="none", where=where, do=f"evaltk fetch {name}")
    return _compare(path, pin["sha256"], path, f"evaltk fetch {name} downloads it again", aside=aside)


def fetch(entry: Entry, *, home: Path | None = None, advance: Callable[[int], None] | None = None) -> Path:
    """The local file of `entry`, downloaded unless it is there; its sha256 is pinned, or equal to the pinned one.

    A broken download resumes where it stopped, now and at the next call. Processes that want the same file wait for
    the one that downloads it.

    Args:
        home: instead of `home()`. advance: called with the number of bytes of every block received.

    Raises:
        DownloadError: no answer, another status, a web page, a body cut off, or bytes that are not the pinned ones;
            those are moved to FILE.mismatch.
        StorageError: no room, no right to write.
    """
    path = local_path(entry, home=home)
    make_folder(path.parent)
    with _lock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            _settle(path, entry, path, _root(home))
            return path
        part = path.with_name(path.name + ".part")
        download(entry.url, part, title=f"fetching {entry.name}", advance=advance or (lambda count: None))
        _settle(part, entry, path, _root(home))
        with storage_errors(path):
            part.replace(path)
        state_path(part).unlink(missing_ok=True)
    return path


def _settle(file: Path, entry: Entry, path: Path, root: Path) -> None:
    """Hold `file`, which is or becomes `path`, to the known sha256 of `entry`, or pin the one it has."""
    with _lock(root / ".pins.lock"):
        known = pins(home=root)
        pinned = known.get(entry.name, {}).get("sha256", "")
        do = "run the same command again to download it anew"
        if not entry.sha256:
            do += f"; if its authors changed the file and you trust it, delete {entry.name!r} from {root / 'pins.json'}"
        got = _compare(file, entry.sha256 or pinned, path, do)
        if got != pinned:
            date = datetime.now(UTC).isoformat(timespec="seconds")
            known[entry.name] = {"url": entry.url, "sha256": got, "bytes": file.stat().st_size, "date": date}
            write_text(root / "pins.json", json.dumps(known, indent=2, sort_keys=True) + "\n")


def _compare(file: Path, wanted: str, path: Path, do: str, *, aside: bool = True) -> str:
    """The sha256 of `file`; if it is not `wanted` (nor that empty), `file` is moved to PATH.mismatch where `aside`."""
    with storage_errors(file), file.open("rb") as stream:
        got = hashlib.file_digest(stream, "sha256").hexdigest()
    if wanted and got != wanted:
        kept = ""
        if aside:
            there = path.with_name(path.name + ".mismatch")
            with storage_errors(there):
                file.replace(there)
            kept = f", kept as {there.name}"
        raise DownloadError(wanted=f"sha256 {wanted}", got=f"{got}{kept}", where=path, do=do)
    return got


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time; the others wait, and then find the work done."""
    with storage_errors(path):
        stream = path.open("ab")
    with stream:
        with suppress(ImportError, OSError):  # Windows has no fcntl, some network disks have no locks
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
