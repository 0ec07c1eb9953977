"""Result files: one JSON a result, written whole or not at all, its per-image predictions beside it."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from evaltk import files
from evaltk.errors import StorageError
from evaltk.types import Result, Score

FORMAT = 1


def path_of(out: Path, checkpoint: str, protocol: str, dataset: str, request: str) -> Path:
    """Where a result lies: ``OUT/CHECKPOINT/PROTOCOL-DATASET-REQUEST.json``; other settings make another file."""
    return out / _slug(checkpoint) / f"{protocol}-{_slug(dataset)}-{request[:12]}.json"


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "unnamed"


def write(path: Path, result: Result, predictions: Mapping[str, np.ndarray]) -> None:
    """Write predictions first, then the result: a result file means that all of it is there.

    Raises: StorageError: no room, no right to write. ValueError: a score that is no finite number.
    """
    for score in result.scores:
        if not math.isfinite(score.value):
            raise ValueError(f"{result.protocol}: {score.metric} is {score.value}")
    if predictions:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **predictions)  # type: ignore[arg-type]
        files.write(predictions_path(path), lambda stream: stream.write(buffer.getbuffer()))
    files.write_text(path, json.dumps({"format": FORMAT} | asdict(result), indent=1, allow_nan=False) + "\n")


def predictions_path(path: Path) -> Path:
    """The predictions that belong to a result file."""
    return path.with_suffix(".predictions.npz")


def read(path: Path) -> Result:
    """A result file. Raises: StorageError: unreadable, or of another format."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("format") != FORMAT:
            raise ValueError("another format")
        scores = tuple(
            Score(**(s | {"interval": tuple(s["interval"]) if s["interval"] else None})) for s in found.pop("scores")
        )
        return Result(scores=scores, **found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StorageError(
            wanted=f"a result file of format {FORMAT}",
            got=f"{type(error).__name__}: {str(error)[:100]}",
            where=path,
            do="remove it and run again",
        ) from error


def read_predictions(path: Path) -> dict[str, np.ndarray]:
    """The per-image arrays beside the result file `path`, {} where it has none."""
    beside = predictions_path(path)
    if not beside.exists():
        return {}
    with np.load(beside, allow_pickle=False) as found:
        return dict(found)


def find(out: Path) -> Iterator[tuple[Path, Result]]:
    """Every result under `out`, in order of path. Raises: StorageError: no such folder, or a damaged file."""
    if not out.is_dir():
        raise StorageError(
            wanted="a folder of results",
            got="no such folder",
            where=out,
            do="run `evaltk run ... --out` first, or name it",
        )
    for path in sorted(out.rglob("*.json")):
        yield path, read(path)
