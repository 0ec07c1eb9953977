"""ImageNet-1K (ILSVRC 2012): 1,281,167 training and 50,000 validation images of 1,000 classes, as class folders."""

from __future__ import annotations

import re
from pathlib import Path

from evaltk.data import images
from evaltk.data.images import Dataset
from evaltk.datasets import DatasetSpec
from evaltk.deviations import Deviation, DeviationKind
from evaltk.errors import DataError

WHERE = (
    "expected: PATH/train/nXXXXXXXX/*.JPEG and PATH/val/nXXXXXXXX/*.JPEG; get ILSVRC2012_img_train.tar and "
    "ILSVRC2012_img_val.tar from image-net.org (an account is needed), unpack the inner tars, and sort the validation "
    "images into class folders by the devkit's ground truth"
)
NUM_CLASSES, NUM_TRAIN, NUM_VAL = 1000, 1_281_167, 50_000


def load(root: Path, label: str = "imagenet") -> Dataset:
    """Learn from train/, report on val/; classes are numbered in sorted wnid order.

    Raises: DataError: a split is missing, is not in class folders, or has not the 1,000 classes.
    """
    classes = images.class_folders(root / "train", get=WHERE)
    if len(classes) != NUM_CLASSES or not all(re.fullmatch(r"n\d{8}", c) for c in classes):
        raise DataError(
            wanted="1000 class folders named nXXXXXXXX",
            got=f"{len(classes)}, the first {classes[0]}",
            where=root / "train",
            do=f"{WHERE}; for a subset use --data my-{label}:imagefolder=PATH",
        )
    train = images.from_folder(label, "train", root, classes, get=WHERE)
    val = images.from_folder(label, "val", root, classes, get=WHERE)
    deviations = tuple(
        Deviation(
            kind=DeviationKind.SPLIT_SIZE,
            text=f"{split.name} has {len(split):,} images, ImageNet-1K {official:,}",
        )
        for split, official in ((train, NUM_TRAIN), (val, NUM_VAL))
        if len(split) != official
    )
    return Dataset(name=label, train=train, test=val, deviations=deviations)


DATASET = DatasetSpec(name="imagenet", where=WHERE, load=load, doc=__doc__)
