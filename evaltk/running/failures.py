"""Cells that failed: a small file beside where the result would be, until it is there."""

from __future__ import annotations

import datetime
import errno
import json
import platform
import secrets
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaltk import files, safe_json
from evaltk.errors import EvaltkError, StorageError

SUFFIX = ".failed"
HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # no other cell would fare better


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A cell that failed.

    Attributes:
        checkpoint, protocol, dataset: which. message: the error on one line. bug: whether it is no error of the user's;
            then `trace` has the traceback.
        at: when, by the clock of `node`. token: of this record.
        brief: title and message in a line for a terminal; empty in records of before.
    """

    checkpoint: str
    protocol: str
    dataset: str
    message: str
    bug: bool = False
    trace: str = ""
    at: str = ""
    node: str = ""
    token: str = ""
    brief: str = ""

    def title(self) -> str:
        """Which cell, in a few words."""
        return f"{self.protocol} of {self.checkpoint} on {self.dataset}"

    def line(self) -> str:
        """Which cell, and the error, shortened where that is long."""
        return self.brief or f"{self.title()}: {self.message}"


def of(error: Exception, *, checkpoint: str, protocol: str, dataset: str) -> Failure:
    """What an error of a cell is told as."""
    bug = not isinstance(error, EvaltkError)
    first = (str(error).splitlines() or [""])[0]
    title = Failure(checkpoint=checkpoint, protocol=protocol, dataset=dataset, message="").title()
    return Failure(
        checkpoint=checkpoint,
        protocol=protocol,
        dataset=dataset,
        message=f"{type(error).__name__}: {first}" if bug else str(error),
        brief=f"{title}: {error.brief(max(200, 280 - len(title)))}" if isinstance(error, EvaltkError) else "",
        bug=bug,
        trace="".join(traceback.format_exception(error)) if bug else "",
        at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        node=platform.node(),
        token=secrets.token_hex(8),
    )


def hopeless(error: BaseException) -> bool:
    """Whether no other cell would fare better: the disk is full, cannot be written or fails."""
    system = error if isinstance(error, OSError) else error.__cause__
    return isinstance(error, StorageError | OSError) and isinstance(system, OSError) and system.errno in HOPELESS


def path_of(result: Path) -> Path:
    """The record of the cell whose result would be the file `result`."""
    return result.with_suffix(SUFFIX)


def write(result: Path, failure: Failure) -> None:
    """Record that a cell failed. Raises: StorageError."""
    files.write_text(path_of(result), json.dumps(asdict(failure), indent=1) + "\n")


def read(result: Path) -> Failure | None:
    """The record of a cell; None where there is none that can be read."""
    try:
        told: Any = safe_json.read(path_of(result))
        failure = Failure(**told)
    except (OSError, ValueError, TypeError):
        return None
    texts = [failure.checkpoint, failure.protocol, failure.dataset, failure.message, failure.token, failure.brief]
    return failure if all(isinstance(text, str) for text in texts) else None


def remove(result: Path) -> None:
    """The cell has its result."""
    with suppress(OSError):
        path_of(result).unlink(missing_ok=True)


def find(folder: Path) -> Iterator[tuple[Path, Failure]]:
    """The records below a folder, in order of path."""
    for path in files.below(folder, f"*{SUFFIX}"):
        failure = read(path)
        if failure is not None:
            yield path, failure
