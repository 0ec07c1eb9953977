"""The cache on disk: entries named by the digest of what made them, each written whole.

Below the cache's root, ``features/<digest>/`` is a finished entry and ``features/<digest>.partial/`` one under way:

- features: ``x.npy, y.npy, kept.npy``, built from ``plan.json, shard-00000.npz, ...``
- trainings (`sweep_cache`): ``trained.npz``, resumed from ``state.pt``
- masks of a video: ``masks.npz``

In a finished entry lie ``key.json`` and ``checksums.json``, too. A damaged entry is made anew; it itself is kept as
``features/<digest>.damaged``.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from evaltk import checksums, files, owned
from evaltk.data.images import Split
from evaltk.errors import StorageError
from evaltk.progress import log
from evaltk.types import FeatureKey, PositionRule, Precision


class Net(Protocol):
    """What of a net its numbers depend on."""

    @property
    def digest(self) -> str: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def position(self) -> PositionRule | None: ...


def cache_key(net: Net, *, dataset: str, split: str, transform: str, recipe: str, version: int) -> FeatureKey:
    """The key of whatever a net makes of images; see `FeatureKey`, and `splits_key` for `dataset` and `split`."""
    return FeatureKey(
        sha256=net.digest,
        dataset=dataset,
        split=split,
        transform=transform,
        recipe=recipe,
        precision=net.precision,
        position=net.position or "none",
        version=version,
    )


def _brief(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.strerror}: {Path(error.filename).name}"
    return str(error)[:120]


def splits_key(*splits: Split) -> dict[str, str]:
    """The fields `dataset` and `split` of the key of what is made of these splits, in their order."""
    files_now = "".join(f"{split.fingerprint}{split.stamp}" for split in splits)
    return {"dataset": files_now, "split": " to ".join(split.name for split in splits)}


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """One cache entry of any kind: where it lies, finished or not."""

    root: Path
    key: FeatureKey

    @property
    def whole(self) -> Path:
        """Folder of the finished entry."""
        return self.root / "features" / self.key.digest()

    @property
    def partial(self) -> Path:
        """Folder of the shards so far."""
        return self.root / "features" / f"{self.key.digest()}.partial"

    @property
    def damaged(self) -> Path:
        """Where an entry that was damaged is kept."""
        return self.root / "features" / f"{self.key.digest()}.damaged"

    def done(self) -> bool:
        """Whether the entry is finished; a finished folder appears at once. Its files are not looked at."""
        return (self.whole / "key.json").exists()

    def ready(self) -> bool:
        """Whether the entry is finished and can be used. One that is damaged is named and set aside, to be made anew.

        What a killed run left of it is removed. Raises: StorageError: a damaged entry cannot be moved.
        """
        owned.sweep(self.whole.parent)
        if not self.done():
            return False
        try:
            self.check()
        except StorageError as error:
            log.warning("%s; it is made anew, and kept as %s", error, self.damaged)
            self.set_aside()
            return False
        shutil.rmtree(self.partial, ignore_errors=True)
        return True

    def contents(self) -> set[str]:
        """Names of files that the finished entry has to have; here, at least one beside those about it."""
        listed = {path.name for path in self.whole.iterdir()} if self.whole.exists() else set()
        return listed - {"key.json", checksums.LISTED} or {"any file"}

    def check(self) -> None:
        """Compare the files of a finished entry with their checksums. Raises: StorageError: it is damaged."""
        try:
            checksums.check_folder(self.whole)
            if gone := sorted(name for name in self.contents() if not (self.whole / name).exists()):
                raise ValueError(f"{', '.join(gone)} missing")
        except (OSError, ValueError) as error:
            raise self._damaged(error) from error

    def set_aside(self) -> None:
        """Move the entry out of the way. Raises: StorageError."""
        with files.storage_errors(self.whole):
            shutil.rmtree(self.damaged, ignore_errors=True)
            with suppress(FileNotFoundError):  # another run was faster
                self.whole.rename(self.damaged)

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Finish an entry that is one file of compressed arrays; the partial folder goes. Raises: StorageError."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        with self._building() as folder:
            files.write(folder / name, lambda stream: stream.write(buffer.getbuffer()))

    @contextmanager
    def _building(self) -> Iterator[Path]:
        """A folder to be filled with the entry's files; afterwards it is the finished entry, in one rename.

        Where another run has finished the same entry meanwhile, that one stays.
        """
        building = owned.temporary(self.whole)
        files.make_folder(building)
        descriptor = os.open(building, os.O_RDONLY)
        try:
            owned.claim(descriptor)
            yield building
            files.write_text(building / "key.json", self._key_text())
            checksums.list_folder(building)
            with files.storage_errors(self.whole):
                self._put(building)
        finally:
            os.close(descriptor)
            shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(self.partial, ignore_errors=True)

    def _put(self, building: Path) -> None:
        if self.whole.exists() and not self.done():  # a file of it was deleted
            self.set_aside()
        try:
            building.rename(self.whole)
        except OSError:
            if not self.done():
                raise

    def read_arrays(self, name: str, arrays: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Arrays of a finished entry by name, and those of `optional` that are there.

        Raises: StorageError: the entry is damaged.
        """
        self.check()
        try:
            with np.load(self.whole / name, allow_pickle=False) as stored:
                return {array: stored[array] for array in (*arrays, *(name for name in optional if name in stored))}
        except Exception as error:  # zipfile, numpy and a missing field each have errors of their own
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> StorageError:
        return StorageError(
            wanted="a whole cache entry",
            got=_brief(error),
            where=self.whole,
            do=f"remove it (evaltk cache prune {self.whole.name[:12]}) and run again",
        )

    def _key_text(self) -> str:
        return json.dumps(asdict(self.key), indent=1, sort_keys=True)
