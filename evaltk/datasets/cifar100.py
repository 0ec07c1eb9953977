"""CIFAR-100: 50,000 training and 10,000 test images of 32 x 32 in 100 classes, as pickles, binary or class folders."""

from __future__ import annotations

from pathlib import Path

from evaltk.data import cifar_files as cifar
from evaltk.data import listed, parquet
from evaltk.data.images import Dataset
from evaltk.datasets import DatasetSpec

WHERE = (
    "expected: PATH/cifar-100-python/{train,test} (cifar-100-python.tar.gz of www.cs.toronto.edu/~kriz/cifar.html, "
    "unpacked) or PATH/cifar-100-binary/{train,test}.bin (cifar-100-binary.tar.gz) or PATH/train/apple/IMAGE and "
    "PATH/test/apple/IMAGE"
) + parquet.ALSO
NAMES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
    "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
    "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard "
    "lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear "
    "pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark "
    "shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone "
    "television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm "
)
CLASSES = tuple(NAMES.split())


def load(root: Path, label: str = "cifar100") -> Dataset:
    """Any of the layouts; the 100 fine classes in the official, alphabetical order. Raises: DataError."""
    python = cifar.Archive(
        folder="cifar-100-python",
        files={"train": ("train",), "test": ("test",)},
        read=lambda path: cifar.pickled(path, b"fine_labels"),
    )
    binary = cifar.Archive(
        folder="cifar-100-binary",
        files={"train": ("train.bin",), "test": ("test.bin",)},
        read=lambda path: cifar.binary(path, 2),  # the coarse class, then the fine one
    )
    official = listed.Official(title="CIFAR-100", where=WHERE, classes=100, counts={"train": 50_000, "test": 10_000})
    return cifar.find(
        root,
        label,
        cifar.Published(
            official=official, classes=CLASSES, number="100", archives=(python, binary), labels=("fine_label", "label")
        ),
    )


DATASET = DatasetSpec(name="cifar100", where=WHERE, load=load, doc=__doc__)
