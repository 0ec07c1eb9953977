"""Public checkpoints as data (`catalog.toml`), and their download: resumable, pinned by sha256 at the first time.

Most authors publish no checksum, so the first download is trusted, and `pins.json` holds every later one to it. What
they do publish, a whole sha256 or the first digits of a sha256 or md5, the first download must agree with.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from evaltk import safe_json
from evaltk.checkpoints.download import download, state_path
from evaltk.errors import DownloadError, SettingsError, StorageError, nearest
from evaltk.files import make_folder, storage_errors, write_text

KINDS = ("backbone", "training", "full", "linear_head")
FIGURES = ("knn", "linear", "finetune", "class_head")
ACTIVATIONS = ("gelu", "quickgelu", "gelu_tanh", "silu", "relu")
HUB = "hf:"  # of an address on the Hugging Face hub, hf:ORG/NAME
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One public file.

    Attributes:
        name: short name, also that of its folder.
        url: http or https address, or ``hf:ORG/NAME`` for a folder on the hub; empty for a file without a public one.
        get, file: of those, how to get the file, and what it is called here.
        family: format, hence loader. arch: as a loaded checkpoint names it; empty if the catalogue does not tell.
        title, method: for tables. licence: of the weights.
        kind: ``backbone`` | ``training`` (training checkpoint whose heads have no prototypes) | ``full`` (with
            prototypes) | ``linear_head`` (ImageNet-1K classifier on frozen features).
        branch: which network of its training run the file is, where it holds just one; else empty.
        num_heads, activation, mean, std: what is particular to this file and not in its tensors; 0, empty or None
            where its family's values hold. Pixel statistics are RGB, of [0, 1].
        knn, linear, finetune: published ImageNet-1K top-1 in percent, or None. class_head: that of the file's own
            class head. source: where they were published.
        note: what else one must know.
        sha256: in hex, where it is known beforehand. sha256_prefix, md5_prefix: its first digits, where these are.
    """

    name: str
    url: str = ""
    get: str = ""
    file: str = ""
    family: str
    arch: str = ""
    title: str
    method: str
    licence: str
    kind: str = "backbone"
    branch: str = ""
    num_heads: int = 0
    activation: str = ""
    mean: Triple | None = None
    std: Triple | None = None
    knn: float | None = None
    linear: float | None = None
    finetune: float | None = None
    class_head: float | None = None
    source: str = ""
    note: str = ""
    sha256: str = ""
    sha256_prefix: str = ""
    md5_prefix: str = ""

    @property
    def fetchable(self) -> bool:
        """Whether there is a public address to download the file from."""
        return bool(self.url) and not self.url.startswith(HUB)


def load(path: Path | None = None) -> dict[str, Entry]:
    """{name: entry} of the bundled catalogue; those of `path`, a file of the same form, are added or take precedence.

    Raises: SettingsError: unreadable file, unknown or missing field, value out of range.
    """
    return _bundled() | ({} if path is None else _read(path))


@functools.cache
def _bundled() -> dict[str, Entry]:
    return _read(Path(__file__).with_name("catalog.toml"))


def find(name: str, path: Path | None = None) -> Entry:
    """The entry called `name`, in the bundled catalogue or in `path`. Raises: SettingsError: there is none."""
    entries = load(path)
    if name not in entries:
        do = near(name, entries)
        if name.startswith(HUB):
            do = f"fetch nothing: `evaltk run {name} ...` downloads it"
        raise SettingsError(wanted="the name of a catalogued checkpoint", got=repr(name), do=do)
    return entries[name]


