"""Scikit-learn's handwritten digits: 1,797 images of 8 x 8, bundled with scikit-learn, no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaltk.data import images
from evaltk.data.images import Dataset
from evaltk.datasets import DatasetSpec

WHERE = "bundled with scikit-learn"
NUM_TRAIN = 1000  # in the file's order, so that no writer's digits are shuffled into both splits
LEVELS = 16


def load(root: Path | None, label: str = "digits") -> Dataset:
    """The first 1,000 digits to learn from, the last 797 to report on; gray levels 0..16 spread over 0..255."""
    from sklearn.datasets import load_digits

    found = load_digits()
    gray = np.rint(found.images * (255 / LEVELS)).astype(np.uint8)  # [N, 8, 8]
    pixels = np.repeat(gray[..., None], 3, axis=3)
    names = [str(c) for c in found.target_names]
    return Dataset(
        name=label,
        train=images.from_arrays(label, "train", pixels[:NUM_TRAIN], found.target[:NUM_TRAIN], names),
        test=images.from_arrays(label, "test", pixels[NUM_TRAIN:], found.target[NUM_TRAIN:], names),
    )


DATASET = DatasetSpec(name="digits", where=WHERE, load=load, needs_path=False, doc=__doc__)
