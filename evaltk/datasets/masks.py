"""Your own label maps: images and masks of the same names, class ids as pixel values, 255 for void."""

from __future__ import annotations

from pathlib import Path

from evaltk.data import listed as lists
from evaltk.data.dense import DenseDataset, beside, paired
from evaltk.data.options import DataOptions
from evaltk.datasets import DatasetSpec
from evaltk.errors import DataError

WHERE = "expected: PATH/{train,test}/{images,masks}/NAME.* and PATH/classes.txt, one name per line from id 0"


def load(root: Path, label: str = "masks", options: DataOptions | None = None) -> DenseDataset:
    """Learn from train/, report on test/. Raises: DataError: another layout, files that do not pair, no classes.txt.

    Args:
        options: how images are read, which `datasets.load` sees to.
    """
    listed = root / "classes.txt"
    if not listed.is_file():
        do = "name the classes, one per line, the first is id 0"
        raise DataError(wanted="the names of the classes", got="no such file", where=listed, do=do)
    classes = lists.lines(listed, WHERE, comments=False)
    splits = [
        paired(label, name, root, beside(root, f"{name}/images", f"{name}/masks", where=WHERE), classes)
        for name in ("train", "test")
    ]
    return DenseDataset(name=label, train=splits[0], test=splits[1])


DATASET = DatasetSpec(name="masks", where=WHERE, load=load, options=("show", "max_pixels"), doc=__doc__)
