"""Intersection over union of classes over all pixels of a dataset, from a confusion matrix that batches add up to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaltk.errors import DataError

VOID = 255


def confusion(target: np.ndarray, predicted: np.ndarray, num_classes: int, *, void: int = VOID) -> np.ndarray:
    """Pixels by class and prediction [C, C] int64; pixels whose target is `void` are left out.

    Args: target, predicted: integers of one shape, predictions in [0, C).

    Raises: DataError: other shapes, or classes out of range.

    >>> confusion(np.array([0, 1, 255]), np.array([0, 0, 1]), 2).tolist()
    [[1, 0], [1, 0]]
    """
    target, predicted = np.asarray(target), np.asarray(predicted)
    kept = target != void
    alike = target.shape == predicted.shape
    true, found = (x[kept].astype(np.int64) for x in (target, predicted if alike else target))
    both = np.concatenate([true, found, [0]])
    if not alike or both.min() < 0 or both.max() >= num_classes:
        got = f"{list(target.shape)} and {list(predicted.shape)}, ids {both.min()} to {both.max()}"
        raise DataError(wanted=f"classes from 0 to {num_classes - 1} of one shape", got=got, do="check the label maps")
    return np.bincount(true * num_classes + found, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What a confusion matrix says, fractions in [0, 1].

    Attributes:
        iou: of each class [C], NaN where it is neither there nor predicted. miou: their mean.
        pixel_accuracy: share of pixels that are right. mean_accuracy: mean over the classes that are there.
    """

    iou: np.ndarray
    miou: float
    pixel_accuracy: float
    mean_accuracy: float


def overlap(matrix: np.ndarray) -> Overlap:
    """Overlap from a confusion matrix [C, C]. Raises: DataError: it is empty.

    >>> overlap(np.array([[1, 1], [0, 2]])).iou.round(3).tolist()
    [0.5, 0.667]
    """
    matrix = np.asarray(matrix, dtype=np.int64)
    if not matrix.sum():
        raise DataError(wanted="labelled pixels", got="none", do="look at the label maps: all are void")
    right, true, found = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    union = true + found - right
    with np.errstate(invalid="ignore"):
        iou = np.where(union > 0, right / union, np.nan)
        accuracy = right / true
    return Overlap(
        iou=iou,
        miou=float(np.nanmean(iou)),
        pixel_accuracy=float(right.sum() / matrix.sum()),
        mean_accuracy=float(np.nanmean(accuracy)),
    )
