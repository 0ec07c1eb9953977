"""Few-shot classification as in MSN: softmax regression on 1, 2 and 5 images per class, and on 1 % of the images.

Protocol: msn/logistic_eval.py at 4388dc1 with the penalty of Govindarajan et al., ICLR 2023 (arXiv 2405.10939), 5.1.3.
Each feature vector is centred on its own mean and scaled to unit norm. W minimises the mean cross-entropy plus
penalty / (2 n) ||W||^2 over the n training images, without intercept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evaltk import progress, settings_rules
from evaltk.bench import Bench, Extracts, Need, Outcome, unreadable
from evaltk.data import sanity
from evaltk.data.images import Dataset, Split
from evaltk.deviations import Deviation, DeviationKind
from evaltk.errors import DataError, SettingsError
from evaltk.types import Features, Recipe
from protocols.fewshot import scores, shots
from protocols.fewshot.shots import Chosen, Shots

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from evaltk.logistic.regression import LogisticModel

TOLERANCE = 1e-6  # of the gradient, relative; MSN stops at a duality gap of 1e-3, which may cost 0.15 points
# Of the lists of facebookresearch/msn at 4388dc1, imagenet_subsets1 to 3 (CC BY-NC 4.0, not part of this repository).
MSN_LISTS = "09d3120172bb225d208d35d3eb28bbb74d1338b97d046daf46e5ed5a2f382d6f"
ROWS = 8192  # rows normalised at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of few-shot classification; the defaults are MSN's with the paper's penalty.

    Attributes:
        preset: msn (class token before the final norm, bilinear resize) or dino (after it, bicubic, as for k-NN).
        norm: class token pre or post the final norm; default: by the preset.
        resize: bilinear or bicubic; default: by the preset.
        penalty: weight of ||W||^2 / 2 against the sum of cross-entropies (0.075; msn's examples: 0.0025, 0.00025).
        shots: images per class.
        percent: percentage of all images, spread evenly over the classes; 0: none.
        splits: number of random splits; ignored with lists, which have one split per folder.
        lists: folder of image lists in MSN's layout, FOLDER/1imgs_class.txt etc.; default: random images.
        lists_sha256: expected sha256 of the lists' contents; computed if not given.
    """

    preset: Literal["msn", "dino"] = "msn"
    norm: Literal["pre", "post"] | None = None
    resize: Literal["bilinear", "bicubic"] | None = None
    penalty: tuple[float, ...] = (0.075,)
    shots: tuple[int, ...] = (1, 2, 5)
    percent: float = 1.0
    splits: int = 3
    lists: str | None = None
    lists_sha256: str | None = None

    def __post_init__(self) -> None:
        rules = {
            "preset": (self.preset not in ("msn", "dino"), "msn or dino"),
            "norm": (self.norm not in (None, "pre", "post"), "pre or post"),
            "resize": (self.resize not in (None, "bilinear", "bicubic"), "bilinear or bicubic"),
            "penalty": (not self.penalty or not all(0 < p < math.inf for p in self.penalty), "penalties > 0"),
            "shots": (any(k < 1 for k in self.shots), "numbers >= 1"),
            "percent": (not 0 <= self.percent <= 100, "0 to 100"),
            "splits": (self.splits < 1, "at least 1"),
        }
        settings_rules.check("fewshot", self, rules)
        if not self.shots and not self.percent:
            raise SettingsError(wanted="shots or a percent", got="neither", where="--fewshot.shots", do="use 1 2 5")
        if self.lists is not None:  # results depend on the contents of the lists, not their path
            digest = shots.digest(Path(self.lists).expanduser())
            if self.lists_sha256 not in (None, digest):
                do = "use the original lists, or omit --fewshot.lists-sha256"
                raise DataError(wanted=f"lists of sha256 {self.lists_sha256}", got=digest, where=self.lists, do=do)
            object.__setattr__(self, "lists_sha256", digest)

    def images(self) -> str:
        """Where the images come from: ``drawn``, ``lists``, or ``MSN's lists`` (by sha256)."""
        if self.lists is None:
            return "drawn"
        return "MSN's lists" if self.lists_sha256 == MSN_LISTS else "lists"


def need_of(settings: Settings) -> Need:
    """The class token, before the final norm and resized by the bilinear filter unless told otherwise."""
    msn = settings.preset == "msn"
    bilinear = settings.resize == "bilinear" if settings.resize else msn
    norm = settings.norm == "post" if settings.norm else not msn
    return Need(recipe=Recipe(norm=norm), view="msn" if bilinear else "eval")


def check(dataset: Dataset, settings: Settings) -> None:
    """Checks that need no features. Raises: DataError: too few images or classes, lists of another dataset."""
    sanity.check_labels(dataset)
    choose(dataset.train, settings, 0)


def extracts(bench: Bench, dataset: Dataset, settings: Settings) -> Extracts:
    """The images to learn from, which are few of the training split, and all those to report on."""
    part, _ = shots.union(dataset.train, choose(dataset.train, settings, bench.seed).shots)
    needs = (bench.class_feature(need_of(settings)),)
    return ((part, needs), (dataset.test, needs))


