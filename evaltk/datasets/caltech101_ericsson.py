"""Caltech-101 in the split of Ericsson et al. (2021): 30 draws a class with replacement, 2,416 images to learn from.

The rule: classes and files sorted as ImageFolder does; for each class in turn numpy's RandomState(0) draws 30 of its
files with replacement; what is drawn more than once counts once, what is never drawn is tested on. On the whole data
set this gives the lists that ssl-transfer publishes (2,416 and 6,728 images; 17 to 30 of a class).
Source: linusericsson/ssl-transfer@416913f datasets/caltech101.py:13-44, caltech101-splits/.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaltk.data import listed
from evaltk.data.images import Dataset
from evaltk.datasets import DatasetSpec, caltech101
from evaltk.errors import DataError

WHERE = f"{caltech101.WHERE}; train.txt and test.txt of ssl-transfer's caltech101-splits are taken where PATH has them"
OFFICIAL = listed.Official(
    title="the split of Ericsson et al.",
    where=WHERE,
    classes=102,
    counts={"train": 2416, "test": 6728},
    metric="mean_per_class",
)
LISTS = {"train": "train.txt", "test": "test.txt"}


def load(root: Path, label: str = "caltech101_ericsson") -> Dataset:
    """By the lists train.txt and test.txt in PATH where they are, else by the rule that made them; mean per class.

    Raises: DataError: no class folders, one list of the two, or listed images that are missing.
    """
    folder = caltech101.categories(root)
    if any((root / name).exists() for name in LISTS.values()):
        listings = {
            split: listed.read(root / name, _pair, form="accordion/image_0001.jpg 3", where=WHERE)
            for split, name in LISTS.items()
        }
        split = caltech101.own_split("split: the lists train.txt and test.txt")
        return listed.assemble(label, folder, listings, OFFICIAL, deviations=(split,))
    drawn: dict[str, list[listed.Pair]] = {"train": [], "test": []}
    draw = np.random.RandomState(0)
    for cls, files in caltech101.images_of(folder).items():
        if not files:
            raise DataError(wanted="images in every class", got=f"none in {cls}", where=folder, do=WHERE)
        caltech101.share(drawn, cls, files, draw.choice(len(files), caltech101.A_CLASS))
    how = "split: 30 draws a class with replacement, RandomState(0), as Ericsson et al. drew"
    return caltech101.assembled(label, folder, drawn, OFFICIAL, how)


def _pair(line: str) -> listed.Pair | None:
    file, _, number = line.rpartition(" ")
    cls = file.partition("/")[0]
    return (file, cls) if "/" in file and number.isdecimal() else None


DATASET = DatasetSpec(name="caltech101_ericsson", where=WHERE, load=load, doc=__doc__)
