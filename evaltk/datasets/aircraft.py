"""FGVC-Aircraft by variant: 3,334 training, 3,333 validation and 3,333 test images of 100 aircraft variants."""

from __future__ import annotations

from pathlib import Path

from evaltk.data import listed, parquet
from evaltk.data.images import Dataset
from evaltk.datasets import DatasetSpec

WHERE = (
    "expected: PATH/data/{images/*.jpg,images_variant_{train,val,test}.txt,variants.txt} of fgvc-aircraft-2013b.tar.gz "
    "from www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft, unpacked (PATH may also be the folder above, as torchvision's)"
) + parquet.ALSO
OFFICIAL = listed.Official(
    title="FGVC-Aircraft",
    where=WHERE,
    classes=100,
    counts={"train": 3334, "val": 3333, "test": 3333},
    metric="mean_per_class",
)


def load(root: Path, label: str = "aircraft") -> Dataset:
    """The official lists; learn from train and val, report the mean per class on test.

    Raises: DataError: a list or images are missing.
    """
    if found := parquet.find(root):
        return parquet.dataset(label, found, OFFICIAL, labels=("variant", *parquet.LABELS))
    names = [f"images_variant_{split}.txt" for split in OFFICIAL.counts]
    folder = listed.locate(root, ("", "data", "fgvc-aircraft-2013b/data"), (*names, "images"), WHERE)
    listings = {
        split: listed.read(folder / name, _pair, form="1025794 707-320", where=WHERE)
        for split, name in zip(OFFICIAL.counts, names, strict=True)
    }
    variants = listed.lines(folder / "variants.txt", WHERE) if (folder / "variants.txt").exists() else None
    return listed.assemble(label, folder, listings, OFFICIAL, classes=variants)


def _pair(line: str) -> listed.Pair | None:
    image, _, variant = line.partition(" ")
    return (f"images/{image}.jpg", variant.strip()) if variant.strip() else None


DATASET = DatasetSpec(name="aircraft", where=WHERE, load=load, doc=__doc__)
