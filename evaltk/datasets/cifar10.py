"""CIFAR-10: 50,000 training and 10,000 test images of 32 x 32, as pickles, binary files or class folders."""

from __future__ import annotations

from pathlib import Path

from evaltk.data import cifar_files as cifar
from evaltk.data import listed, parquet
from evaltk.data.images import Dataset
from evaltk.datasets import DatasetSpec

WHERE = (
    "expected: PATH/cifar-10-batches-py/{data_batch_1..5,test_batch} (cifar-10-python.tar.gz of "
    "www.cs.toronto.edu/~kriz/cifar.html, unpacked) or PATH/cifar-10-batches-bin/{data_batch_1..5,test_batch}.bin "
    "(cifar-10-binary.tar.gz) or PATH/train/airplane/IMAGE and PATH/test/airplane/IMAGE"
) + parquet.ALSO
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN_FILES = tuple(f"data_batch_{i}" for i in range(1, 6))


def load(root: Path, label: str = "cifar10") -> Dataset:
    """Any of the layouts; classes in the official order, which is also the alphabetical one. Raises: DataError."""
    python = cifar.Archive(
        folder="cifar-10-batches-py",
        files={"train": TRAIN_FILES, "test": ("test_batch",)},
        read=lambda path: cifar.pickled(path, b"labels"),
    )
    binary = cifar.Archive(
        folder="cifar-10-batches-bin",
        files={"train": tuple(f"{name}.bin" for name in TRAIN_FILES), "test": ("test_batch.bin",)},
        read=lambda path: cifar.binary(path, 1),
    )
    official = listed.Official(title="CIFAR-10", where=WHERE, classes=10, counts={"train": 50_000, "test": 10_000})
    return cifar.find(
        root,
        label,
        cifar.Published(official=official, classes=CLASSES, number="ten", archives=(python, binary), labels=("label",)),
    )


DATASET = DatasetSpec(name="cifar10", where=WHERE, load=load, doc=__doc__)
