"""Oxford-IIIT Pets: 3,680 training and 3,669 test images of 37 breeds of cats and dogs."""

from __future__ import annotations

from pathlib import Path

from evaltk.data import listed, parquet
from evaltk.data.images import Dataset
from evaltk.datasets import DatasetSpec
from evaltk.errors import DataError

WHERE = (
    "expected: PATH/{images/*.jpg,annotations/{trainval,test}.txt} of images.tar.gz and annotations.tar.gz from "
    "www.robots.ox.ac.uk/~vgg/data/pets, unpacked (PATH may also be the folder above oxford-iiit-pet, as torchvision's)"
) + parquet.ALSO
OFFICIAL = listed.Official(
    title="Oxford-IIIT Pets", where=WHERE, classes=37, counts={"train": 3680, "test": 3669}, metric="mean_per_class"
)
LISTS = {"train": "trainval", "test": "test"}


def load(root: Path, label: str = "pets") -> Dataset:
    """The official lists, in the official order of breeds; report the mean per class on test.

    Raises: DataError: a list or images are missing, or a breed's name and number do not go together.
    """
    if found := parquet.find(root):
        return parquet.dataset(label, found, OFFICIAL)
    folder = listed.locate(root, ("", "oxford-iiit-pet"), ("annotations", "images"), WHERE)
    listings: dict[str, listed.Listing] = {}
    numbers: dict[str, str] = {}
    for split, name in LISTS.items():
        path = folder / "annotations" / f"{name}.txt"
        rows = listed.read(path, _numbered, form="Abyssinian_100 1 1 1", where=WHERE)
        pairs = [(f"images/{image}.jpg", image.rpartition("_")[0]) for image, _ in rows.pairs]
        for (_, breed), (image, number) in zip(pairs, rows.pairs, strict=True):
            if numbers.setdefault(breed, number) != number:
                got = f"{number} for {image}"
                raise DataError(wanted=f"number {numbers[breed]} for {breed}", got=got, where=path, do=WHERE)
        listings[split] = listed.Listing(path=path, pairs=tuple(pairs))
    return listed.assemble(label, folder, listings, OFFICIAL, classes=sorted(numbers, key=lambda b: int(numbers[b])))


def _numbered(line: str) -> tuple[str, str] | None:
    """(image, the number of its breed) of a line that has species and breed within the species behind them."""
    parts = line.split()
    return (parts[0], parts[1]) if len(parts) >= 2 and "_" in parts[0] and parts[1].isdecimal() else None


DATASET = DatasetSpec(name="pets", where=WHERE, load=load, doc=__doc__)
