"""Linear transfer to small datasets: L2 softmax regression on frozen features, with a cross-validated strength.

Mode ``cv5`` is the paper's: Govindarajan et al., ICLR 2023 (arXiv 2405.10939), A.6.3 and Table 5. Mode ``holdout`` is
that of the code it follows, Ericsson et al., CVPR 2021 (linusericsson/ssl-transfer@416913f linear.py:157-177, 236-330),
except for its limit of 100 iterations, which leaves weak strengths unconverged: here every fit converges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from evaltk.bench import Bench, Extracts, Need, Outcome, of_all_splits, unreadable
from evaltk.data.images import Dataset
from evaltk.errors import DataError, SettingsError
from evaltk.types import Recipe, Score
from protocols.transfer.folds import FOLDS, held_out, stratified

if TYPE_CHECKING:
    import numpy as np

    from evaltk.logistic.regression import CrossValidation

NEED = Need(recipe=Recipe(), view="ssl")
Metric = Literal["top1", "mean_per_class"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of linear transfer; the defaults are the paper's.

    Attributes:
        mode: cv5 (5 stratified folds of the training split) or holdout (the official validation split, else 20 %).
        metric: top1, mean_per_class, or auto: the one that papers report on the dataset.
        lowest: log10 of the weakest strength l2; scikit-learn's C is 1 / l2.
        highest: log10 of the strongest strength l2.
        strengths: number of strengths, evenly spaced in log10.
        max_iterations: L-BFGS iterations per fit; a note reports fits that did not converge.
    """

    mode: Literal["cv5", "holdout"] = "cv5"
    metric: Literal["auto", "top1", "mean_per_class"] = "auto"
    lowest: float = -6.0
    highest: float = 5.0
    strengths: int = 45
    max_iterations: int = 1000

    def __post_init__(self) -> None:
        if not (self.strengths >= 1 and self.max_iterations >= 1):
            got = f"{self.strengths}, {self.max_iterations}"
            where = "--transfer.strengths, --transfer.max-iterations"
            raise SettingsError(wanted="at least 1", got=got, where=where, do="use the defaults, 45 and 1000")
        if not (-300 < self.lowest <= self.highest < 300 and (self.lowest < self.highest or self.strengths == 1)):
            got = f"{self.lowest} to {self.highest}, {self.strengths} values"
            where = "--transfer.lowest, --transfer.highest"
            raise SettingsError(wanted="lowest < highest, as powers of 10", got=got, where=where, do="use -6 and 5")

    @property
    def l2s(self) -> tuple[float, ...]:
        """The strengths in ascending order; by default 10^(-6 + i/4) for i = 0 to 44."""
        step = (self.highest - self.lowest) / max(1, self.strengths - 1)
        return tuple(10 ** (self.lowest + step * i) for i in range(self.strengths))


def extracts(bench: Bench, dataset: Dataset, settings: Settings) -> Extracts:
    """The same feature of all splits."""
    return of_all_splits(dataset, bench.class_feature(NEED))


def check(dataset: Dataset, settings: Settings) -> None:
    """Checks of the labels, without features. Raises: DataError: as `run`, except for shared and unreadable images."""
    _check_labels(dataset, dataset.train.labels, dataset.test.labels, settings)


def run(bench: Bench, dataset: Dataset, settings: Settings) -> Outcome:
    """The dataset's metric on the test split, the other one, and the calibration error of the softmax probabilities,
    after a fit on all training images.

    Raises: DataError: an empty split, a single class, a test class without training images, too few images for the
        folds, test images that are also training images, features that are not finite.
    """
    import numpy as np

    from evaltk import logistic
    from evaltk.data import overlap
    from evaltk.metrics.scores import calibration_error

    deviations = overlap.check(dataset)
    train, test = (bench.features(split, bench.class_feature(NEED)) for split in (dataset.train, dataset.test))
    deviations += unreadable(train, test)
    _check_labels(dataset, train.y, test.y, settings)
    metric: Metric = dataset.metric if settings.metric == "auto" else settings.metric
    folds, how = stratified(train.y) if settings.mode == "cv5" else held_out(dataset, train)
    shared: dict[str, Any] = {"num_classes": len(dataset.train.classes), "intercept": True}
    shared |= {"device": bench.device, "max_iterations": settings.max_iterations}
    search = logistic.cross_validate(train.x, train.y, l2s=settings.l2s, folds=folds, metric=metric, **shared)
    chosen = choose([float(v) for v in search.mean], prefer="stronger" if settings.mode == "cv5" else "weaker")
    l2 = settings.l2s[chosen]
    model = logistic.fit(train.x, train.y, l2=l2, **shared)
    predicted, confidence = model.predict(test.x).cpu().numpy(), model.confidence(test.x).cpu().numpy()
    notes = (how, *_warnings(search, chosen, model.converged, model.relative_gradient))
    at: dict[str, object] = {"mode": settings.mode, "l2": _short(l2)}
    return Outcome(
        scores=(
            *_scores(bench, dataset, predicted, test.y, metric, at),
            *_validation(dataset, search, chosen, metric, at),
            calibration_error(dataset, "ece", confidence, predicted == test.y, at),
        ),
        predictions={
            "target": test.y,
            "predicted": predicted.astype(np.int32),
            "predicted_confidence": confidence,
        },
        deviations=deviations,
        notes=notes,
    )


