"""From what a user calls a checkpoint, a path or a catalogue name, to its file and the sha256 of its bytes.

The one place that does so: planning, loading and published heads all get the same file and the same message. Without
torch, so that a result that exists is recognised quickly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from evaltk import files
from evaltk.checkpoints import catalog
from evaltk.errors import CheckpointError

WANTED = "a weight file (.pth, .pt, .pth.tar, .safetensors) or a catalogue name"
# How files start that are something else: (first bytes, what they are, what to do).
IMPOSTORS = (
    (b"<", "a web page", "download the file itself, not the page about it"),
    (b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` to get the file itself"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A weight file.

    Attributes:
        name: what results call it: its catalogue name, or the file's name without the ending.
        sha256: of its bytes, in hex. catalogued: whether the user named it as the catalogue does.
    """

    name: str
    path: Path
    sha256: str
    catalogued: bool = False


def locate(checkpoint: str | Path) -> Located:
    """The file that a path or a catalogue name stands for, hashed.

    Raises:
        CheckpointError: no such file or name, a catalogue name that was not fetched, or what cannot be a weight file.
        DownloadError: a fetched file whose bytes are not the pinned ones; it is left where it is.
    """
    name, path = str(checkpoint), Path(checkpoint)
    if name.startswith("~/"):  # as after `--linear.head=`, where a shell leaves it
        path = path.expanduser()
    if not exists(path):
        entries = catalog.load()
        if name in entries:
            path = catalog.local_path(entries[name])
            if not path.exists():
                do = f"run: evaltk fetch {name}"
                raise CheckpointError(wanted=f"the fetched file of {name}", got="none", where=path, do=do)
            check_file(path)
            return Located(name=name, path=path, sha256=catalog.verify(path, name, aside=False), catalogued=True)
        if re.fullmatch(r"\w+", name):  # no path looks like this, a mistyped name does
            do = f"{catalog.near(name, entries, limit=1)}; or name a file"
            raise CheckpointError(wanted=WANTED, got=repr(name), where=name, do=do)
    check_file(path)
    return Located(name=files.weights_name(path), path=path, sha256=sha256(path))


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; a name that no file can have is none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def check_file(path: Path) -> None:
    """Refuse what cannot be a weight file, by its first bytes. Raises: CheckpointError."""
    try:
        if path.is_dir():
            inside = sorted(p.name for p in path.iterdir())[:5]
            do = "name one file inside it"
            raise CheckpointError(wanted=WANTED, got=f"a folder holding {inside}", where=path, do=do)
        if not path.is_file():
            got = "something that is no plain file" if path.exists() else "no such file"
            do = "check the path; `evaltk ls checkpoints` shows the names that can be fetched"
            raise CheckpointError(wanted=WANTED, got=got, where=path, do=do)
        with path.open("rb") as stream:
            start = stream.read(512)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not start:
        raise CheckpointError(wanted=WANTED, got="an empty file", where=path, do="download it again")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for first, what, do in IMPOSTORS:
        if text.startswith(first):
            title = re.sub(rb"\s+", b" ", text)[:60].decode(errors="replace")
            raise CheckpointError(wanted=WANTED, got=f"{what} ({title!r})", where=path, do=do)


def sha256(path: Path) -> str:
    """sha256 in hex of the file's bytes. Raises: CheckpointError: it cannot be read."""
    try:
        return files.sha256(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    do = "check the path and your right to read it"
    return CheckpointError(wanted=WANTED, got=error.strerror or str(error), where=str(path)[:200], do=do)
