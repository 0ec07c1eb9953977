"""Files: written whole or not at all (to a neighbour first, then renamed over the target), and hashed."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from evaltk.errors import StorageError

# What the operating system says -> (what is wanted, what is there instead, what to do).
FULL = (
    "room to write",
    "no space left on the disk",
    "free some space or choose another folder, then run the same command again: what was finished is kept",
)
DENIED = ("a writable place", "permission denied", "choose a folder you may write to")
BLOCKED = ("a folder to write into", "", "choose another path")
BROKEN = ("a disk that can be written", "", "check the disk or choose another folder")
REASONS = (
    dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), FULL)
    | dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), DENIED)
    | dict.fromkeys((errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP), BLOCKED)
    | dict.fromkeys((errno.EIO, errno.ESTALE), BROKEN)
)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about `path` into one line that a user can act on."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save reports a write that failed as an error of its own, with the system's as its context.
        system = error if isinstance(error, OSError) else error.__context__
        reason = REASONS.get(system.errno or 0) if isinstance(system, OSError) else None
        if reason is None:
            raise
        wanted, got, do = reason
        raise StorageError(wanted=wanted, got=got or str(system), where=path, do=do) from error


def make_folder(path: Path) -> Path:
    """Create `path` and its parents. Raises: StorageError."""
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def check_folder(path: Path) -> None:
    """Make sure that `path` could be made and written into; nothing is made. Raises: StorageError."""
    there = _nearest(path)
    with storage_errors(path):
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        if not os.access(there, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


def free_bytes(path: Path) -> int:
    """Free space where `path` lies, or would lie once it is made."""
    return shutil.disk_usage(_nearest(path)).free


def _nearest(path: Path) -> Path:
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Write a file by `fill(stream)` so that `path` holds either its old content or all of the new.

    Raises: StorageError: no room, or no right to write there; `path` is then as it was.
    """
    make_folder(path.parent)
    # Cut, so that a name near the longest allowed one leaves room for what is added.
    part = path.with_name(f".{path.name[:32]}.{secrets.token_hex(8)}.part")
    with storage_errors(path):
        try:
            # Opened with the mode that the user's umask makes of 0o666, not tempfile's private one.
            with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), "wb") as stream:
                fill(stream)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    write(path, lambda stream: stream.write(text.encode()))


def sha256(path: Path) -> str:
    """sha256 in hex of the file's bytes, read once in order."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


WEIGHTS = re.compile(r"(\.pth\.tar|\.pth|\.pt|\.tar|\.safetensors|\.bin|\.ckpt)$")
# Names that every run gives its files: only the folder tells them apart.
OF_ANY_RUN = re.compile(
    r"(checkpoint|model|pytorch_model|weights|last|latest|best|final|teacher|student)([-_.].*)?", re.I
)


def weights_name(path: Path) -> str:
    """What a weight file is called in results: its name without the ending, after its folder's where it needs that."""
    base = WEIGHTS.sub("", path.name) or path.name
    folder = path.absolute().parent.name
    return f"{folder}/{base}" if folder and OF_ANY_RUN.fullmatch(base) else base
