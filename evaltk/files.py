"""Files: written whole or not at all (to a neighbour first, then renamed over the target), and hashed."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from evaltk.errors import StorageError


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about `path` into one line that a user can act on."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            do = "free some space or choose another folder, then run the same command again: what was finished is kept"
            raise StorageError(wanted="room to write", got="no space left on the disk", where=path, do=do) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            do = "choose a folder you may write to"
            raise StorageError(wanted="a writable place", got="permission denied", where=path, do=do) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            do = "choose another path"
            raise StorageError(wanted="a folder to write into", got=str(error), where=path, do=do) from error
        raise


def make_folder(path: Path) -> Path:
    """Create `path` and its parents. Raises: StorageError."""
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Write a file by `fill(stream)` so that `path` holds either its old content or all of the new.

    Raises: StorageError: no room, or no right to write there; `path` is then as it was.
    """
    make_folder(path.parent)
    with storage_errors(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                fill(stream)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).chmod(0o666 & ~_umask())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    write(path, lambda stream: stream.write(text.encode()))


def sha256(path: Path) -> str:
    """sha256 in hex of the file's bytes, read once in order."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
