"""Describable Textures (DTD), partition 1: 1,880 training, validation and test images each, of 47 textures."""

from __future__ import annotations

from pathlib import Path

from evaltk.data import listed, parquet
from evaltk.data.images import Dataset
from evaltk.datasets import DatasetSpec

WHERE = (
    "expected: PATH/{images/banded/*.jpg,labels/{train1,val1,test1}.txt} of dtd-r1.0.1.tar.gz from "
    "www.robots.ox.ac.uk/~vgg/data/dtd, unpacked (PATH may also be a folder above, as torchvision's)"
) + parquet.ALSO
OFFICIAL = listed.Official(
    title="DTD", where=WHERE, classes=47, counts={"train": 1880, "val": 1880, "test": 1880}, metric="top1"
)


def load(root: Path, label: str = "dtd") -> Dataset:
    """The lists of partition 1; learn from train and val, report top-1 on test.

    Raises: DataError: a list or images are missing.
    """
    if found := parquet.find(root):
        return parquet.dataset(label, found, OFFICIAL)
    folder = listed.locate(root, ("", "dtd", "dtd/dtd"), ("labels", "images"), WHERE)
    listings = {
        split: listed.read(folder / "labels" / f"{split}1.txt", _pair, form="banded/banded_0002.jpg", where=WHERE)
        for split in OFFICIAL.counts
    }
    return listed.assemble(label, folder, listings, OFFICIAL)


def _pair(line: str) -> listed.Pair | None:
    texture, _, image = line.partition("/")
    return (f"images/{line}", texture) if texture and image else None


DATASET = DatasetSpec(name="dtd", where=WHERE, load=load, doc=__doc__)
