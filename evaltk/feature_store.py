"""The feature cache on disk: entries named by the digest of what made them, built from shards, each written whole.

Layout below the cache's root: ``features/<digest>/{key.json, x.npy, y.npy, kept.npy}`` for a finished entry and
``features/<digest>.partial/{plan.json, shard-00000.npz, ...}`` for one under way.
"""

from __future__ import annotations

import io
import json
import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from evaltk import files
from evaltk.errors import StorageError
from evaltk.images import Split
from evaltk.types import FeatureKey, Features

SHARD = 1024  # images; what a killed run loses at most, for each process


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One cache entry: where it lies, finished or not."""

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

    def done(self) -> bool:
        """Whether the entry is finished; a finished folder appears at once."""
        return (self.whole / "key.json").exists()

    def plan(self, wanted: dict[str, int], *, fixed: bool) -> dict[str, int]:
        """The batch and shard size this entry was begun with, or `wanted`, which is then kept.

        A resumed run takes the sizes of the first, so that its numbers are the same to the bit. `fixed`: the user asked
        for `wanted` by a flag; shards made with other sizes are dropped then.
        """
        path = self.partial / "plan.json"
        if path.exists():
            try:
                found = {str(k): int(v) for k, v in json.loads(path.read_text()).items()}
            except (ValueError, AttributeError):
                found = {}
            if found.keys() == wanted.keys() and (found == wanted or not fixed):
                return found
            shutil.rmtree(self.partial)
        files.write_text(path, json.dumps(wanted))
        return wanted

    def has_shard(self, number: int) -> bool:
        """Whether shard `number` was written."""
        return self._shard(number).exists()

    def write_shard(self, number: int, x: np.ndarray, kept: np.ndarray) -> None:
        """Write x [n, D] float32 and the indices [n] of the images it is of, whole or not at all."""
        buffer = io.BytesIO()
        np.savez(buffer, x=np.ascontiguousarray(x, dtype=np.float32), kept=kept.astype(np.int64))
        files.write(self._shard(number), lambda stream: stream.write(buffer.getbuffer()))

    def finish(self, num_shards: int, labels: np.ndarray) -> None:
        """Join the shards into the finished entry, in one rename, and remove them."""
        building = self.root / "features" / f".{self.whole.name}.{uuid.uuid4().hex}"
        files.make_folder(building)
        try:
            with files.storage_errors(building):
                kept = self._join(building, num_shards)
                np.save(building / "kept.npy", kept)
                np.save(building / "y.npy", labels[kept])
            files.write_text(building / "key.json", json.dumps(asdict(self.key), indent=1, sort_keys=True))
            with files.storage_errors(self.whole):
                if not self.done():  # another process may have finished the same entry meanwhile
                    building.rename(self.whole)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(self.partial, ignore_errors=True)

    def read(self, split: Split) -> Features:
        """The finished features, memory-mapped. Raises: StorageError: the entry is damaged."""
        try:
            x = np.load(self.whole / "x.npy", mmap_mode="r")
            y, kept = np.load(self.whole / "y.npy"), np.load(self.whole / "kept.npy")
            if not (len(x) == len(y) == len(kept)) or x.dtype != np.float32:
                raise ValueError(f"x {x.shape} {x.dtype}, y {y.shape}, kept {kept.shape}")
        except (OSError, ValueError, EOFError) as error:
            raise StorageError(
                wanted="a whole cache entry",
                got=str(error)[:120],
                where=self.whole,
                do=f"remove it (evaltk cache prune {self.whole.name[:12]}) and run again",
            ) from error
        lost = np.setdiff1d(np.arange(len(split)), kept)
        return Features(
            x=x,
            y=y,
            ids=tuple(split.image_id(i) for i in kept.tolist()),
            key=self.key,
            skipped=tuple(split.image_id(i) for i in lost.tolist()),
        )

    def _shard(self, number: int) -> Path:
        return self.partial / f"shard-{number:05d}.npz"

    def _join(self, building: Path, num_shards: int) -> np.ndarray:
        """Write x.npy shard by shard, so that no more than one is in memory; returns the kept indices [N]."""
        kept, width = [], 0
        for number in range(num_shards):
            with np.load(self._shard(number)) as shard:
                kept.append(shard["kept"])
                width = width or shard["x"].shape[1]  # a shard of unreadable images has no width
        with (building / "x.npy").open("wb") as stream:
            shape = (sum(map(len, kept)), width)
            header = {
                "descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)),
                "fortran_order": False,
                "shape": shape,
            }
            np.lib.format.write_array_header_1_0(stream, header)
            for number in range(num_shards):
                with np.load(self._shard(number)) as shard:
                    stream.write(shard["x"].tobytes())
        return np.concatenate(kept)
