"""Folders of results of several machines, made one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evaltk import files, owned
from evaltk.results import store
from evaltk.types import Result


@dataclass(slots=True, kw_only=True)
class Merged:
    """What became of the results. kept: copied. duplicates: (one, other) that say the same. conflicts: that do not."""

    kept: list[Path] = field(default_factory=list)
    duplicates: list[tuple[Path, Path]] = field(default_factory=list)
    conflicts: list[tuple[Path, Path]] = field(default_factory=list)


def merge(folders: Sequence[Path], out: Path, *, skip: Callable[[Path, str], object] | None = None) -> Merged:
    """Copy the results of the folders, with their predictions, to `out`; what lies there already comes first.

    Two results of one request whose scores and predictions are the same are duplicates, of which the first is kept.
    Otherwise they are a conflict: the first is kept, too, and the caller has to say so.

    Raises: StorageError: no such folder, a damaged result, no room.
    """
    merged = Merged()
    known: dict[tuple[str, str], tuple[Path, Result]] = {}
    if out.is_dir():
        known = {_key(result): (path, result) for path, result in store.find(out, skip=skip, copies=True)}
    for folder in folders:
        for path, result in store.find(folder, skip=skip, copies=True):
            store.check_predictions(path)
            first = known.get(_key(result))
            if first is None:
                target = out / path.relative_to(folder)
                if _copied(path, target):
                    known[_key(result)] = target, result
                    merged.kept.append(target)
                    continue
                # What another command has put there meanwhile, or another request of the same first digits.
                first = target, store.read(target)
            if (
                _key(first[1]) == _key(result)
                and first[1].scores == result.scores
                and _predictions(first[0]) == _predictions(path)
            ):
                merged.duplicates.append((first[0], path))
            else:
                merged.conflicts.append((first[0], path))
    return merged


def _key(result: Result) -> tuple[str, str]:
    """Results of one are of the same request, under the same name."""
    return str(result.checkpoint.get("name")), result.request


def _predictions(path: Path) -> bytes | None:
    beside = store.predictions_path(path)
    return beside.read_bytes() if beside.exists() else None


def _copied(path: Path, target: Path) -> bool:
    """Copy, the predictions first, so that the result means that all is there; False: there is a result already.

    Raises: StorageError.
    """
    with store.alone(files.make_folder(target.parent)):
        if target.exists():
            return False
        owned.sweep(target.parent)
        _copy(path, target)
    return True


def _copy(path: Path, target: Path) -> None:
    beside = store.predictions_path(path)
    for source, there in ((beside, store.predictions_path(target)), (path, target)):
        if source.exists():
            with source.open("rb") as stream:
                files.write(there, lambda part, stream=stream: shutil.copyfileobj(stream, part))  # type: ignore[misc]
