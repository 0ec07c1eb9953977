"""What belongs to a process while it lives: temporary files, removed by others once it has died; a folder's lock."""

from __future__ import annotations

import datetime
import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evaltk.errors import StorageError

try:
    import fcntl
except ImportError:  # Windows; age alone decides there
    fcntl = None  # type: ignore[assignment]

LEFT = re.compile(r"\..+\.([0-9a-f]{6})-[0-9a-f]{16}\.part")  # what `temporary` names: .NAME.HOST-RANDOM.part
EARLIER = re.compile(r"\..+\.[0-9a-f]{16}\.part|\.[0-9a-f]{64}\.[0-9a-f]{32}")  # what earlier versions named
OLD = 24 * 3600.0  # seconds without a change after which a file is left over, where no lock tells
LOCK = ".lock"


def temporary(target: Path) -> Path:
    """A name beside `target` that no other process has."""
    # Truncated, so that the suffix fits even when the name is close to the longest allowed.
    return target.with_name(f".{target.name[:32]}.{_host()}-{secrets.token_hex(8)}.part")


def claim(descriptor: int) -> bool:
    """Mark an open file or folder as in use until it is closed. Returns: False where another process removes it."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
    return os.name == "nt" or os.fstat(descriptor).st_nlink > 0


def wait_for(descriptor: int) -> None:
    """Wait until no other process has marked this open file or folder, and mark it until it is closed."""
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders in `folder` whose process has died."""
    try:
        with os.scandir(folder) as entries:
            found = [Path(entry.path) for entry in entries if entry.name[0] == "." and _temporary(entry.name)]
    except OSError:
        return
    for path in found:
        with suppress(OSError):
            _remove_if_left(path)


def _temporary(name: str) -> bool:
    return bool(LEFT.fullmatch(name) or EARLIER.fullmatch(name))


def _remove_if_left(path: Path) -> None:
    named = LEFT.fullmatch(path.name)
    if fcntl is None or named is None or named[1] != _host():  # another machine's lock may not be visible here
        if time.time() - path.stat().st_mtime > OLD:
            _remove(path)
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK and time.time() - path.stat().st_mtime > OLD:
            _remove(path)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def _lives(owner: str) -> bool:
    """Whether the process that a lock's text names lives, where the file system has no locks to tell.

    One of another machine is taken for dead, since nothing tells.
    """
    named = re.match(r"process ([0-9]+) on (\S+)", owner)
    if named is None or named[2] != platform.node() or int(named[1]) == os.getpid():
        return False
    try:
        os.kill(int(named[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def lock(folder: Path, what: str, do: str) -> Iterator[None]:
    """Inside, this process alone works in `folder`, which exists. The system frees the lock of a process that dies.

    Args:
        what: is going on in the folder, for the error of the second process: ``a training``. do: its advice.

    Raises: StorageError: another process has the lock. OSError: the folder cannot be written to.
    """
    path = folder / LOCK
    descriptor = _locked(path, what, do)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # before the lock goes, or it could be another's by then
        os.close(descriptor)


def _locked(path: Path, what: str, do: str) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is None:
                return descriptor
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited by worker processes
            except OSError as error:
                owner = os.read(descriptor, 200).decode(errors="replace").strip()
                locks = error.errno in (errno.EACCES, errno.EAGAIN)
                if locks or _lives(owner):
                    raise StorageError(
                        wanted=f"a folder without {what} under way", got=f"one by {owner or 'another process'}",
                        where=path.parent, do=do,
                    ) from error  # fmt: skip
            with suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == path.stat().st_ino:  # not one that its owner has just removed
                    os.ftruncate(descriptor, 0)
                    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
                    os.write(descriptor, f"process {os.getpid()} on {platform.node()} since {now}\n".encode())
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
