"""Scores with their intervals, as protocols report them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from evaltk.metrics.calibration import BINS, reliability
from evaltk.metrics.statistics import Statistic, bootstrap_interval, wilson_interval
from evaltk.types import Score


class Named(Protocol):
    """A dataset or split."""

    @property
    def name(self) -> str: ...


class Reported(Named, Protocol):
    """A dataset whose split `test` is reported on."""

    @property
    def test(self) -> Named: ...


def share(dataset: Reported, metric: str, correct: int, n: int, at: Mapping[str, object] | None = None) -> Score:
    """The share `correct` / `n` of the images of the reported split, with its 95 % Wilson interval."""
    return Score(
        dataset=dataset.name,
        split=dataset.test.name,
        metric=metric,
        value=correct / n,
        n=n,
        at=at or {},
        interval=wilson_interval(correct, n),
    )


def calibration_error(
    dataset: Reported, metric: str, confidence: np.ndarray, correct: np.ndarray, at: Mapping[str, object] | None = None
) -> Score:
    """The expected calibration error on the reported split, in 15 equal bins; see `calibration.reliability`.

    Args:
        confidence: float32 [N], as kept beside the result, so that its tables and diagrams give the same number.
        correct: bool [N].
    """
    return Score(
        dataset=dataset.name,
        split=dataset.test.name,
        metric=metric,
        value=reliability(confidence, correct).ece,
        n=len(correct),
        at={**(at or {}), "bins": BINS},
    )


def bootstrap_bounds(
    items: np.ndarray, statistic: Statistic = "mean", *, rng: np.random.Generator
) -> tuple[float, float] | None:
    """The 95 % interval (low, high) of a statistic over items [N] or [N, M]; None for fewer than two items.

    Arguments and errors are those of `bootstrap_interval`.
    """
    if len(items) < 2:
        return None
    estimate = bootstrap_interval(items, statistic, rng=rng)
    return float(estimate.low), float(estimate.high)


def mean_of_classes(sample: np.ndarray) -> np.ndarray:
    """Mean per class of samples [B, N, 2] (class, whether it was right): [B], over the classes in each sample.

    It is a statistic for `bootstrap_bounds`; for one set of predictions see `classification.mean_per_class`.
    """
    labels, right = sample[..., 0].astype(np.int64), sample[..., 1]
    num_classes = int(labels.max()) + 1
    cells = (labels + num_classes * np.arange(len(labels))[:, None]).ravel()
    shape = (len(labels), num_classes)
    total = np.bincount(cells, minlength=len(labels) * num_classes).reshape(shape)
    hits = np.bincount(cells, weights=right.ravel(), minlength=len(labels) * num_classes).reshape(shape)
    return (hits / np.maximum(total, 1)).sum(axis=1) / (total > 0).sum(axis=1)
