"""Calibration of classifiers and what they confuse: expected calibration error, accuracy by class, worst pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from evaltk.errors import DataError

BINS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Confidence against accuracy in equal bins (0, 1/B], (1/B, 2/B] ... of confidence.

    Attributes:
        count: images in each bin [B]. confidence, accuracy: their means [B], NaN for an empty bin.
        ece: sum over bins of the share of images times |accuracy - confidence|, in [0, 1].
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Reliability:
    """Expected calibration error (Guo et al., ICML 2017, arXiv 1706.04599, equation 5) and its bins.

    Args:
        confidence: of the predicted class, in [0, 1] [N]. correct: bool [N].

    Raises: DataError: no images, or confidences outside [0, 1].

    >>> round(reliability(np.array([0.9, 0.8]), np.array([True, False])).ece, 3)
    0.45
    """
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
    inside = np.isfinite(confidence).all() and (confidence >= 0).all() and (confidence <= 1 + 1e-6).all()
    if confidence.ndim != 1 or confidence.shape != correct.shape or not len(correct) or not inside:
        got = f"{list(confidence.shape)} and {list(correct.shape)}"
        raise DataError(wanted="a confidence in [0, 1] for each of N >= 1 images", got=got, do="pass probabilities")
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, weights=confidence, minlength=bins) / count
        right = np.bincount(place, weights=correct, minlength=bins) / count
    used = count > 0
    gaps = count[used] / len(correct) * np.abs(right[used] - mean[used])
    return Reliability(count=count, confidence=mean, accuracy=right, ece=math.fsum(gaps.tolist()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Confused:
    """Images of class `label` predicted as `predicted`: `count` of them, a share `share` of the class."""

    label: int
    predicted: int
    count: int
    share: float


def by_class(target: np.ndarray, predicted: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(images [C] int64, accuracy [C] float64, NaN without images) of each class.

    >>> by_class(np.array([0, 0, 1]), np.array([0, 1, 1]), 3)[1].tolist()
    [0.5, 1.0, nan]
    """
    target, predicted = np.asarray(target, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    count = np.bincount(target, minlength=num_classes)
    right = np.bincount(target[target == predicted], minlength=num_classes)
    with np.errstate(invalid="ignore"):
        return count, np.where(count > 0, right / count, np.nan)


def worst_pairs(target: np.ndarray, predicted: np.ndarray, limit: int = 10) -> tuple[Confused, ...]:
    """The pairs (class, wrong prediction) with the most images; ties: the larger share of the class, then the ids."""
    target, predicted = np.asarray(target, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    wrong = target != predicted
    pairs, count = np.unique(np.stack([target[wrong], predicted[wrong]]), axis=1, return_counts=True)
    of_class = np.bincount(target, minlength=1)
    share = count / of_class[pairs[0]] if len(count) else count.astype(float)
    order = np.lexsort((pairs[1], pairs[0], -share, -count))[:limit]
    return tuple(
        Confused(label=int(pairs[0, i]), predicted=int(pairs[1, i]), count=int(count[i]), share=float(share[i]))
        for i in order.tolist()
    )
