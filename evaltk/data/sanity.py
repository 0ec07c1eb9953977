"""What makes any score meaningless, checked for all protocols in one place and in the same words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from evaltk.data import overlap
from evaltk.data.dense import DenseDataset
from evaltk.data.encoded import EncodedSplit
from evaltk.data.images import Dataset
from evaltk.deviations import Deviation, DeviationKind
from evaltk.errors import DataError, lookalike, some, twins
from evaltk.progress import log
from evaltk.types import Score

MANY = 10_000  # test images beyond which a sample is compared with the training images
SAMPLE = 2_000
MANY_ENCODED = 20_000  # images inside larger files beyond which they are not read for a comparison
SAME = 1e-6  # relative difference of features that are identical but for rounding
SIGMAS = 2.0  # of a binomial: how far above guessing a score may lie that is still called chance


def check_labels(dataset: Any, *, learns: bool = True) -> None:
    """Check a dataset's labels before any work; datasets of other kinds pass.

    Args:
        learns: whether classes are learnt from the training images (not so of a published head).

    Raises: DataError: no images, labels out of range, one class, test classes that cannot be learnt.
    """
    if not isinstance(dataset, Dataset):
        return
    for split in (dataset.train, dataset.test) if learns else (dataset.test,):
        where = f"{dataset.name} {split.name}"
        if not len(split):
            do = "add images, or draw a test split: --split 0.2" if split is dataset.train else "add images"
            raise DataError(wanted=f"images in {split.name}", got="none", where=where, do=do)
        odd = int(((split.labels < 0) | (split.labels >= len(split.classes))).sum())
        if odd:
            wanted = f"a label from 0 to {len(split.classes) - 1} for every image"
            raise DataError(wanted=wanted, got=f"{odd} images without", where=where, do="label them, or leave them out")
    check_names(dataset)
    if not learns:
        return
    where, known = f"{dataset.name} {dataset.train.name}", np.unique(dataset.train.labels)
    if len(known) < 2:
        got, do = f"one, {dataset.train.classes[int(known[0])]}", "add images of other classes"
        raise DataError(wanted="training images of two classes or more", got=got, where=where, do=do)
    if untrained := [dataset.train.classes[c] for c in np.setdiff1d(dataset.test.labels, known)]:
        got = f"{len(untrained)} classes of {dataset.test.name} without any: {some(untrained, 5)}"
        raise DataError(wanted="training images of every test class", got=got, where=where, do="restore the split")
    if untested := [dataset.train.classes[c] for c in np.setdiff1d(known, dataset.test.labels)]:
        told = f"{len(untested)} of the {len(known)} training classes: {some(untested, 5)}"
        log.warning("%s %s has no image of %s", dataset.name, dataset.test.name, told)


def check_names(dataset: Dataset) -> None:
    """Check that no two classes are one to a reader's eye. Raises: DataError: they differ in Unicode form or spaces."""
    if found := twins(dataset.train.classes):
        raise DataError(
            wanted="classes whose names can be told apart",
            got=lookalike([found[0][1]], [found[0][0]]),
            where=f"{dataset.name} {dataset.train.name}",
            do="put their images under one name",
        )


def shared_images(dataset: Any) -> tuple[Deviation, ...]:
    """Test images that are training images too, as `overlap.check`; of large test splits a sample of `SAMPLE`.

    PyTorch datasets are compared by pixels where they are made. Images inside larger files are not read for this where
    they are many.

    Raises: DataError: they are more than the test split can bear.
    """
    if not isinstance(dataset, Dataset | DenseDataset) or not len(dataset.train):
        return ()
    if any(one.kind is DeviationKind.SHARED_IMAGES for one in dataset.deviations):
        return ()
    train, test = dataset.train, dataset.test
    if test.files is None and test.pixels is None:
        return ()
    if isinstance(train, EncodedSplit) and len(train) + len(test) > MANY_ENCODED:
        return ()
    if len(test) <= MANY:
        return overlap.check(dataset)
    rows = np.unique(np.linspace(0, len(test) - 1, SAMPLE).astype(np.int64))
    part = test.taken(rows, name=f"{test.name} (a sample)", fingerprint=test.fingerprint)
    return overlap.check(replace(dataset, test=part))  # type: ignore[arg-type]


def check_varied(x: np.ndarray, where: str) -> None:
    """Check that features x [N, D] differ between images. Raises: DataError: they are all the same."""
    sample = x[:: max(1, len(x) // 2048)]  # of all classes, since images are sorted by class
    if len(sample) > 1 and np.abs(sample - sample[:1]).max() <= SAME * np.abs(sample[:1]).max():
        raise constant(where)


def copies(nearest: np.ndarray) -> tuple[str, ...]:
    """A note where more test images than `overlap.MOST` have the features of a training image, as copies of it have.

    Args:
        nearest: [N] cosine of each with its nearest training image.
    """
    same = int((nearest >= 1 - SAME).sum())
    if same <= overlap.MOST * len(nearest):
        return ()
    told = f"{same:,} of {len(nearest):,} test images have the features of a training image"
    return (f"{told}: are they copies of these in other files?",)


def constant(where: str) -> DataError:
    """The error for features that are the same for all images."""
    return DataError(
        wanted="features that differ between images",
        got="identical features for all images",
        where=where,
        do="look whether the images are all alike; if they are not, the model has probably collapsed",
    )


def chance(dataset: Any, scores: Iterable[Score]) -> tuple[str, ...]:
    """A note where even the best top-1 accuracy is what guessing the most frequent class gives, within 2 sigmas."""
    tops = [score for score in scores if "top1" in score.metric and score.n]
    if not isinstance(dataset, Dataset) or not tops or not len(dataset.test):
        return ()
    best = max(tops, key=lambda score: score.value)
    guess = float(np.bincount(dataset.test.labels).max()) / len(dataset.test)
    if best.value > guess + SIGMAS * math.sqrt(guess * (1 - guess) / best.n):
        return ()
    said = f"{100 * best.value:.1f} % of {best.n:,}, guessing gives {100 * guess:.1f} %"
    return (f"top-1 is at chance ({said}): check the labels, the images and the checkpoint",)