def choose(scores: list[float], *, prefer: Literal["stronger", "weaker"]) -> int:
    """Index of the highest score, given in order of ascending strength; ties go to the strongest or weakest.

    ssl-transfer breaks ties in favour of the weakest, the first one it visits (linear.py:161-169).
    """
    from evaltk.metrics.classification import EQUAL

    best = [i for i, score in enumerate(scores) if score >= max(scores) - EQUAL]
    return best[-1] if prefer == "stronger" else best[0]


def _check_labels(dataset: Dataset, train: np.ndarray, test: np.ndarray, settings: Settings) -> None:
    import numpy as np

    for split, labels in ((dataset.train, train), (dataset.test, test)):
        if not len(labels):
            where = f"{dataset.name} {split.name}"
            raise DataError(wanted="at least one image", got="none", where=where, do="add images")
    counts, where = np.bincount(train, minlength=len(dataset.train.classes)), f"{dataset.name} {dataset.train.name}"
    if (counts > 0).sum() < 2:
        got = f"one, {dataset.train.classes[int(counts.argmax())]}"
        do = "add images of other classes"
        raise DataError(wanted="training images of two classes or more", got=got, where=where, do=do)
    untrained = sorted(set(np.unique(test).tolist()) - set(np.flatnonzero(counts).tolist()))
    if untrained:
        named = ", ".join(dataset.train.classes[c] for c in untrained[:5])
        got = f"{len(untrained)} classes of {dataset.test.name} without any: {named}"
        raise DataError(wanted="training images of every test class", got=got, where=where, do="restore the split")
    if settings.mode == "cv5" and counts.max() < FOLDS:
        got = f"{counts.max()} images of the largest class"
        do = "add images, or use --transfer.mode holdout"
        raise DataError(wanted=f"a class with {FOLDS} images, one per fold", got=got, where=where, do=do)


def _warnings(search: CrossValidation, chosen: int, converged: bool, relative: float) -> tuple[str, ...]:
    """Notes on a choice at the edge of the grid and on fits that did not converge."""
    notes: list[str] = []
    if len(search.l2s) > 1 and chosen in (0, len(search.l2s) - 1):
        which = "weakest" if chosen == 0 else "strongest"
        notes.append(f"the chosen l2 = {_short(search.l2s[chosen]):g} is the {which} tried; extend the grid")
    if missed := int((~search.converged).sum()):
        worst = float(search.relative_gradients.max())
        count = f"{missed} of {search.converged.numel()} fits of the search did not converge"
        notes.append(f"{count} (relative gradient up to {worst:.1e})")
    if not converged:
        notes.append(f"the final fit did not converge (relative gradient {relative:.1e})")
    return tuple(notes)


def _short(l2: float) -> float:
    return float(f"{l2:.6g}")


def _scores(
    bench: Bench, dataset: Dataset, predicted: np.ndarray, target: np.ndarray, metric: Metric, at: dict[str, object]
) -> tuple[Score, ...]:
    """``transfer`` (the dataset's metric), and both metrics under their own names."""
    import numpy as np

    from evaltk.metrics.scores import bootstrap_bounds
    from evaltk.metrics.statistics import wilson_interval
    from evaltk.seeding import derive

    right = predicted == target
    n, correct = len(right), int(right.sum())
    rows = np.stack([target, right], axis=1)
    rng = np.random.default_rng(derive(bench.seed, "transfer", dataset.name))
    value, interval = float(mean_of_classes(rows[None])[0]), bootstrap_bounds(rows, mean_of_classes, rng=rng)
    both = {"top1": (correct / n, wilson_interval(correct, n)), "mean_per_class": (value, interval)}
    named = {"transfer": (both[metric], {"metric": metric})} | {name: (entry, {}) for name, entry in both.items()}
    return tuple(
        Score(
            dataset=dataset.name,
            split=dataset.test.name,
            metric=name,
            value=value,
            n=n,
            at=at | more,
            interval=interval,
        )
        for name, ((value, interval), more) in named.items()
    )


def mean_of_classes(sample: np.ndarray) -> np.ndarray:
    """See `evaltk.metrics.scores.mean_of_classes`."""
    from evaltk.metrics import scores

    return scores.mean_of_classes(sample)


def _validation(
    dataset: Dataset, search: CrossValidation, chosen: int, metric: Metric, at: dict[str, object]
) -> tuple[Score, ...]:
    """The mean score over folds, of the chosen strength and of every strength."""
    rows = [("validation_chosen_l2", chosen), *(("validation", i) for i in range(len(search.l2s)))]
    return tuple(
        Score(
            dataset=dataset.name,
            split=dataset.train.name,
            metric=name,
            value=float(search.mean[i]),
            n=len(dataset.train),
            at=at | {"l2": _short(search.l2s[i]), "metric": metric},
        )
        for name, i in rows
    )
