"""Atomic file writes (to a temporary file, then renamed over the target), hashes, and storage errors."""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from evaltk import owned
from evaltk.errors import StorageError

TRIES = 3  # of a write whose folder vanishes

# errno -> (wanted, got, do) of a StorageError.
FULL = (
    "space to write",
    "no space left on the disk",
    "free some space or choose another folder, then rerun the same command: finished work is kept",
)
DENIED = ("a writable folder", "permission denied", "choose a folder you can write to")
BLOCKED = ("a folder to write into", "", "choose another path")
BROKEN = ("a disk that can be written", "", "check the disk or choose another folder")
GONE = ("a file or folder that stays", "", "see what removed or renamed it, then rerun the same command")
OTHER = ("the operating system to read or write", "", "see what it says, then rerun the same command")
REASONS = (
    dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), FULL)
    | dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), DENIED)
    | dict.fromkeys((errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP), BLOCKED)
    | dict.fromkeys((errno.EIO, errno.ESTALE), BROKEN)
)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's errors about `path` into a StorageError that a user can act on."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save raises its own error for a failed write, with the system's error as context.
        system = error if isinstance(error, OSError) else error.__context__
        reason = REASONS.get(system.errno or 0) if isinstance(system, OSError) else None
        if reason is None:
            raise
        wanted, got, do = reason
        raise StorageError(wanted=wanted, got=got or str(system), where=path, do=do) from error


def unforeseen(error: OSError) -> StorageError | None:
    """What to tell of an error of the operating system that nothing else has caught; None where it names no file."""
    if error.errno is None or error.filename is None:
        return None
    wanted, got, do = GONE if error.errno == errno.ENOENT else REASONS.get(error.errno, OTHER)
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else error.filename
    return StorageError(wanted=wanted, got=got or os.strerror(error.errno), where=where, do=do)


def make_folder(path: Path) -> Path:
    """Create `path` and its parents. Raises: StorageError."""
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def check_folder(path: Path) -> None:
    """Check that `path` could be created and written to, without creating it. Raises: StorageError."""
    existing = _nearest_existing(path)
    with storage_errors(path):
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        if not os.access(existing, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(existing))


def free_bytes(path: Path) -> int:
    """Free bytes on the disk that `path` is on, or would be on once created."""
    return shutil.disk_usage(_nearest_existing(path)).free


def below(folder: Path, pattern: str) -> list[Path]:
    """The files below `folder` whose names match, sorted; a folder that another program removes meanwhile has none."""
    walked = os.walk(folder)  # Path.rglob raises where a folder vanishes between its listing and the look into it
    return sorted(Path(where) / name for where, _, names in walked for name in fnmatch.filter(names, pattern))


def _nearest_existing(path: Path) -> Path:
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Write a file by `fill(stream)`, atomically: `path` has either its old content or all of the new.

    What killed processes left in the folder is removed.

    Raises: StorageError: no space or no permission; `path` is then unchanged.
    """
    for tries in range(TRIES):
        make_folder(path.parent)
        try:
            with storage_errors(path), temporary(path, fill) as part:
                part.replace(path)
            return
        except FileNotFoundError:  # another run removed the folder meanwhile
            if tries + 1 == TRIES:
                raise


@contextmanager
def temporary(path: Path, fill: Callable[[BinaryIO], object]) -> Iterator[Path]:
    """A new file beside `path`, filled by `fill(stream)` and on the disk; removed afterwards unless it was renamed.

    Raises: OSError.
    """
    owned.sweep(path.parent)
    part = owned.temporary(path)
    try:
        # Mode 0o666 less the user's umask; tempfile's would be private.
        with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), "wb") as stream:
            if not owned.claim(stream.fileno()):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(part))
            fill(stream)
            stream.flush()
            os.fsync(stream.fileno())
            yield part
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write(path, lambda stream: stream.write(text.encode()))


def sha256(path: Path) -> str:
    """The file's sha256 in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


WEIGHTS = re.compile(r"(\.pth\.tar|\.pth|\.pt|\.tar|\.safetensors|\.bin|\.ckpt)$")
# File names that every training run uses; only the folder distinguishes them.
GENERIC_NAMES = re.compile(
    r"(checkpoint|model|pytorch_model|weights|last|latest|best|final|teacher|student)([-_.].*)?", re.I
)


def weights_name(path: Path) -> str:
    """Display name of a weight file: its stem, prefixed with its folder where the stem is generic (``last``)."""
    base = WEIGHTS.sub("", path.name) or path.name
    folder = path.absolute().parent.name
    return f"{folder}/{base}" if folder and GENERIC_NAMES.fullmatch(base) else base