def choose(train: Split, settings: Settings, seed: int) -> Chosen:
    """The training images, from lists or at random. Raises: DataError: as `shots.read` and `shots.draw`."""
    if settings.lists is not None:
        root = Path(settings.lists).expanduser()
        return shots.read(root, train, per_class=settings.shots, percent=settings.percent)
    return shots.draw(train, per_class=settings.shots, percent=settings.percent, splits=settings.splits, seed=seed)


def run(bench: Bench, dataset: Dataset, settings: Settings) -> Outcome:
    """Top-1 and calibration error for each number of shots, penalty and split, their means and the standard deviations
    of top-1 over splits.

    Raises: DataError: as `check`; identical features for all images; a class without readable images.
    """
    need = bench.class_feature(need_of(settings))
    chosen = choose(dataset.train, settings, bench.seed)
    part, rows = shots.union(dataset.train, chosen.shots)
    bank, queries = bench.features(part, need), bench.features(dataset.test, need)
    notes: tuple[str, ...] = ()
    split_row = {part.image_id(i): row for i, row in enumerate(rows.tolist())}
    feature_row = {split_row[name]: i for i, name in enumerate(bank.ids)}  # keys: rows of the training split
    x, x_test = centred(bank.x), centred(queries.x)
    _check_varied(x, bank)
    predictions: dict[tuple[Shots, float], np.ndarray] = {}
    confidences: dict[tuple[Shots, float], np.ndarray] = {}
    with progress.bar(f"{dataset.name} few-shot", len(chosen.shots), unit="fits") as advance:
        for few in chosen.shots:
            chosen_rows = [feature_row[row] for row in few.rows.tolist() if row in feature_row]
            y = bank.y[chosen_rows]
            _check_classes(few, y, dataset.train)
            for model in fit(x[chosen_rows], y, settings.penalty, len(dataset.train.classes), bench.device):
                predictions[few, model.l2] = model.predict(x_test).cpu().numpy()
                confidences[few, model.l2] = model.confidence(x_test).cpu().numpy()
                notes += _not_converged(few, model)
            advance(1)
    common = {"images": settings.images(), "feature": _feature(need)}
    train_rows = {f"{scores.name(few)}_train": few.rows for few in chosen.shots}
    return Outcome(
        scores=scores.scores(dataset, queries.y, predictions, common)
        + scores.calibration(dataset, queries.y, predictions, confidences, common),
        predictions={"target": queries.y} | scores.arrays(queries.y, predictions, confidences) | train_rows,
        deviations=selection(settings, bench.seed) + unreadable(bank, queries),
        notes=chosen.notes + notes,
    )


def selection(settings: Settings, seed: int) -> tuple[Deviation, ...]:
    """The deviation from MSN's image lists, if any."""
    if settings.images() == "drawn":
        text = f"random images (seed {seed}) instead of MSN's lists"
        return (Deviation(kind=DeviationKind.OWN_DRAWS, text=text),)
    if settings.images() == "lists":
        text = f"images from lists of sha256 {str(settings.lists_sha256)[:12]} instead of MSN's lists"
        return (Deviation(kind=DeviationKind.OTHER_LISTS, text=text),)
    return ()


def _feature(need: Need) -> str:
    return f"{'post' if need.recipe.norm else 'pre'}-norm, {'bilinear' if need.view == 'msn' else 'bicubic'}"


def centred(x: np.ndarray) -> np.ndarray:
    """Each row of x [N, D] minus its own mean, divided by its norm: float32 [N, D]; a constant row becomes zeros.

    Source: the in-place preprocessing of msn/logistic_eval.py:172 and 214 (cyanure, columns=False).
    """
    import numpy as np

    out = np.empty(x.shape, np.float32)
    for start in range(0, len(x), ROWS):
        rows = np.asarray(x[start : start + ROWS], np.float64)
        rows = rows - rows.mean(axis=1, keepdims=True)
        norm = np.linalg.norm(rows, axis=1, keepdims=True)
        out[start : start + ROWS] = rows / np.where(norm > 0, norm, 1)
    return out


def fit(
    x: np.ndarray, y: np.ndarray, penalties: Sequence[float], num_classes: int, device: str | None = None
) -> tuple[LogisticModel, ...]:
    """One regression per penalty on rows x [n, D] from `centred` with classes y [n] in [0, num_classes)."""
    from evaltk import logistic

    path = logistic.fit_path(
        x, y, l2s=penalties, num_classes=num_classes, intercept=False, tolerance=TOLERANCE, device=device
    )
    return path[0]


def _check_varied(x: np.ndarray, bank: Features) -> None:
    if abs(x - x[:1]).max() <= 1e-6:
        raise sanity.constant(bank.key.split)


def _check_classes(few: Shots, y: np.ndarray, train: Split) -> None:
    import numpy as np

    missing = [train.classes[c] for c in np.setdiff1d(np.arange(len(train.classes)), y)]
    if missing:
        raise DataError(
            wanted=f"a readable image of each class in {scores.name(few)}",
            got=f"none for {len(missing)} classes, the first of them {missing[0]}",
            where=f"{train.dataset} {train.name}",
            do="restore the images",
        )


def _not_converged(few: Shots, model: LogisticModel) -> tuple[str, ...]:
    if model.converged:
        return ()
    reached = f"not converged, relative gradient {model.relative_gradient:.1e}"
    return (f"{scores.name(few)}, penalty {model.l2:g}: {reached}",)
