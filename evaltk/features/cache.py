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
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from evaltk import checksums, files, owned
from evaltk.data.images import Split
from evaltk.errors import DataError, StorageError
from evaltk.progress import log
from evaltk.types import FeatureKey, Features, PositionRule, Precision

SHARD = 1024  # images; what a killed run loses at most, per process


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

    def read_arrays(self, name: str, arrays: Sequence[str]) -> dict[str, np.ndarray]:
        """Arrays of a finished entry by name. Raises: StorageError: the entry is damaged."""
        self.check()
        try:
            with np.load(self.whole / name, allow_pickle=False) as stored:
                return {array: stored[array] for array in arrays}
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(CacheEntry):
    """The features of one split."""

    def contents(self) -> set[str]:
        """The features, their labels and the indices of their images."""
        return {"x.npy", "y.npy", "kept.npy"}

    def plan(self, wanted: dict[str, int], *, fixed: bool) -> dict[str, int]:
        """The batch and shard size this entry was begun with, or `wanted`, which is then kept.

        A resumed run takes the sizes of the first, so that its numbers are the same to the bit. `fixed`: the user asked
        for `wanted` by a flag; shards made with other sizes are dropped then.
        """
        if found := self.begun(wanted, fixed=fixed):
            return found
        path = self.partial / "plan.json"
        if path.exists():
            shutil.rmtree(self.partial, ignore_errors=True)
        files.write_text(path, checksums.dumps(wanted))
        return wanted

    def begun(self, wanted: dict[str, int], *, fixed: bool) -> dict[str, int] | None:
        """The sizes of the shards that `plan` would go on with, None where it would begin anew; changes nothing."""
        try:
            found = {str(k): int(v) for k, v in checksums.loads((self.partial / "plan.json").read_text()).items()}
        except (ValueError, TypeError, AttributeError, OSError):
            return None
        good = found.keys() == wanted.keys() and min(found.values()) > 0 and (found == wanted or not fixed)
        return found if good else None

    def has_shard(self, number: int) -> bool:
        """Whether shard `number` was written."""
        return self._shard(number).exists()

    def has_sound_shard(self, number: int) -> bool:
        """Whether shard `number` was written; a damaged one is named and removed, to be made anew."""
        path = self._shard(number)
        try:
            checksums.check_zip(path)
        except FileNotFoundError:
            return False
        except checksums.Damaged as error:
            log.warning("a damaged shard is made anew: %s; where: %s", error, path)
            path.unlink(missing_ok=True)
            return False
        return True

    def write_shard(self, number: int, x: np.ndarray, kept: np.ndarray, span: range) -> None:
        """Write x [n, D] float32 and the indices [n] of the images it is of, out of `span`, whole or not at all."""
        buffer = io.BytesIO()
        x = np.ascontiguousarray(x, dtype=np.float32)
        np.savez(buffer, x=x, kept=kept.astype(np.int64), span=np.asarray([span.start, span.stop]))
        files.write(self._shard(number), lambda stream: stream.write(buffer.getbuffer()))

    def finish(self, num_shards: int, labels: np.ndarray) -> None:
        """Join the shards into the finished entry, in one rename, and remove them.

        Raises: StorageError: no room, or a shard that is damaged or gone. DataError: no image was readable.
        """
        try:
            if not self.done():  # another run may have finished the same entry
                with self._building() as folder:
                    self._build(folder, num_shards, labels)
        except OSError as error:
            if not self.done():
                raise StorageError(
                    wanted="the shards of this run", got=str(error), where=self.partial, do="run the same command again"
                ) from error
        shutil.rmtree(self.partial, ignore_errors=True)

    def _build(self, building: Path, num_shards: int, labels: np.ndarray) -> None:
        kept, width = self._checked(num_shards, len(labels))
        if not len(kept):
            raise DataError(
                wanted=f"at least one readable image in {self.key.split}",
                got=f"none of {len(labels)}",
                where=self.partial,
                do="restore the files",
            )
        files.write(building / "x.npy", lambda stream: self._join(stream, num_shards, (len(kept), width)))
        files.write(building / "kept.npy", lambda stream: np.save(stream, kept))
        files.write(building / "y.npy", lambda stream: np.save(stream, labels[kept]))

    def read(self, split: Split) -> Features:
        """The finished features, memory-mapped; `ready` compares checksums. Raises: StorageError: it is damaged."""
        try:
            x = np.load(self.whole / "x.npy", mmap_mode="r")
            y, kept = np.load(self.whole / "y.npy"), np.load(self.whole / "kept.npy")
            if not (len(x) == len(y) == len(kept)) or x.dtype != np.float32 or x.ndim != 2:
                raise ValueError(f"x {x.shape} {x.dtype}, y {y.shape}, kept {kept.shape}")
            if not np.array_equal(y, split.labels[kept]):
                raise ValueError("labels that are not the split's")
        except (OSError, ValueError, EOFError, IndexError) as error:
            raise self._damaged(error) from error
        lost = np.setdiff1d(np.arange(len(split)), kept)
        return Features(
            x=x,
            y=y,
            ids=tuple(split.image_id(i) for i in kept.tolist()),
            key=self.key,
            skipped=tuple(split.image_id(i) for i in lost.tolist()),
        )

    def num_bytes(self, num_images: int, width: int) -> int:
        """Bytes of the finished entry's files with `num_images` images kept and D = `width`."""
        arrays: dict[str, tuple[tuple[int, ...], Any]] = {"x.npy": ((num_images, width), np.float32)}
        arrays |= dict.fromkeys(("y.npy", "kept.npy"), ((num_images,), np.int64))
        sizes = {"key.json": len(self._key_text().encode())}
        for name, (shape, dtype) in arrays.items():
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, _header(shape, dtype))
            sizes[name] = header.tell() + math.prod(shape) * np.dtype(dtype).itemsize
        return sum(sizes.values()) + checksums.list_bytes(sizes)

    def _shard(self, number: int) -> Path:
        return self.partial / f"shard-{number:05d}.npz"

    def _checked(self, num_shards: int, num_images: int) -> tuple[np.ndarray, int]:
        """(indices of the kept images [N], D) of all shards. Raises: StorageError: one is damaged or of other sizes."""
        kept, width, stop = [], 0, 0
        for number in range(num_shards):
            path = self._shard(number)
            try:
                with np.load(path) as shard:
                    first, last = (int(v) for v in shard["span"])
                    if first != stop or shard["x"].shape[0] != len(shard["kept"]):
                        raise ValueError(f"images {first} to {last} where {stop} comes next")
                    kept.append(shard["kept"])
                    width, stop = width or shard["x"].shape[1], last  # a shard of unreadable images has no width
            except OSError:
                raise
            except Exception as error:  # zipfile, zlib and numpy each have errors of their own
                path.unlink(missing_ok=True)
                raise StorageError(
                    wanted="a whole shard of features",
                    got=str(error)[:120],
                    where=path,
                    do="run the same command again: it was removed and is made anew",
                ) from error
        if stop != num_images:
            got = f"{stop} of {num_images} images"
            raise StorageError(wanted="shards of all images", got=got, where=self.partial, do="remove it and run again")
        return np.concatenate(kept), width

    def _join(self, stream: BinaryIO, num_shards: int, shape: tuple[int, int]) -> None:
        """Write x.npy shard by shard, so that no more than one is in memory."""
        np.lib.format.write_array_header_1_0(stream, _header(shape, np.float32))
        for number in range(num_shards):
            with np.load(self._shard(number)) as shard:
                stream.write(shard["x"].tobytes())


def _header(shape: tuple[int, ...], dtype: Any) -> dict[str, Any]:
    return {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}


def outstanding(entries: Sequence[Entry], num_images: int, wanted: dict[str, int], *, fixed: bool) -> list[range]:
    """The images of each shard that a pass for `entries` (at least one) would still make; changes nothing.

    Args:
        wanted, fixed: the batch and shard size asked for, as for `Entry.plan`.
    """
    begun = [entry.begun(wanted, fixed=fixed) for entry in entries]
    sizes = begun[0] or wanted
    starts = range(0, num_images, sizes["shard"])
    shards = [range(start, min(start + sizes["shard"], num_images)) for start in starts]
    if any(found != sizes for found in begun):  # an entry that was not begun, or with other sizes, has none of them
        return shards
    return [shard for n, shard in enumerate(shards) if not all(entry.has_shard(n) for entry in entries)]
