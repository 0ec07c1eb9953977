"""SUN397, partition 01: 19,850 training and 19,850 test images of 397 scenes."""

from __future__ import annotations

from pathlib import Path

from evaltk.data import listed, parquet
from evaltk.data.images import Dataset
from evaltk.datasets import DatasetSpec

WHERE = (
    "expected: PATH/SUN397/a/abbey/*.jpg of SUN397.tar.gz and PATH/Partitions/{ClassName,Training_01,Testing_01}.txt "
    "of Partitions.zip, both from vision.princeton.edu/projects/2010/SUN, unpacked (the lists may also lie in PATH or "
    "in PATH/SUN397; what torchvision downloads has no lists)"
) + parquet.ALSO
OFFICIAL = listed.Official(
    title="SUN397", where=WHERE, classes=397, counts={"train": 19_850, "test": 19_850}, metric="top1"
)
LISTS = {"train": "Training_01.txt", "test": "Testing_01.txt"}


def load(root: Path, label: str = "sun397") -> Dataset:
    """The lists of partition 01; report top-1 on test.

    Raises: DataError: a list or images are missing.
    """
    if found := parquet.find(root):
        return parquet.dataset(label, found, OFFICIAL)
    lists = listed.locate(root, ("", "Partitions", "SUN397", "SUN397/Partitions"), tuple(LISTS.values()), WHERE)
    listings = {
        split: listed.read(lists / name, _pair, form="/a/abbey/sun_aaalbzqrimafwbiv.jpg", where=WHERE)
        for split, name in LISTS.items()
    }
    first = listings["train"].pairs[0][0]
    folder = next((f for f in (root, root / "SUN397") if (f / first).parent.is_dir()), root / "SUN397")
    classes = None
    if path := next((f / "ClassName.txt" for f in (lists, folder) if (f / "ClassName.txt").exists()), None):
        classes = [line.lstrip("/").partition("/")[2] for line in listed.lines(path, WHERE)]
    return listed.assemble(label, folder, listings, OFFICIAL, classes=classes)


def _pair(line: str) -> listed.Pair | None:
    """``/a/apartment_building/outdoor/NAME.jpg`` is of the class apartment_building/outdoor."""
    file = line.lstrip("/")
    scene = file.partition("/")[2].rpartition("/")[0]
    return (file, scene) if scene else None


DATASET = DatasetSpec(name="sun397", where=WHERE, load=load, doc=__doc__)
