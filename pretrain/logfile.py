"""`log.jsonl`: one JSON object a line, appended whole or not at all, cut where a run goes back."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evaltk import files, safe_json
from evaltk.progress import log

LOG = "log.jsonl"


def cut(path: Path, step: int, *, keep: str = "") -> list[Mapping[str, Any]]:
    """Take out the lines of steps from `step` on, which will be repeated, and damaged ones. Returns: those kept.

    Args:
        keep: an event whose lines stay.

    Raises: StorageError.
    """
    with files.storage_errors(path):
        lines = path.read_bytes().decode(errors="replace").splitlines() if path.exists() else []
    read = [(line, _object(line)) for line in lines]
    if torn := sum(found is None for _, found in read):
        log.warning("%d damaged lines are taken out of %s", torn, path)
    kept = [
        (line, found)
        for line, found in read
        if found and (found["step"] < step or (keep and found.get("event") == keep))
    ]
    files.write_text(path, "".join(f"{line}\n" for line, _ in kept))
    return [found for _, found in kept]


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Append a line, all of it or nothing; what is not finite becomes null. Raises: StorageError."""
    text = json.dumps({key: _plain(value) for key, value in line.items()}, allow_nan=False) + "\n"
    with files.storage_errors(path), path.open("ab", buffering=0) as stream:
        size = stream.seek(0, os.SEEK_END)
        rest = memoryview(text.encode())
        try:
            while rest:
                rest = rest[stream.write(rest) :]
        except OSError:
            stream.truncate(size)
            raise


def unfinite(line: Mapping[str, Any]) -> Iterator[str]:
    """The names of values that are not finite."""
    return (key for key, value in line.items() if isinstance(value, float) and not math.isfinite(value))


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _object(line: str) -> dict[str, Any] | None:
    """A line of the log; None: a damaged one, as a full disk or a crash leaves it."""
    try:
        found = safe_json.parse(line)
        return found | {"step": int(found["step"])}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