def near(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """A hint with the closest names and the command that lists all of them, for they are many."""
    return nearest(name, known, limit=limit).partition("there are:")[0] + "evaltk ls checkpoints shows the names"


def _read(path: Path) -> dict[str, Entry]:
    do = "correct the file; evaltk/checkpoints/catalog.toml shows the form"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # bad TOML and bad UTF-8 are ValueErrors
        got = str(error)[:120]
        raise SettingsError(wanted="a catalogue in TOML", got=got, where=path, do=do) from error
    found = {part: tables.pop(part, {}) for part in ("families", "methods", "checkpoints")}
    if tables or not all(isinstance(p, dict) and all(isinstance(t, dict) for t in p.values()) for p in found.values()):
        got = f"also {', '.join(tables)}" if tables else "something that is no table"
        wanted = "tables [checkpoints.NAME], [methods.NAME] and [families.NAME]"
        raise SettingsError(wanted=wanted, got=got, where=path, do=do)
    entries = {}
    for name, own in found["checkpoints"].items():
        values = found["methods"].get(str(own.get("method")), {}) | own
        values = found["families"].get(str(values.get("family")), {}) | values
        for wanted, got in _faults(name, values):
            raise SettingsError(wanted=wanted, got=got, where=f"{path}, entry {name!r}", do=do)
        triples = {key: tuple(map(float, values[key])) for key in ("mean", "std") if key in values}
        entries[name] = Entry(name=name, **(values | triples))
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
        if wanted := _unfit(key, value):
            yield wanted, repr(value)
    yield from _address_faults(given)
    if any(key in given for key in FIGURES) and "source" not in given:
        yield "a source for the published figures", "nothing"


def _unfit(key: str, value: object) -> str:
    """What the value of a field must be, where it is not; else empty."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key in FIGURES:
        return "" if number and 0 <= value <= 100 else f"{key} in percent, from 0 to 100"  # type: ignore[operator]
    if key in ("mean", "std"):
        three = isinstance(value, list) and len(value) == 3 and all(isinstance(v, float) and 0 < v < 1 for v in value)
        return "" if three else f"{key} as three numbers between 0 and 1"
    if key == "num_heads":
        return "" if isinstance(value, int) and number and value > 0 else "num_heads as a whole number from 1"
    if not isinstance(value, str) or not value:
        return f"{key} as text"
    if key == "kind" and value not in KINDS:
        return f"a kind ({', '.join(KINDS)})"
    if key == "activation" and value not in ACTIVATIONS:
        return f"an activation ({', '.join(ACTIVATIONS)})"
    if key == "sha256" and not re.fullmatch(r"[0-9a-f]{64}", value):
        return "sha256 as 64 lower-case hexadecimal digits"
    if key in ("sha256_prefix", "md5_prefix") and not re.fullmatch(r"[0-9a-f]{4,32}", value):
        return f"{key} as 4 to 32 lower-case hexadecimal digits"
    return ""


def _address_faults(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(wanted, got) of an address that leads to no file, or of a file without an address and without a way to it."""
    url = given.get("url", "")
    if ("url" in given) == ("get" in given and "file" in given):
        yield "either a url, or a file and how to get it", "both" if url else "nothing"
    if url.startswith(HUB):
        if not re.fullmatch(r"hf:[\w.-]+/[\w.-]+", url, re.ASCII):
            yield "a url hf:ORG/NAME", repr(url)
    elif url and (not re.fullmatch(r"https?://[\w.:-]+/[!-~]+", url) or _file_name(url) in ("", "..")):
        yield "a url http(s)://HOST/FILE", repr(url)
    if "file" in given and (not re.fullmatch(r"\w[\w.-]*", given["file"], re.ASCII)):
        yield "the name of a file", repr(given["file"])


def home() -> Path:
    """Where downloads and caches live: $EVALTK_HOME, else $XDG_CACHE_HOME/evaltk, else ~/.cache/evaltk."""
    if chosen := os.environ.get("EVALTK_HOME"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "evaltk"


def _root(chosen: Path | None) -> Path:
    return home() if chosen is None else chosen


def local_path(entry: Entry, *, home: Path | None = None) -> Path:
    """Where the file of `entry` lies once it is fetched: HOME/checkpoints/NAME/FILE."""
    return _root(home) / "checkpoints" / entry.name / (entry.file or _file_name(entry.url))


def _file_name(url: str) -> str:
    return PurePosixPath(urlsplit(url).path).name


def pins(*, home: Path | None = None) -> dict[str, dict[str, Any]]:
    """{name: {url, sha256, bytes, date}} of the first download of each. Raises: StorageError: the file is damaged."""
    path = _root(home) / "pins.json"
    try:
        with storage_errors(path):
            found = safe_json.parse(path.read_text(encoding="utf-8"))
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
            those are moved to FILE.mismatch. Or there is no public address: the error says how to get the file.
        StorageError: no room, no right to write.
    """
    path = local_path(entry, home=home)
    if entry.url.startswith(HUB):
        do = f"write {entry.url} where a checkpoint is named, as in `evaltk run {entry.url} ...`, which downloads it"
        raise DownloadError(wanted="one file to download", got="a folder of the hub", where=entry.url, do=do)
    make_folder(path.parent)
    if not entry.url and not path.exists():
        do = f"{entry.get}; put the file at {path}; then `evaltk fetch {entry.name}` pins it"
        raise DownloadError(wanted="a public address", got=f"none for {entry.name}", where=entry.method, do=do)
    with _lock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            _settle(path, entry, path, _root(home))
            return path
        part = path.with_name(path.name + ".part")
        title, room = f"fetching {entry.name}", "evaltk fetch --home, or EVALTK_HOME"
        download(entry.url, part, title=title, room=room, advance=advance or (lambda count: None))
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
        if not pinned:
            _check_prefixes(file, entry, path)
        got = _compare(file, entry.sha256 or pinned, path, do)
        if got != pinned:
            date = datetime.now(UTC).isoformat(timespec="seconds")
            known[entry.name] = {"url": entry.url, "sha256": got, "bytes": file.stat().st_size, "date": date}
            write_text(root / "pins.json", json.dumps(known, indent=2, sort_keys=True) + "\n")


def _check_prefixes(file: Path, entry: Entry, path: Path) -> None:
    """Hold `file` to the digits that its authors publish. Raises: DownloadError: others; it is moved to .mismatch."""
    for name, wanted in (("md5", entry.md5_prefix), ("sha256", entry.sha256_prefix)):
        got = _digest(file, name) if wanted else ""
        if not got.startswith(wanted):
            kept = _set_aside(file, path)
            do = "run the same command again to download it anew"
            wanted = f"the {name} {wanted}..., as its authors state"
            raise DownloadError(wanted=wanted, got=f"{got[:12]}..., kept as {kept.name}", where=path, do=do)


def _digest(file: Path, name: str) -> str:
    with storage_errors(file), file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.new(name, usedforsecurity=False)).hexdigest()


def _set_aside(file: Path, path: Path) -> Path:
    there = path.with_name(path.name + ".mismatch")
    with storage_errors(there):
        return file.replace(there)


def _compare(file: Path, wanted: str, path: Path, do: str, *, aside: bool = True) -> str:
    """The sha256 of `file`; if it is not `wanted` (nor that empty), `file` is moved to PATH.mismatch where `aside`."""
    got = _digest(file, "sha256")
    if wanted and got != wanted:
        kept = f", kept as {_set_aside(file, path).name}" if aside else ""
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
