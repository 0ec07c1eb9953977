"""Splits whose images are encoded inside larger files: tar shards, Arrow files, parquet files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from PIL import Image

from evaltk.data import decoding, images
from evaltk.data.images import TAIL, Split


class Reader(Protocol):
    """Reads image files by row; picklable, for worker processes."""

    def read(self, row: int) -> bytes:
        """The bytes of the image file, empty where there are none. Raises: OSError, ValueError: it cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedSplit(Split):
    """Images encoded inside larger files; an image's name says in which."""

    def encoded(self, index: int) -> bytes:
        """The image file's bytes. Raises: DataError: there are none, or they cannot be read."""
        raise NotImplementedError

    def open(self, index: int) -> Image.Image:
        """The image as RGB. Raises: DataError: it cannot be decoded (it is named)."""
        data = self.encoded(index)
        return decoding.rgb(data, self.reading, where=f"{self.root}/{self.image_id(index)}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredSplit(EncodedSplit):
    """Images that a reader fetches by row. rows: [N] int64, the images' rows there."""

    reader: Reader
    rows: np.ndarray

    def taken(self, rows: np.ndarray, *, name: str, fingerprint: str) -> Self:
        """The images at `rows` [n] int64, in that order, as a split of its own."""
        part = super(StoredSplit, self).taken(rows, name=name, fingerprint=fingerprint)
        return replace(part, rows=self.rows[rows])

    def encoded(self, index: int) -> bytes:
        """The image file's bytes. Raises: DataError: there are none, or they cannot be read."""
        where = f"{self.root}/{self.image_id(index)}"
        try:
            data = self.reader.read(int(self.rows[index]))
        except (OSError, ValueError) as error:
            raise decoding.undecodable(str(error), where) from error
        if not data:
            raise decoding.undecodable("no bytes", where)
        return data


def stored(
    dataset: str,
    name: str,
    root: Path,
    classes: Sequence[str],
    labels: np.ndarray,
    *,
    ids: Sequence[str],
    sizes: Sequence[int],
    reader: Reader,
    files: Iterable[Path],
) -> StoredSplit:
    """A split of images with these names, bytes and labels [N] int64, stored in `files`, in the reader's order."""
    found = [(one, label, size, 0) for one, label, size in zip(ids, labels.tolist(), sizes, strict=True)]

    def tail(row: int) -> bytes:
        try:
            return reader.read(row)[-TAIL:]
        except (OSError, ValueError):
            return b""  # it is named as unreadable when its turn comes

    return StoredSplit(
        dataset=dataset,
        name=name,
        classes=tuple(classes),
        labels=labels,
        root=root,
        files=list(ids),
        fingerprint=images.fingerprint(classes, found, tail),
        stamp=images.stamp(path.stat().st_mtime_ns for path in files),
        empty=tuple(one for one, size in zip(ids, sizes, strict=True) if not size),
        reader=reader,
        rows=np.arange(len(ids)),
    )
