"""Scores of few-shot classification: per split, and mean and standard deviation over splits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from evaltk.data.images import Dataset
from evaltk.types import Score
from protocols.fewshot.shots import Shots

if TYPE_CHECKING:
    import numpy as np

Key = tuple[Shots, float]  # a fit: its images and its penalty


def name(few: Shots) -> str:
    """Array name of a fit: ``shots5_split1``, ``shots1 %_split1``."""
    return f"shots{few.per_class}_split{few.split}"


def arrays(
    target: np.ndarray, predictions: Mapping[Key, np.ndarray], confidences: Mapping[Key, np.ndarray]
) -> dict[str, np.ndarray]:
    """Prediction arrays: predicted classes per fit, and accuracy over splits per number of shots.

    Returns: ``{NAME_penalty0.075: classes [N] int32}`` for each fit, NAME as in `name`, and ``{shots5_penalty0.075:
        fraction of splits [N] float64 in which an image was correct}`` for each number of shots, and of the first split
        ``{NAME_penalty0.075_confidence: softmax probability of the prediction [N] float32}``.
    """
    out = {f"{name(few)}_penalty{penalty}": p.astype("int32") for (few, penalty), p in predictions.items()}
    for (k, penalty), splits in _over_splits(predictions).items():
        out[f"shots{k}_penalty{penalty}"] = sum((p == target).astype("float64") for p in splits) / len(splits)
    kept = {(few, penalty): c for (few, penalty), c in confidences.items() if few.split == 1}  # they compress badly
    return out | {f"{name(few)}_penalty{penalty}_confidence": c for (few, penalty), c in kept.items()}


def scores(
    dataset: Dataset, target: np.ndarray, predictions: Mapping[Key, np.ndarray], common: Mapping[str, object]
) -> tuple[Score, ...]:
    """Mean and standard deviations over splits, then top-1 of each split with its interval over images.

    Args:
        target: true classes [N]. predictions: predicted classes [N] of each fit. common: `at` of all scores.
    """
    from evaltk.metrics.statistics import wilson_interval

    n = len(target)

    def score(
        metric: str, value: float, count: int, at: dict[str, object], interval: tuple[float, float] | None = None
    ) -> Score:
        return Score(
            dataset=dataset.name,
            split=dataset.test.name,
            metric=metric,
            value=value,
            n=count,
            at=at | dict(common),
            interval=interval,
        )

    out: list[Score] = []
    for (k, penalty), splits in _over_splits(predictions).items():
        at: dict[str, object] = {"shots": k, "penalty": penalty, "splits": len(splits)}
        for metric, value in spread([float((p == target).mean()) for p in splits]).items():
            out.append(score(metric, value, n if metric == "top1_mean" else len(splits), at))
    for (few, penalty), p in predictions.items():
        right = int((p == target).sum())
        at = {"shots": few.per_class, "penalty": penalty, "split": few.split, "n_train": len(few.rows)}
        out.append(score("top1", right / n, n, at, wilson_interval(right, n)))
    return tuple(out)


def calibration(
    dataset: Dataset,
    target: np.ndarray,
    predictions: Mapping[Key, np.ndarray],
    confidences: Mapping[Key, np.ndarray],
    common: Mapping[str, object],
) -> tuple[Score, ...]:
    """``ece`` of each fit and ``ece_mean`` over splits; arguments as `scores`, confidences float32 [N] of each fit."""
    from evaltk.metrics.scores import calibration_error

    errors: list[Score] = []
    for (few, penalty), p in predictions.items():
        at = {"shots": few.per_class, "penalty": penalty, "split": few.split, "n_train": len(few.rows), **common}
        errors.append(calibration_error(dataset, "ece", confidences[few, penalty], p == target, at))
    means: list[Score] = []
    for (k, penalty), splits in _over_splits(predictions).items():
        mine = [e for e in errors if (e.at["shots"], e.at["penalty"]) == (k, penalty)]
        at = {"shots": k, "penalty": penalty, "splits": len(splits), **common, "bins": mine[0].at["bins"]}
        means.append(replace(mine[0], metric="ece_mean", value=math.fsum(e.value for e in mine) / len(mine), at=at))
    return (*means, *errors)


def _over_splits(predictions: Mapping[Key, np.ndarray]) -> dict[tuple[int | str, float], list[np.ndarray]]:
    grouped: dict[tuple[int | str, float], list[np.ndarray]] = {}
    for (few, penalty), p in predictions.items():
        grouped.setdefault((few.per_class, penalty), []).append(p)
    return grouped


def spread(accuracies: Sequence[float]) -> dict[str, float]:
    """``top1_mean`` and, for two splits or more, ``top1_std_sample`` (ddof 1) and ``top1_std_population`` (ddof 0)."""
    import numpy as np

    out = {"top1_mean": float(np.mean(accuracies))}
    if len(accuracies) > 1:
        out |= {
            "top1_std_sample": float(np.std(accuracies, ddof=1)),
            "top1_std_population": float(np.std(accuracies)),
        }
    return out
