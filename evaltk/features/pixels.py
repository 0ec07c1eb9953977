"""Decoded pixels kept on disk, so that the next net on the same images need not decode them.

Below the cache's root, ``pixels/<digest>/`` has for each shard of a split ``00000.npy``, uint8 [n, h, w, 3] as one
preprocessing crops them, and ``00000.json``, written last: which images, what was unreadable, and a checksum. The least
recently used splits go where there is no room.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaltk import checksums, files, safe_json
from evaltk.data.images import Split
from evaltk.data.loading import Batch
from evaltk.data.transforms import Transform
from evaltk.errors import StorageError
from evaltk.features.cache import splits_key
from evaltk.progress import log
from evaltk.types import digest

VERSION = 1  # rises when the pixels of an image change


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A shard's pixels. rows: {image: row}. bad: {image: what was wrong}. pixels: [n, h, w, 3] of each transform."""

    rows: dict[int, int]
    bad: dict[int, str]
    pixels: tuple[np.ndarray, ...]

    def batches(self, parts: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """The batches of these images, as decoding gives them."""
        for part in parts:
            kept = [index for index in part if index in self.rows]
            rows = [self.rows[index] for index in kept]
            yield Batch(
                kept=kept,
                bad=[(index, self.bad[index]) for index in part if index in self.bad],
                pixels=[np.array(x[rows[0] : rows[-1] + 1]) for x in self.pixels] if rows else [],
            )


@dataclass(slots=True, kw_only=True)
class PixelCache:
    """The pixels kept of a split.

    Attributes:
        root: of the cache. most: bytes that all pixels together may take; 0: none are kept or read.
        shard: images of a shard.
    """

    root: Path
    most: int
    split: Split
    shard: int
    full: bool = field(default=False)

    def folder(self, transform: Transform) -> Path:
        """Where the pixels of a transform lie; mean and std make no difference."""
        looks = [transform.resize, transform.crop, transform.interpolation, transform.square]
        return self.root / "pixels" / digest([VERSION, splits_key(self.split), looks, self.shard])[:32]

    def open(self, number: int, transforms: Sequence[Transform]) -> Kept | None:
        """Shard `number`, if it is there for all transforms and undamaged."""
        if not self.most:
            return None
        told: list[dict[str, Any]] = []
        arrays = []
        for transform in transforms:
            path = self._path(transform, number)
            try:
                about = checksums.loads(safe_json.text(path.with_suffix(".json")), required=True)
                checksums.check_file(path, about["sum"])
                arrays.append(np.load(path, mmap_mode="r", allow_pickle=False))
                told.append({name: about[name] for name in ("kept", "bad")})
                os.utime(path.parent)  # used now
            except (OSError, ValueError, KeyError, TypeError):
                return None
        if any(about != told[0] for about in told) or any(len(x) != len(told[0]["kept"]) for x in arrays):
            return None
        return Kept(
            rows={int(index): row for row, index in enumerate(told[0]["kept"])},
            bad={int(index): str(message) for index, message in told[0]["bad"]},
            pixels=tuple(arrays),
        )

    def write(self, number: int, transforms: Sequence[Transform], batches: Sequence[Batch]) -> None:
        """Keep a shard, in the room that there is. A disk that cannot be written stops the keeping, not the pass."""
        kept = [index for batch in batches for index in batch.kept]
        if self.full or not kept:
            return
        bad = [[index, message] for batch in batches for index, message in batch.bad]
        for view, transform in enumerate(transforms):
            pixels = np.concatenate([batch.pixels[view] for batch in batches if batch.kept])
            path = self._path(transform, number)
            try:
                if not self._room(pixels.nbytes, {self.folder(t) for t in transforms}):
                    self.full = True
                    log.info("--pixels is too small for %s %s: part of it is kept", self.split.dataset, self.split.name)
                    return
                path.with_suffix(".json").unlink(missing_ok=True)
                files.write(path, lambda stream, pixels=pixels: np.save(stream, pixels))  # type: ignore[misc]
                about = {"kept": kept, "bad": bad, "sum": checksums.of_file(path)}
                files.write_text(path.with_suffix(".json"), checksums.dumps(about))
            except (StorageError, OSError) as error:
                self.full = True
                log.warning("pixels are kept no longer: %s", error)
                return

    def _path(self, transform: Transform, number: int) -> Path:
        return self.folder(transform) / f"{number:05d}.npy"

    def _room(self, wanted: int, mine: set[Path]) -> bool:
        """Make room for `wanted` bytes by removing others' pixels, the least recently used first."""
        sizes: dict[Path, tuple[float, int]] = {}
        for folder in (self.root / "pixels").iterdir() if (self.root / "pixels").is_dir() else ():
            with suppress(OSError):  # another run may remove it meanwhile
                size = sum(entry.stat().st_size for entry in folder.iterdir())
                sizes[folder] = folder.stat().st_mtime, size
        total = sum(size for _, size in sizes.values())
        for folder in sorted(sizes, key=lambda folder: sizes[folder][0]):
            if total + wanted <= self.most:
                break
            if folder not in mine:
                shutil.rmtree(folder, ignore_errors=True)
                total -= sizes[folder][1]
        return total + wanted <= self.most
