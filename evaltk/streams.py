"""The standard streams of a command: open, able to take any text, and known for what they are where they fail."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from pathlib import Path

from evaltk import files
from evaltk.errors import StorageError

UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def prepare() -> None:
    """Make sure that all streams can be written to; called once by the command line, never at import.

    A closed one (``>&-``) becomes the null device, or the next file to be opened would have its number, and whatever is
    printed would end up in it. What a stream's encoding lacks is escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def check_folder() -> None:
    """Raises: StorageError: the folder that the command was started in is gone."""
    if (error := gone()) is not None:
        raise error


def gone() -> StorageError | None:
    """What to tell where the working folder was removed; None where it is there."""
    try:
        Path.cwd()
    except FileNotFoundError:
        got, do = "one that was removed", "cd to another folder and run the command there"
        return StorageError(wanted="a working folder", got=got, where="the folder of the shell", do=do)
    return None


def reader_gone() -> bool:
    """Whether the reader of our output has gone (`| head`), which is no error of ours; other pipes may break too."""
    watch = select.poll()
    watch.register(sys.stdout.fileno(), 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in watch.poll(0)):
        return False
    _forget()
    return True


def unwritten(error: OSError) -> StorageError | None:
    """What to tell of an error that names no file: what is printed goes to a disk that is full or fails, or None."""
    if error.errno == errno.ENOENT:
        return gone()
    if error.filename is not None or error.errno not in UNWRITTEN:
        return None
    where = "a file"
    try:
        os.write(sys.stdout.fileno(), b"\n")  # what failed may not be kept, so that flushing it proves nothing
    except OSError:
        where = "standard output"
        _forget()
    wanted, got, do = files.REASONS[error.errno]
    return StorageError(wanted=wanted, got=got or os.strerror(error.errno), where=where, do=do)


def _forget() -> None:
    """Drop what was printed and not written yet, which the interpreter would try to write again as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
