"""CIFAR-10: 50,000 training and 10,000 test images of 32 x 32, as the official python pickles or as class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaltk import images, plain_pickle
from evaltk.errors import DataError
from evaltk.images import Dataset, Split

NEEDS_PATH = True
WHERE = (
    "expected: PATH/cifar-10-batches-py/{data_batch_1..5,test_batch} (cifar-10-python.tar.gz of "
    "www.cs.toronto.edu/~kriz/cifar.html, unpacked) or PATH/train/airplane/IMAGE and PATH/test/airplane/IMAGE"
)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN_FILES = tuple(f"data_batch_{i}" for i in range(1, 6))
ROWS = 10_000


def load(root: Path, label: str = "cifar10") -> Dataset:
    """Either layout; classes in the official order, which is also the alphabetical one. Raises: DataError."""
    for folder in (root, root / "cifar-10-batches-py"):
        if any((folder / name).exists() for name in (*TRAIN_FILES, "test_batch")):
            return _from_pickles(folder, label)
    found = images.class_folders(root / "train", get=WHERE)
    if tuple(found) != CLASSES:
        raise DataError(
            wanted=f"the ten classes {', '.join(CLASSES)}",
            got=", ".join(found[:12]),
            where=root / "train",
            do=f"for other classes use --data my-{label}:imagefolder=PATH",
        )
    return Dataset(
        name=label,
        train=images.from_folder(label, "train", root, CLASSES, get=WHERE),
        test=images.from_folder(label, "test", root, CLASSES, get=WHERE),
        notes=(
            "CIFAR-10 from image files: JPEG files are lossy, compare with figures of the original pixels with care",
        ),
    )


def _from_pickles(folder: Path, label: str) -> Dataset:
    train = [_batch(folder / name) for name in TRAIN_FILES]
    test = [_batch(folder / "test_batch")]
    rows = [len(y) for _, y in (*train, *test)]
    odd = () if rows == [ROWS] * 6 else (f"batches hold {rows} images where CIFAR-10's hold {ROWS} each",)
    return Dataset(name=label, train=_split(label, "train", train), test=_split(label, "test", test), notes=odd)


def _split(label: str, name: str, batches: list[tuple[np.ndarray, np.ndarray]]) -> Split:
    pixels = np.concatenate([p for p, _ in batches])
    return images.from_arrays(label, name, pixels, np.concatenate([y for _, y in batches]), CLASSES)


def _batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(pixels [n, 32, 32, 3] uint8, labels [n]) of one official batch file."""
    if not path.exists():
        raise DataError(wanted="all six batch files of CIFAR-10", got=f"no {path.name}", where=path.parent, do=WHERE)
    try:
        found = plain_pickle.read(path, encoding="bytes")
        data, labels = found[b"data"].array, np.asarray(found[b"labels"], dtype=np.int64)
        if data.dtype != np.uint8 or data.shape != (len(labels), 3 * 32 * 32):
            raise ValueError(f"data {data.shape} {data.dtype} for {len(labels)} labels")
        if len(labels) and not (labels.min() >= 0 and labels.max() < len(CLASSES)):
            raise ValueError(f"labels from {labels.min()} to {labels.max()}")
    except Exception as error:  # a damaged pickle can raise nearly anything; none of it is ours
        raise DataError(
            wanted="an official CIFAR-10 batch (data [n, 3072] uint8, labels)",
            got=str(error)[:160],
            where=path,
            do=WHERE,
        ) from error
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy(), labels
