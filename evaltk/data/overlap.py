"""Images that training and test splits share, found by what their files hold, not by their names."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path

import numpy as np

from evaltk.data.dense import DenseDataset
from evaltk.data.encoded import EncodedSplit
from evaltk.data.images import Dataset, Split
from evaltk.deviations import Deviation, DeviationKind
from evaltk.errors import DataError

# CIFAR-100 itself has near-copies of 10 % of its test images in its training set, byte-equal ones far fewer (Barz and
# Denzler 2020, arXiv 1902.00423). Splits that were mixed up share much more.
MOST = 0.05
END = 4096  # bytes from a file's end, read before the whole of it is


def check(dataset: Dataset | DenseDataset) -> tuple[Deviation, ...]:
    """The test images that are training images too, () where there are none.

    Raises: DataError: they are more than `MOST` of the test split: then it does not measure generalisation.
    """
    found = shared(dataset.train, dataset.test)
    if not found:
        return ()
    named = ", ".join(f"{a} = {b}" for a, b in found[:3]) + (" ..." if len(found) > 3 else "")
    if len(found) > MOST * len(dataset.test):
        raise DataError(
            wanted=f"{dataset.test.name} images of {dataset.name} that are not in {dataset.train.name} too",
            got=f"{len(found):,} of {len(dataset.test):,} with the same bytes: {named}",
            where=dataset.test.root or dataset.name,
            do="restore the official splits; were val and test, or train and test, mixed up?",
        )
    text = f"{len(found)} {dataset.test.name} images are byte for byte in {dataset.train.name} too: {named}"
    return (Deviation(kind=DeviationKind.SHARED_IMAGES, text=text),)


def shared(train: Split, test: Split) -> list[tuple[str, str]]:
    """(test image, the first training image of the same bytes) for each test image that has one, in test order.

    Files are compared by size, then by their last bytes, then whole: of most datasets little is read. Empty and
    unreadable files are equal to none.
    """
    if train.pixels is not None and test.pixels is not None:
        return _equal(train, test, [_pixels])
    if isinstance(train, EncodedSplit) and isinstance(test, EncodedSplit):
        return _equal(train, test, [_encoded])
    if train.files is None or test.files is None:
        return _equal(train, test, [_decoded])
    return _equal(train, test, [_size, _end, _whole])


def _equal(
    train: Split, test: Split, looks: Iterable[Callable[[Split, int], Hashable | None]]
) -> list[tuple[str, str]]:
    """Pairs that look alike, by ever closer looks at those which the look before could not tell apart."""
    groups: dict[Hashable, tuple[list[int], list[int]]] = {(): (list(range(len(train))), list(range(len(test))))}
    for look in looks:
        finer: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for key, members in groups.items():
            for side, (split, rows) in enumerate(zip((train, test), members, strict=True)):
                for row in rows:
                    if (seen := look(split, row)) is not None:
                        finer[key, seen][side].append(row)
        groups = {key: both for key, both in finer.items() if both[0] and both[1]}
    return [(test.image_id(row), train.image_id(first)) for row, first in sorted(_pairs(groups.values()))]


def _pairs(groups: Iterable[tuple[list[int], list[int]]]) -> Iterator[tuple[int, int]]:
    for in_train, in_test in groups:
        yield from ((row, min(in_train)) for row in in_test)


def _digest(data: np.ndarray | bytes) -> bytes:
    whole = data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes()
    return hashlib.blake2b(whole, digest_size=20).digest()


def _pixels(split: Split, row: int) -> bytes | None:
    return None if split.pixels is None else _digest(split.pixels[row])


def _encoded(split: Split, row: int) -> bytes | None:
    try:
        return _digest(split.encoded(row)) if isinstance(split, EncodedSplit) else None
    except DataError:
        return None


def _decoded(split: Split, row: int) -> bytes | None:
    try:
        image = split.open(row)
    except DataError:
        return None
    return _digest(repr(image.size).encode() + image.tobytes())


def _size(split: Split, row: int) -> int | None:
    try:
        return _path(split, row).stat().st_size or None
    except OSError:
        return None


def _end(split: Split, row: int) -> bytes | None:
    try:
        with _path(split, row).open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - END))
            return _digest(stream.read())
    except OSError:
        return None


def _whole(split: Split, row: int) -> bytes | None:
    try:
        return _digest(_path(split, row).read_bytes())
    except OSError:
        return None


def _path(split: Split, row: int) -> Path:
    return (split.root or Path()) / split.image_id(row)
