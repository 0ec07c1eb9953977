"""Unsupervised classification: k-means of frozen features, matched with the classes.

Accuracy by Hungarian matching, NMI and the adjusted Rand index, as in iBOT's unsupervised classification
(arXiv 2111.07832, table 4) and SCAN's evaluation. scikit-learn's k-means, features at unit length; iBOT's script takes
the outputs of its projection head as clusters.

Source of the numbers: ibot/evaluation/unsupervised/unsup_cls.py:22-71 at da316d8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evaltk import settings_rules
from evaltk.bench import Bench, Extracts, Need, Outcome, Protocol, unreadable
from evaltk.data.images import Dataset, Split
from evaltk.types import Features, Recipe, Score

NEED = Need(recipe=Recipe())


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of clustering.

    Attributes:
        clusters: number of clusters; default: the number of classes.
        fit: the split that centroids are found on; the reported split is always the test split.
        restarts: initialisations of k-means, of which the best objective counts.
        iterations: of each at most.
    """

    clusters: int | None = None
    fit: Literal["test", "train"] = "test"
    restarts: int = 10
    iterations: int = 300

    def __post_init__(self) -> None:
        rules = {
            "clusters": (self.clusters is not None and self.clusters < 2, ">= 2"),
            "restarts": (self.restarts < 1, ">= 1"),
            "iterations": (self.iterations < 1, ">= 1"),
        }
        settings_rules.check("clustering", self, rules)


def _fitted(dataset: Dataset, settings: Settings) -> Split:
    return dataset.train if settings.fit == "train" else dataset.test


def _clusters(dataset: Dataset, settings: Settings) -> int:
    return settings.clusters or len(dataset.test.classes)


def check(dataset: Dataset, settings: Settings) -> None:
    """Raises: SettingsError: more clusters than images."""
    number, images = _clusters(dataset, settings), len(_fitted(dataset, settings))
    if not 2 <= number <= images:
        raise settings_rules.refusal("clustering", "clusters", f"2 to {images}, the images of {settings.fit}", number)


def extracts(bench: Bench, dataset: Dataset, settings: Settings) -> Extracts:
    """The class feature of the test split, and of the split that is clustered."""
    need = bench.class_feature(NEED)
    more = ((dataset.train, (need,)),) if settings.fit == "train" else ()
    return ((dataset.test, (need,)), *more)


def run(bench: Bench, dataset: Dataset, settings: Settings) -> Outcome:
    """Accuracy, NMI and adjusted Rand index of the test images' clusters.

    Raises: DataError: features that are not finite or all the same.
    """
    import numpy as np
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    from evaltk.metrics.clustering import agreement, hungarian_accuracy
    from evaltk.metrics.geometry import unit
    from evaltk.metrics.statistics import wilson_interval
    from evaltk.seeding import derive

    need = bench.class_feature(NEED)
    test = bench.features(dataset.test, need)
    fitted = bench.features(_fitted(dataset, settings), need) if settings.fit == "train" else test
    number = _clusters(dataset, settings)
    seed = derive(bench.seed, "clustering", dataset.name) % 2**32
    means = KMeans(number, n_init=settings.restarts, max_iter=settings.iterations, random_state=seed)
    means.fit(unit(np.asarray(fitted.x)))
    assigned = means.predict(unit(np.asarray(test.x))).astype(np.int64)
    accuracy, label_of = hungarian_accuracy(assigned, test.y)
    found = agreement(assigned, test.y, number)
    at = {"clusters": number, "fit": settings.fit}
    notes = () if means.n_iter_ < settings.iterations else (f"k-means: not converged in {settings.iterations} steps",)
    n = len(test.y)

    def score(metric: str, value: float, interval: tuple[float, float] | None = None) -> Score:
        split = dataset.test.name
        return Score(dataset=dataset.name, split=split, metric=metric, value=value, n=n, at=at, interval=interval)

    return Outcome(
        scores=(
            score("cluster_accuracy", accuracy, wilson_interval(round(accuracy * n), n)),
            score("nmi", found.nmi),
            score("adjusted_rand", float(adjusted_rand_score(test.y, assigned))),
            score("purity", found.purity),
        ),
        predictions={
            "target": test.y,
            "cluster": assigned.astype(np.int32),
            "predicted": label_of[assigned].astype(np.int32),
            "class_names": np.asarray(dataset.test.classes),
        },
        deviations=unreadable(*_distinct(test, fitted)),
        notes=notes,
    )


def _distinct(test: Features, fitted: Features) -> tuple[Features, ...]:
    return (test,) if fitted is test else (fitted, test)


def _learns(settings: Settings) -> bool:
    return False


PROTOCOL = Protocol(
    name="clustering",
    version=1,
    kind="images",
    settings=Settings,
    run=run,
    doc=__doc__,
    check=check,
    extracts=extracts,
    chooses_feature=True,
    learns=_learns,
)
