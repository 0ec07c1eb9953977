"""What a folder holds: class folders, images in torchvision's order, and counts of the files that are not read."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TypeAlias

from evaltk.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's ImageFolder
# What else Pillow decodes and people have.
READABLE = (*EXTENSIONS, ".gif", ".jfif", ".jpe", ".pbm", ".pnm", ".dib", ".avif", ".jp2", ".j2k")
# Besides names that begin with a dot: what systems leave in folders.
SYSTEM = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "Thumbs.db"})
OUTSIDE = "outside of the class folders"
Left: TypeAlias = Mapping[str, int]  # kind: files that are not read
Seen = tuple[str, int, int]  # a file's path below the folder, its bytes, modified in ns


def suffixes(show: str) -> tuple[str, ...]:
    """The suffixes of images for a way of reading: torchvision's for ``as-reference``, else all that can be read."""
    return EXTENSIONS if show == "as-reference" else READABLE


def is_hidden(name: str) -> bool:
    """Whether a file or folder is a system's own: ``.cache``, ``._cat.jpg``, ``__MACOSX``."""
    return name.startswith(".") or name in SYSTEM


def kind_of(name: str) -> str:
    """How a file that is not read is counted: ``hidden``, or its suffix."""
    return "hidden" if is_hidden(name) else PurePath(name).suffix.lower() or "without suffix"


def told(left: Left) -> str:
    """``3 hidden, 2 .heic``, or "" for none."""
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(left.items()))


def class_folders(folder: Path, *, get: str) -> list[str]:
    """Names of the class folders under `folder`, sorted. Raises: DataError: no such folder, or none inside."""
    if not folder.is_dir():
        raise DataError(wanted="a folder of class folders", got="no such folder", where=folder, do=get)
    try:
        names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not is_hidden(e.name))
    except OSError as error:
        raise DataError(wanted="a folder that can be read", got=str(error), where=folder, do=get) from error
    if not names:
        files = sum(1 for _ in os.scandir(folder))
        raise DataError(
            wanted="class folders (CLASS/IMAGE.jpg)", got=f"none among {files} entries", where=folder, do=get
        )
    return names


def beside(folder: Path, suffixes: Sequence[str]) -> Counter[str]:
    """What lies beside the class folders of `folder`: images, and hidden files and folders."""
    left: Counter[str] = Counter()
    for entry in os.scandir(folder):
        if is_hidden(entry.name):
            left["hidden"] += _files_below(Path(entry.path)) if entry.is_dir(follow_symlinks=False) else 1
        elif entry.is_file() and entry.name.lower().endswith(tuple(suffixes)):
            left[OUTSIDE] += 1
    return left


def walk(folder: Path, suffixes: Sequence[str]) -> tuple[list[Seen], Counter[str]]:
    """The images below a folder, in torchvision's order: by folder, then by name; and the files that are none.

    Hidden files and folders are left out.

    Raises: DataError: a folder that cannot be read, a link that leads nowhere or back up.
    """
    below: list[tuple[str, list[str]]] = []
    found: list[Seen] = []
    left: Counter[str] = Counter()
    try:
        for here, inside, names in os.walk(folder, onerror=_raise, followlinks=True):
            real = Path(here).resolve()
            if here != str(folder) and Path(here).parent.resolve().is_relative_to(real):
                raise OSError(errno.ELOOP, "a link back to a folder above it", here)
            for name in [name for name in inside if is_hidden(name)]:
                inside.remove(name)
                left["hidden"] += _files_below(Path(here, name))
            images = sorted(n for n in names if n.lower().endswith(tuple(suffixes)) and not is_hidden(n))
            left.update(kind_of(name) for name in set(names) - set(images))
            below.append((here, images))
        for here, names in sorted(below):
            for name in names:
                path = f"{here}{os.sep}{name}"
                stat = Path(path).stat()
                found.append((path[len(str(folder)) + 1 :], stat.st_size, stat.st_mtime_ns))
    except OSError as error:
        raise DataError(
            wanted="folders and files that can be read",
            got=str(error.strerror),
            where=error.filename or folder,
            do="restore it, or remove it (is it a broken link?)",
        ) from error
    return found, left


def _files_below(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def _raise(error: OSError) -> None:
    raise error
