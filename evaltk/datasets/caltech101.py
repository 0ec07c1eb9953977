"""Caltech-101 with its background class: 30 images of each of 102 classes to learn from, the others to report on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from evaltk.data import images, listed
from evaltk.data.folders import is_hidden
from evaltk.data.images import Dataset
from evaltk.datasets import DatasetSpec
from evaltk.deviations import Deviation, DeviationKind
from evaltk.errors import DataError
from evaltk.seeding import derive

WHERE = (
    "expected: PATH/101_ObjectCategories/{BACKGROUND_Google,accordion,...}/*.jpg of caltech-101.zip from "
    "data.caltech.edu/records/mzrjq-6wc02, its inner 101_ObjectCategories.tar.gz unpacked too (PATH may also be "
    "101_ObjectCategories, or the folder above caltech101, as torchvision's)"
)
A_CLASS = 30  # images of each class to learn from
OFFICIAL = listed.Official(
    title="Caltech-101", where=WHERE, classes=102, counts={"train": 3060, "test": 6084}, metric="mean_per_class"
)


def load(root: Path, label: str = "caltech101") -> Dataset:
    """There is no official split: 30 images of each class, drawn without replacement with seed 0; mean per class.

    A class is drawn by its own name: a class more or less moves no other's images.

    Raises: DataError: no class folders, or a class of 30 images or fewer.
    """
    folder = categories(root)
    listings: dict[str, list[listed.Pair]] = {"train": [], "test": []}
    for cls, files in images_of(folder).items():
        if len(files) <= A_CLASS:
            got = f"{len(files)} in {cls}"
            raise DataError(wanted=f"more than {A_CLASS} images a class", got=got, where=folder, do=WHERE)
        drawn = np.random.default_rng(derive(0, "caltech101", cls)).permutation(len(files))[:A_CLASS]
        share(listings, cls, files, drawn)
    return assembled(
        label,
        folder,
        listings,
        OFFICIAL,
        f"split: {A_CLASS} images a class drawn without replacement, seed 0; Caltech-101 has no official split",
    )


def categories(root: Path) -> Path:
    """The folder of the class folders. Raises: DataError: there is none."""
    if root.name == "101_ObjectCategories" or (root / "BACKGROUND_Google").is_dir():
        return root
    name = "101_ObjectCategories"
    return listed.locate(root, ("", "caltech101", "caltech-101", "Caltech101/caltech101"), (name,), WHERE) / name


def images_of(folder: Path) -> dict[str, list[str]]:
    """{class: its image files, sorted}, classes sorted. Raises: DataError: no class folders."""
    return {
        cls: sorted(p.name for p in (folder / cls).iterdir() if _is_image(p.name))
        for cls in images.class_folders(folder, get=WHERE)
    }


def share(
    listings: Mapping[str, list[listed.Pair]], cls: str, files: Sequence[str], drawn: Sequence[int] | np.ndarray
) -> None:
    """Add the `drawn` of a class's files to train and the others to test, each in the order of the files."""
    chosen = set(map(int, drawn))
    for number, file in enumerate(files):
        listings["train" if number in chosen else "test"].append((f"{cls}/{file}", cls))


def assembled(
    label: str, folder: Path, listings: Mapping[str, Sequence[listed.Pair]], official: listed.Official, split: str
) -> Dataset:
    """The dataset of drawn lists; `split` says in words how they were drawn."""
    made = {name: listed.Listing(path=folder, pairs=tuple(pairs)) for name, pairs in listings.items()}
    return listed.assemble(label, folder, made, official, deviations=(own_split(split),))


def own_split(text: str) -> Deviation:
    """The dataset has no official split; `text` says how this one was made."""
    return Deviation(kind=DeviationKind.OWN_SPLIT, text=text)


def _is_image(name: str) -> bool:
    return name.lower().endswith(images.EXTENSIONS) and not is_hidden(name)


DATASET = DatasetSpec(name="caltech101", where=WHERE, load=load, doc=__doc__)
