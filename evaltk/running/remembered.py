"""Where the images of results lie on this machine, so that a page can show some: in the cache, never in results."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaltk import datasets, files, safe_json
from evaltk.data import limits
from evaltk.data.images import Dataset
from evaltk.data.options import DataFlags, DataOptions
from evaltk.errors import DataError, EvaltkError, StorageError
from evaltk.running.cells import Cell

FOLDER = "datasets"  # of the cache
MOST_NAMES = 200_000  # files of a test split, beyond which their names are not kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How a dataset was loaded. data: the word of ``--data``, its path absolute. files: names of the test images."""

    data: str
    options: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    seed: int = 0
    files: tuple[str, ...] = ()

    def load(self, fingerprint: str) -> Dataset:
        """The dataset as it was. Raises: DataError, SettingsError: it is not there any more, or has changed."""
        known = {f.name for f in dataclasses.fields(DataFlags)}
        options = DataOptions(**{k: v for k, v in self.options.items() if k in known}, seed=self.seed)
        found = datasets.load(self.data, options)
        if self.limit is not None:
            found = limits.limited(found, self.limit, self.seed)
        return same(found, fingerprint, self.data)


def same(found: Any, fingerprint: str, word: str) -> Dataset:
    """A dataset of images whose fingerprint this is. Raises: DataError: another one."""
    if not isinstance(found, Dataset) or found.fingerprint != fingerprint:
        do = "evaltk run measures it as it is now"
        raise DataError(wanted="the images that were measured", got="others", where=word, do=do)
    return found


def remember(cells: Iterable[Cell]) -> None:
    """Keep where the datasets of images of these cells lie; a cache that cannot be written is no reason to stop."""
    seen: set[int] = set()
    for cell in cells:
        found = cell.job.dataset
        if id(found) in seen or not isinstance(found, Dataset):
            continue
        seen.add(id(found))
        path = path_of(cell.plan.cache, found.fingerprint)
        for word in cell.plan.data:
            if datasets.parse(word)[0] == found.name:
                place = Place(
                    data=_absolute(word),
                    options=dataclasses.asdict(cell.plan.own),
                    limit=cell.plan.limit,
                    seed=cell.plan.seed,
                    files=tuple(found.test.files) if found.test.files and len(found.test) <= MOST_NAMES else (),
                )
                with suppress(StorageError, OSError):
                    if recall(cell.plan.cache, found.fingerprint) != place:
                        files.write_text(path, json.dumps(dataclasses.asdict(place)))


def recall(cache: Path, fingerprint: str) -> Place | None:
    """Where a dataset lay; None where nothing is known, or what is there cannot be read."""
    try:
        told = safe_json.read(path_of(cache, fingerprint))
        place = Place(**{**told, "files": tuple(map(str, told["files"]))})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    valid = isinstance(place.data, str) and isinstance(place.options, dict) and isinstance(place.seed, int)
    return place if valid and isinstance(place.limit, int | None) else None


def path_of(cache: Path, fingerprint: str) -> Path:
    """The file about a dataset."""
    return cache / FOLDER / f"{fingerprint[:32]}.json"


def _absolute(word: str) -> str:
    """The word with its path absolute, where it is one."""
    with suppress(EvaltkError, OSError):
        label, name, path = datasets.parse(word)
        if path is not None and (path.exists() or datasets.registry()[name].takes == "folder"):
            return f"{label}:{name}={path.absolute()}"
    return word
