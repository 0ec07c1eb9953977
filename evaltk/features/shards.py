"""The features of one split on disk: shards while they are made, then one entry of the cache."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from evaltk import checksums, files
from evaltk.data.images import Split
from evaltk.errors import DataError, StorageError
from evaltk.features.cache import CacheEntry
from evaltk.progress import log
from evaltk.types import Features

SHARD = 1024  # images; what a killed run loses at most, per process


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
