"""Flowers-102: 1,020 training, 1,020 validation and 6,149 test images of 102 flowers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaltk import safe_matlab
from evaltk.data import listed, parquet
from evaltk.data.images import Dataset
from evaltk.datasets import DatasetSpec
from evaltk.errors import DataError

WHERE = (
    "expected: PATH/{jpg/image_00001.jpg...,setid.mat,imagelabels.mat} of 102flowers.tgz, setid.mat and "
    "imagelabels.mat from www.robots.ox.ac.uk/~vgg/data/flowers/102 (PATH may also be the folder above flowers-102, as "
    "torchvision's)"
) + parquet.ALSO
OFFICIAL = listed.Official(
    title="Flowers-102",
    where=WHERE,
    classes=102,
    counts={"train": 1020, "val": 1020, "test": 6149},
    metric="mean_per_class",
)
SETS = {"train": "trnid", "val": "valid", "test": "tstid"}


def load(root: Path, label: str = "flowers102") -> Dataset:
    """The official sets; learn from train and val, report the mean per class on test.

    The files give classes by number only: they are called 001 to 102.

    Raises: DataError: a file or images are missing, or a set and the labels do not go together.
    """
    if found := parquet.find(root):
        return parquet.dataset(label, found, OFFICIAL)
    folder = listed.locate(root, ("", "flowers-102"), ("setid.mat", "imagelabels.mat", "jpg"), WHERE)
    labels = _vectors(folder / "imagelabels.mat", ("labels",))["labels"]
    sets = _vectors(folder / "setid.mat", tuple(SETS.values()))
    listings = {}
    for split, key in SETS.items():
        ids = sets[key]
        if len(ids) and not (ids.min() >= 1 and ids.max() <= len(labels)):
            got = f"image {ids.max() if ids.min() >= 1 else ids.min()} in {key}"
            raise DataError(wanted=f"images 1 to {len(labels)}, as labelled", got=got, where=folder, do=WHERE)
        pairs = tuple((f"jpg/image_{i:05d}.jpg", f"{labels[i - 1]:03d}") for i in ids.tolist())
        listings[split] = listed.Listing(path=folder / "setid.mat", pairs=pairs)
    return listed.assemble(label, folder, listings, OFFICIAL)


def _vectors(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Vectors of whole numbers of a MATLAB file, int64 [n]; nothing else in it is looked at."""
    if not path.exists():
        raise DataError(wanted=path.name, got="no such file", where=path.parent, do=WHERE)
    try:
        found = safe_matlab.read(path, names)
        vectors = {name: np.atleast_1d(np.squeeze(found[name])) for name in names}
        for name, vector in vectors.items():
            if vector.ndim != 1 or not len(vector) or vector.dtype.kind not in "iuf" or (vector % 1).any():
                raise ValueError(f"{name} is {vector.dtype} {list(vector.shape)}")
    except (OSError, ValueError) as error:
        got = str(error)[:160]
        raise DataError(wanted=f"vectors {', '.join(names)} of whole numbers", got=got, where=path, do=WHERE) from error
    return {name: vector.astype(np.int64) for name, vector in vectors.items()}


DATASET = DatasetSpec(name="flowers102", where=WHERE, load=load, doc=__doc__)
