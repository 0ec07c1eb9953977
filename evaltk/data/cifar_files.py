"""The files that CIFAR-10 and CIFAR-100 are published as, python pickles and plain binary; and class folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaltk import safe_pickle as plain_pickle
from evaltk.data import images, listed, parquet
from evaltk.data.images import Dataset
from evaltk.deviations import Deviation, DeviationKind
from evaltk.errors import DataError

PIXELS = 3 * 32 * 32  # bytes of an image: all of its red, then green, then blue, each row by row
Batch = tuple[np.ndarray, np.ndarray]  # data [n, PIXELS] uint8, labels [n] int64


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """One archive of the official page, unpacked: its folder, {split: files}, and how a file is read."""

    folder: str
    files: Mapping[str, Sequence[str]]
    read: Callable[[Path], Batch]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One CIFAR: what it has, its classes in order, their number in words, its archives, label columns of parquet."""

    official: listed.Official
    classes: Sequence[str]
    number: str
    archives: Sequence[Archive]
    labels: Sequence[str]


def find(root: Path, label: str, published: Published) -> Dataset:
    """The archives' files in `root` or in their folder below it, else parquet files, else class folders.

    Raises: DataError: none of them, not all of the files, or one that is damaged.
    """
    for archive in published.archives:
        for folder in (root, root / archive.folder):
            # CIFAR-100's pickles are called train and test, as folders of images are: only files will do.
            if any((folder / name).is_file() for names in archive.files.values() for name in names):
                return _from_archive(folder, label, archive, published)
    if found := parquet.find(root):
        return parquet.dataset(label, found, published.official, labels=published.labels)
    return _from_folders(root, label, published)


def _from_archive(folder: Path, label: str, archive: Archive, published: Published) -> Dataset:
    official, splits = published.official, {}
    for split, names in archive.files.items():
        parts = [_batch(folder / name, archive, published) for name in names]
        data, labels = np.concatenate([d for d, _ in parts]), np.concatenate([y for _, y in parts])
        pixels = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy()
        splits[split] = images.from_arrays(label, split, pixels, labels, published.classes)
    counts = {split: len(found) for split, found in splits.items()}
    deviations = listed.differences(official, counts, len(published.classes))
    train, test = splits["train"], splits["test"]
    return Dataset(name=label, train=train, test=test, metric=official.metric, deviations=deviations)


def _batch(path: Path, archive: Archive, published: Published) -> Batch:
    title, where = published.official.title, published.official.where
    if not path.is_file():
        count = sum(map(len, archive.files.values()))
        wanted = f"all {'six' if count == 6 else count} batch files of {title}"
        raise DataError(wanted=wanted, got=f"no {path.name}", where=path.parent, do=where)
    try:
        data, labels = archive.read(path)
        if data.dtype != np.uint8 or data.shape != (len(labels), PIXELS) or not len(labels):
            raise ValueError(f"data {data.shape} {data.dtype} for {len(labels)} labels")
        if not (labels.min() >= 0 and labels.max() < len(published.classes)):
            raise ValueError(f"labels from {labels.min()} to {labels.max()}")
    except Exception as error:  # a damaged pickle can raise nearly anything; none of it is ours
        wanted = f"an official {title} batch (data [n, {PIXELS}] uint8, labels)"
        raise DataError(wanted=wanted, got=str(error)[:160], where=path, do=where) from error
    return data, labels


def pickled(path: Path, key: bytes) -> Batch:
    """A file of the python archive, read without making any of its objects; `key` names its labels."""
    found = plain_pickle.read(path, encoding="bytes")
    return found[b"data"].array, np.asarray(found[key], dtype=np.int64)


def binary(path: Path, label_bytes: int) -> Batch:
    """A file of the binary archive: for each image `label_bytes` bytes, the last its class, and its pixels."""
    width = label_bytes + PIXELS
    size = path.stat().st_size
    if size % width:
        raise ValueError(f"{size} bytes, which is no multiple of {width}")
    rows = np.fromfile(path, dtype=np.uint8).reshape(-1, width)
    return rows[:, label_bytes:], rows[:, label_bytes - 1].astype(np.int64)


def _from_folders(root: Path, label: str, published: Published) -> Dataset:
    official = published.official
    found = images.class_folders(root / "train", get=official.where)
    if tuple(found) != tuple(published.classes):
        raise DataError(
            wanted=f"the {published.number} classes {', '.join(published.classes[:10])}",
            got=", ".join(found[:12]),
            where=root / "train",
            do=f"for other classes use --data my-{label}:imagefolder=PATH",
        )
    train, test = (
        images.from_folder(label, split, root, published.classes, get=official.where) for split in ("train", "test")
    )
    text = f"{official.title} from image files: JPEG files are lossy, compare with figures of the original pixels with"
    lossy = Deviation(kind=DeviationKind.REENCODED_IMAGES, text=f"{text} care")
    odd = listed.differences(official, {"train": len(train), "test": len(test)}, len(published.classes))
    return Dataset(name=label, train=train, test=test, metric=official.metric, deviations=(lossy, *odd))
