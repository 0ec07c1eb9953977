"""Training images for choosing the regularisation strength: stratified folds, or a held-out part."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from evaltk.data.images import Dataset
from evaltk.errors import DataError
from evaltk.types import Features

if TYPE_CHECKING:
    import numpy as np

FOLDS = 5
HELD_OUT = 0.2  # without an official validation split; ssl-transfer linear.py:300-310


def stratified(labels: np.ndarray) -> tuple[np.ndarray, str]:
    """scikit-learn's StratifiedKFold, shuffled with seed 0: (training rows of each fold [5, N] bool, a description).

    Args:
        labels: [N] int64; at least one class has 5 rows.
    """
    import warnings

    import numpy as np
    from sklearn.model_selection import StratifiedKFold

    masks = np.ones((FOLDS, len(labels)), dtype=bool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about small classes, which the description mentions
        parts = StratifiedKFold(n_splits=FOLDS, shuffle=True, random_state=0).split(labels, labels)
        for mask, (_, left_out) in zip(masks, parts, strict=True):
            mask[left_out] = False
    counts = np.bincount(labels)
    small = int(((counts > 0) & (counts < FOLDS)).sum())
    warning = f"; {small} classes have fewer than {FOLDS} images and are missing from some folds" if small else ""
    return masks, f"l2 chosen by {FOLDS}-fold cross-validation on {len(labels):,} images, seed 0{warning}"


def held_out(dataset: Dataset, train: Features) -> tuple[np.ndarray, str]:
    """One fold that holds out the official validation images, or else a random 20 % (numpy's RandomState(0)).

    Returns: (training rows [1, N] bool, a description); the sample is ssl-transfer's for the same order of images.
    Raises: DataError: no images left to train or to validate on.
    """
    import numpy as np

    n, where = len(train.y), f"{dataset.name} {dataset.train.name}"
    mask = np.ones(n, dtype=bool)
    if dataset.val is not None:
        held = {dataset.train.image_id(int(i)) for i in np.flatnonzero(dataset.val)}
        mask = np.array([name not in held for name in train.ids])
        description = f"l2 chosen on the official validation split, {int((~mask).sum()):,} images"
    else:
        order = list(range(n))
        np.random.RandomState(0).shuffle(order)
        mask[order[: math.floor(HELD_OUT * n)]] = False
        description = f"l2 chosen on {int((~mask).sum()):,} randomly held-out training images"
        if gone := len(set(train.y.tolist()) - set(train.y[mask].tolist())):
            description += f"; {gone} classes have no image left to learn from meanwhile"
    if mask.all() or not mask.any():
        got = f"{int(mask.sum())} and {int((~mask).sum())}"
        raise DataError(wanted="images to train on and to validate on", got=got, where=where, do="add images")
    return mask[None], description
