"""Classifiers made on the training images, judged on the test images and on other sets: accuracy and calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from evaltk import settings_rules
from evaltk.bench import Bench, Extracts, Need, Outcome, of_all_splits, unreadable
from evaltk.data import sanity
from evaltk.data.images import Dataset
from evaltk.deviations import Deviation
from evaltk.errors import DataError
from evaltk.types import Features, Recipe, Score
from protocols.shift.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import torch

    from protocols.shift.sets import TestSet

NEED = Need(recipe=Recipe())
L2S = tuple(10.0**exponent for exponent in range(-6, 4))  # tried where none is named
HELD = 0.1  # of the training images, to choose among them
Classifier = Callable[["np.ndarray"], "np.ndarray"]  # features [N, D] -> probabilities [N, C]


def check(dataset: Dataset, settings: Settings) -> None:
    """Raises: DataError: a set that is missing or has no class in common. SettingsError: k above the images."""
    from protocols.shift import sets

    sanity.check_labels(dataset)
    if "knn" in settings.classifiers and settings.k > len(dataset.train):
        raise settings_rules.refusal("shift", "k", f"<= {len(dataset.train)} training images", settings.k)
    sets.others(dataset, settings)


def identity(settings: Settings) -> dict[str, str]:
    """{set: digest of the names, sizes and bytes} of the folders that the settings name. Raises: DataError."""
    from evaltk.data import folders, images

    places = {word.partition("=")[0].partition(":")[0]: word.partition("=")[2] for word in settings.test_on}
    if settings.imagenet_c is not None:
        places["imagenet_c"] = settings.imagenet_c
    found = {}
    for label, place in places.items():
        root = _path(place)
        names = folders.class_folders(root, get="expected: PATH/CLASS/IMAGE")
        split = images.from_folder(
            label, root.name, root.parent, names, get="", suffixes=folders.READABLE, may_lack=True
        )
        found[f"set {label}"] = split.fingerprint
    return found


def _path(place: str):  # type: ignore[no-untyped-def]
    from pathlib import Path

    return Path(place).expanduser().resolve()


def every_set(bench: Bench, dataset: Dataset, settings: Settings) -> list[TestSet]:
    """The test split, the other sets, and the corrupted ones."""
    from protocols.shift import sets

    number = len(dataset.test.classes)
    own = sets.TestSet(name="test", split=dataset.test, classes=tuple(range(number)), at={"on": dataset.test.name})
    corrupted = sets.made(dataset, settings, bench.transform(), bench.seed)
    return [own, *sets.others(dataset, settings), *corrupted]


def extracts(bench: Bench, dataset: Dataset, settings: Settings) -> Extracts:
    """The same feature of the training images and of all sets."""
    need = bench.class_feature(NEED)
    own = of_all_splits(dataset, need)
    return (*own, *((one.split, (need,)) for one in every_set(bench, dataset, settings)[1:]))


def run(bench: Bench, dataset: Dataset, settings: Settings) -> Outcome:
    """Top-1 and calibration error of each classifier on each set, and the mean corruption error.

    Raises: as `check`; DataError: a set of training images, unreadable images, features that are not finite or all the
        same.
    """
    import numpy as np

    need = bench.class_feature(NEED)
    found = {"train": bench.features(dataset.train, need)}
    bank = _few(bench, found["train"], settings.shots)
    tests = every_set(bench, dataset, settings)
    seen = [found for one in tests[1:] if not one.corrupted for found in _shared(dataset, one)]
    scores: list[Score] = []
    arrays: dict[str, np.ndarray] = {"class_names": np.asarray(dataset.train.classes)}
    notes = [one.note for one in tests if one.note]
    if settings.shots is not None:
        notes.append(f"{len(bank.x):,} training images, {settings.shots} per class where there are so many")
    classifiers = {}
    for name in dict.fromkeys(settings.classifiers):
        classifiers[name], told = _classifier(bench, dataset, bank, name, settings)
        notes += told
    errors: dict[str, dict[tuple[str, int], float]] = {name: {} for name in classifiers}
    for one in tests:
        features = bench.features(one.split, need)
        found[one.name] = features
        arrays[f"target_{one.name}"] = features.y
        for name, classify in classifiers.items():
            p = classify(features.x)
            of_set, predicted, confidence = judge(dataset, one, p, features.y, name, settings.bins)
            scores += of_set
            arrays[f"{name}_{one.name}"] = predicted.astype(np.int32)
            arrays[f"{name}_{one.name}_confidence"] = confidence.astype(np.float32)
            if one.at.get("made") == "ImageNet-C":
                place = (str(one.at["corruption"]), int(str(one.at["severity"])))
                errors[name][place] = 1 - of_set[0].value
    more, told = _corruption_errors(dataset, errors)
    return Outcome(
        scores=(*scores, *more, *_means(dataset, scores)),
        predictions=arrays,
        deviations=(*seen, *unreadable(*found.values())),
        notes=tuple(dict.fromkeys((*notes, *told))),
    )


def _shared(dataset: Dataset, one: TestSet) -> tuple[Deviation, ...]:
    """Images of a set that are training images too. Raises: DataError: many."""
    try:
        return sanity.shared_images(replace(dataset, test=one.split, deviations=()))
    except DataError as error:
        wanted, do = f"images of {one.name} that are no training images", "name another set, or take them out of it"
        raise DataError(wanted=wanted, got=error.got, where=error.where, do=do) from error


def judge(
    dataset: Dataset, one: TestSet, p: np.ndarray, target: np.ndarray, classifier: str, bins: int
) -> tuple[list[Score], np.ndarray, np.ndarray]:
    """(scores on a set, predicted classes [N], their probabilities [N]) from probabilities p [N, C], targets [N].

    Of a set with some of the classes: ``top1`` among all classes, and ``top1_among`` those it has.
    """
    import numpy as np

    from evaltk.metrics.calibration import reliability
    from evaltk.metrics.statistics import wilson_interval

    predicted = p.argmax(axis=1)
    confidence = np.take_along_axis(p, predicted[:, None], axis=1)[:, 0].clip(0, 1)
    right = predicted == target
    at = {**one.at, "classifier": classifier}
    if "on" in one.at:  # names the arrays that predictions lie in
        at["set"] = one.name
    n = len(target)

    def share(metric: str, correct: int, where: dict[str, object]) -> Score:
        return Score(
            dataset=dataset.name,
            split=one.split.name,
            metric=metric,
            value=correct / n,
            n=n,
            at=where,
            interval=wilson_interval(correct, n),
        )

    scores = [share("top1_corrupted" if one.corrupted else "top1", int(right.sum()), at)]
    if len(one.classes) < p.shape[1]:
        columns = np.asarray(one.classes)
        among = columns[p[:, columns].argmax(axis=1)]
        scores.append(share("top1_among", int((among == target).sum()), at | {"classes": len(columns)}))
    if not one.corrupted:
        error = reliability(confidence, right, bins).ece
        scores.append(
            Score(dataset=dataset.name, split=one.split.name, metric="ece", value=error, n=n, at=at | {"bins": bins})
        )
    return scores, predicted, confidence


def _corruption_errors(
    dataset: Dataset, errors: dict[str, dict[tuple[str, int], float]]
) -> tuple[list[Score], list[str]]:
    from protocols.shift import sets

    scores, notes = [], []
    for name, mine in errors.items():
        found = sets.mean_corruption_error(mine)
        if found is None:
            if mine:
                there = len({corruption for corruption, _ in mine})
                notes.append(f"no mean corruption error: {there} of 15 corruptions of ImageNet-C are there")
            continue
        for metric, value, at in (
            ("mce", found[0], {}),
            *(("ce", ce, {"corruption": corruption}) for corruption, ce in found[1].items()),
        ):
            at = {"classifier": name, **at, "over": "AlexNet"}
            scores.append(
                Score(dataset=dataset.name, split="ImageNet-C", metric=metric, value=value, n=len(mine), at=at)
            )
    return scores, notes


def _means(dataset: Dataset, scores: Iterable[Score]) -> list[Score]:
    """Mean accuracy over all corruptions and severities, by classifier and by where they come from."""
    import numpy as np

    grouped: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        if score.metric == "top1_corrupted":
            key = str(score.at["classifier"]), str(score.at["made"])
            grouped.setdefault(key, []).append(score)
    return [
        Score(
            dataset=dataset.name,
            split=members[0].split.partition(",")[0],
            metric="top1_corrupted_mean",
            value=float(np.mean([s.value for s in members])),
            n=members[0].n,
            at={"classifier": name, "made": where, "corruptions": len({s.at["corruption"] for s in members})},
        )
        for (name, where), members in grouped.items()
    ]


def _few(bench: Bench, bank: Features, shots: int | None) -> Features:
    """The training features, or `shots` of each class drawn by the seed."""
    import numpy as np
    import torch

    if shots is None:
        return bank
    order = torch.randperm(len(bank.x), generator=bench.generator("shift", "shots")).numpy()
    turn = {int(label): order[bank.y[order] == label][:shots] for label in np.unique(bank.y)}
    rows = np.sort(np.concatenate(list(turn.values())))
    return replace(bank, x=np.asarray(bank.x[rows]), y=bank.y[rows], ids=tuple(bank.ids[i] for i in rows.tolist()))


def _classifier(
    bench: Bench, dataset: Dataset, bank: Features, name: str, settings: Settings
) -> tuple[Classifier, list[str]]:
    """(a function from features to probabilities, notes)."""
    import numpy as np
    import torch

    number = len(dataset.train.classes)
    if name == "knn":
        from evaltk import neighbours
        from protocols import knn

        k = settings.k
        if k > len(bank.x):
            raise settings_rules.refusal("shift", "k", f"<= {len(bank.x)} training images", k)
        labels = torch.from_numpy(np.asarray(bank.y))

        def vote(x: np.ndarray) -> np.ndarray:
            similarity, index = neighbours.search(x, bank.x, k, device=bench.device)
            parts = []
            for start in range(0, len(x), rows := max(1, knn.VOTES // number)):
                part = slice(start, start + rows)
                votes = knn.count_votes(similarity[part], labels[index[part]], [k], settings.temperature, number)[k]
                parts.append((votes / votes.sum(dim=1, keepdim=True)).cpu().numpy())
            return np.concatenate(parts)

        return vote, []
    from evaltk import logistic
    from evaltk.data.subsets import hold_out
    from evaltk.metrics.geometry import unit

    x = unit(np.asarray(bank.x)).astype(np.float32)
    l2, notes = settings.l2, []
    if l2 is None:
        held = hold_out(bank.y, HELD, seed=bench.seed)
        kept = np.setdiff1d(np.arange(len(x)), held)
        l2 = L2S[len(L2S) // 2]
        if len(held):
            path = logistic.fit_path(x[kept], bank.y[kept], l2s=L2S, num_classes=number, intercept=True,
                                     device=bench.device)[0]  # fmt: skip
            losses = [(_cross_entropy(m.scores(x[held]), bank.y[held]), -m.l2) for m in path]
            l2 = -min(losses)[1]
        notes = [f"logistic: l2 = {l2:g}, with the least loss on {len(held)} held-out training images"]
    model = logistic.fit(x, bank.y, l2=l2, num_classes=number, intercept=True, device=bench.device)
    if not model.converged:
        notes.append(f"logistic: not converged, relative gradient {model.relative_gradient:.1e}")

    def softmax(queries: np.ndarray) -> np.ndarray:
        scores = model.scores(unit(np.asarray(queries)).astype(np.float32))
        found: np.ndarray = scores.double().softmax(dim=1).cpu().numpy()
        return found

    return softmax, notes


def _cross_entropy(scores: torch.Tensor, target: np.ndarray) -> float:
    """Mean cross-entropy in nats of scores [N, C] and classes [N]."""
    import torch
    from torch.nn import functional as F

    return float(F.cross_entropy(scores.double().cpu(), torch.from_numpy(target)))
