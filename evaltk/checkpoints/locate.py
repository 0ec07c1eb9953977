"""From what a user calls a checkpoint, a path, a catalogue name or `hf:ORG/NAME`, to its files and their sha256.

The one place that does so: planning, loading and published heads all get the same file and the same message. Without
torch, so that a result that exists is recognised quickly.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evaltk import files
from evaltk.checkpoints import catalog, folder, foreign_files, hub
from evaltk.checkpoints.foreign_files import WANTED
from evaltk.errors import CheckpointError


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A weight file, or a folder with weights and their config.

    Attributes:
        name: what results call it: its catalogue name, or the file's or folder's name without the ending.
        sha256: of its bytes, in hex; over config and weights where there is a config (`folder.digest`).
        weights: sha256 of each weight file. catalogued: whether the user named it as the catalogue does.
        origin: where it is from, with the commit: ``hf:ORG/NAME@COMMIT``; empty for a path.
    """

    name: str
    path: Path
    sha256: str
    weights: tuple[str, ...] = ()
    catalogued: bool = False
    origin: str = ""


def locate(checkpoint: str | Path) -> Located:
    """The file or folder that a path, a catalogue name or `hf:ORG/NAME[@REVISION]` stands for, hashed.

    Raises:
        CheckpointError: no such file or name, a catalogue name that was not fetched, or what cannot be a weight file.
        DownloadError: a fetched file whose bytes are not the pinned ones; it is left where it is. Or `hub.snapshot`'s.
    """
    name, path = str(checkpoint), Path(checkpoint)
    if name.startswith("~/"):  # as after `--linear.head=`, where a shell leaves it
        path = path.expanduser()
    if not exists(path):
        if name.startswith(hub.SCHEME):
            snapshot = hub.snapshot(name)
            return at(snapshot.path, name=snapshot.name, origin=snapshot.origin)
        entries = catalog.load()
        if name in entries and entries[name].url.startswith(catalog.HUB):
            snapshot = hub.snapshot(entries[name].url)
            return at(snapshot.path, name=name, origin=snapshot.origin)
        if name in entries:
            path = catalog.local_path(entries[name])
            if not path.is_file():
                do = f"run: evaltk fetch {name}"
                raise CheckpointError(wanted=f"the fetched file of {name}", got="none", where=path, do=do)
            try:
                sha = catalog.verify(path, name, aside=False)
            except OSError as error:
                raise _unreadable(path, error) from error
            check_file(path)
            return Located(name=name, path=path, sha256=sha, weights=(sha,), catalogued=True)
        if re.fullmatch(r"\w+", name):  # no path looks like this, a mistyped name does
            do = f"{catalog.near(name, entries, limit=1)}; or name a file"
            raise CheckpointError(wanted=WANTED, got=repr(name), where=name, do=do)
    return at(path)


def check(checkpoint: str) -> None:
    """Refuse at first sight what `locate` would refuse, without hashing a file, downloading, or torch.

    Sources with a colon (``timm:``, ``random:``, ``hf:``) pass. Raises: CheckpointError.
    """
    path = Path(checkpoint).expanduser() if checkpoint.startswith("~/") else Path(checkpoint)
    if exists(path):
        check_file(path)
    elif ":" not in checkpoint and checkpoint not in (entries := catalog.load()):
        if re.fullmatch(r"\w+", checkpoint):
            do = f"{catalog.near(checkpoint, entries, limit=1)}; or name a file"
            raise CheckpointError(wanted=WANTED, got=repr(checkpoint), where=checkpoint, do=do)
        check_file(path)


def check_first(argv: Sequence[str]) -> None:
    """Refuse files and names before the first flag that are not there, as `check` does. Raises: CheckpointError."""
    for word in itertools.takewhile(lambda word: not word.startswith("-"), argv):
        pattern = any(letter in word for letter in "*?[")
        if "=" not in word and not pattern and not exists(Path(word)):
            check(word)


def at(path: Path, *, name: str = "", origin: str = "") -> Located:
    """The file or folder at a path, checked and hashed. Raises: CheckpointError."""
    check_file(path)
    try:
        source = folder.of(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    lone = path.is_dir() and source.config is None and len(source.weights) == 1
    if lone:
        path = source.weights[0]
    for file in source.weights:
        check_file(file)
    digest, weights = folder.digest(source, sha256)
    name = name or hub.name_of(path) or files.weights_name(path)
    return Located(name=name, path=path, sha256=digest, weights=weights, origin=origin)


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; a name that no file can have is none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def check_file(path: Path) -> None:
    """Refuse what cannot be a weight file, by its first bytes; folders pass. Raises: CheckpointError."""
    try:
        if path.is_dir():
            return
        if not path.is_file():
            got = "something that is no plain file" if path.exists() else "no such file"
            do = "check the path; `evaltk ls checkpoints` shows the names that can be fetched"
            raise CheckpointError(wanted=WANTED, got=got, where=path, do=do)
        with path.open("rb") as stream:
            start = stream.read(foreign_files.START)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not start:
        raise CheckpointError(wanted=WANTED, got="an empty file", where=path, do="download it again")
    foreign_files.refuse(path, start)


def sha256(path: Path) -> str:
    """sha256 in hex of the file's bytes. Raises: CheckpointError: it cannot be read."""
    try:
        return files.sha256(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    do = "check the path and your right to read it"
    return CheckpointError(wanted=WANTED, got=error.strerror or str(error), where=str(path)[:200], do=do)
