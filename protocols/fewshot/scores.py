"""The figures of few-shot classification: each split, and mean and standard deviations over the splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evaltk.data.images import Dataset
from evaltk.types import Score
from protocols.fewshot.shots import Shots

if TYPE_CHECKING:
    import numpy as np

Key = tuple[Shots, float]  # one fit: its images, and the penalty


def name(few: Shots) -> str:
    """What the arrays of one fit are called: ``shots5_split1``, ``shots1 %_split1``."""
    return f"shots{few.per_class}_split{few.split}"


def arrays(target: np.ndarray, predictions: Mapping[Key, np.ndarray]) -> dict[str, np.ndarray]:
    """For each fit ``NAME_penalty0.075``, the classes predicted [N] int32; for each number of shots
    ``shots5_penalty0.075``, the share [N] float64 of the splits in which an image was right."""
    found = {f"{name(few)}_penalty{penalty}": p.astype("int32") for (few, penalty), p in predictions.items()}
    for (k, penalty), of in _over_splits(predictions).items():
        found[f"shots{k}_penalty{penalty}"] = sum((p == target).astype("float64") for p in of) / len(of)
    return found


def scores(
    dataset: Dataset, target: np.ndarray, predictions: Mapping[Key, np.ndarray], told: Mapping[str, object]
) -> tuple[Score, ...]:
    """Mean and standard deviations over splits first, then top-1 of each split with its interval over images.

    Args:
        target: classes [N]. predictions: classes [N] of each fit. told: what all scores hold at besides.
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
            at=at | dict(told),
            interval=interval,
        )

    found: list[Score] = []
    for (k, penalty), of in _over_splits(predictions).items():
        at: dict[str, object] = {"shots": k, "penalty": penalty, "splits": len(of)}
        for metric, value in spread([float((p == target).mean()) for p in of]).items():
            found.append(score(metric, value, n if metric == "top1_mean" else len(of), at))
    for (few, penalty), p in predictions.items():
        right = int((p == target).sum())
        at = {"shots": few.per_class, "penalty": penalty, "split": few.split, "n_train": len(few.rows)}
        found.append(score("top1", right / n, n, at, wilson_interval(right, n)))
    return tuple(found)


def _over_splits(predictions: Mapping[Key, np.ndarray]) -> dict[tuple[int | str, float], list[np.ndarray]]:
    found: dict[tuple[int | str, float], list[np.ndarray]] = {}
    for (few, penalty), p in predictions.items():
        found.setdefault((few.per_class, penalty), []).append(p)
    return found


def spread(accuracies: Sequence[float]) -> dict[str, float]:
    """``top1_mean`` and, of two splits or more, ``top1_std_sample`` (ddof 1) and ``top1_std_population`` (ddof 0)."""
    import numpy as np

    found = {"top1_mean": float(np.mean(accuracies))}
    if len(accuracies) > 1:
        found |= {
            "top1_std_sample": float(np.std(accuracies, ddof=1)),
            "top1_std_population": float(np.std(accuracies)),
        }
    return found
