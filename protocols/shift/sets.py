"""The test sets that classifiers are judged on: folders mapped to the training classes by name, and corruptions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from evaltk.data import corruptions, folders, images
from evaltk.data.images import Dataset, Split
from evaltk.data.transforms import Transform
from evaltk.errors import DataError, lookalike, some
from protocols.shift.settings import ALL, Settings

GET = "expected: PATH/CLASS/IMAGE"
GET_C = "expected: PATH/CORRUPTION/SEVERITY/CLASS/IMAGE, as ImageNet-C is published"
# AlexNet's error on ImageNet-C, mean of the five severities (hendrycks/robustness, ImageNet-C/test.py).
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSet:
    """A test set.

    Attributes:
        name: in results. split: its images, labels being training classes. classes: those it may have, rising.
        at: what its scores hold at. note: what a reader must know of it.
    """

    name: str
    split: Split
    classes: tuple[int, ...]
    at: dict[str, object]
    note: str = ""
    corrupted: bool = False


def others(dataset: Dataset, settings: Settings) -> list[TestSet]:
    """The test sets in folders. Raises: DataError: no such folder, no class in common."""
    found = [_folder(dataset, word) for word in settings.test_on]
    if settings.imagenet_c is not None:
        found += _published(dataset, Path(settings.imagenet_c).expanduser())
    return found


def made(dataset: Dataset, settings: Settings, transform: Transform, seed: int) -> Iterator[TestSet]:
    """The test images corrupted on the fly."""
    names = corruptions.KINDS if ALL in settings.corruptions else dict.fromkeys(settings.corruptions)
    for name in names:
        for severity in dict.fromkeys(settings.severities):
            yield _made(dataset, transform, seed, name, severity)


def _made(dataset: Dataset, transform: Transform, seed: int, name: str, severity: int) -> TestSet:
    source = dataset.test
    said = f"{name} {severity} {seed} {corruptions.VERSION} {transform.resize} {transform.interpolation}"
    prints = hashlib.sha256(f"{source.fingerprint}\0{said} {transform.square}".encode()).hexdigest()
    split = corruptions.Corrupted(
        dataset=source.dataset,
        name=f"{source.name}, {name} {severity}",
        classes=source.classes,
        labels=source.labels,
        fingerprint=prints,
        stamp=source.stamp,
        files=[source.image_id(row) for row in range(len(source))],
        root=source.root,
        source=source,
        corruption=name,
        severity=severity,
        seed=seed,
        resize=transform.resize,
        interpolation=transform.interpolation,
        square=transform.square,
    )
    return TestSet(
        name=f"{name}_{severity}",
        split=split,
        classes=tuple(range(len(source.classes))),
        at={"corruption": name, "severity": severity, "made": "on the fly"},
        corrupted=True,
    )


def _folder(dataset: Dataset, word: str) -> TestSet:
    left, _, path = word.partition("=")
    label, _, kind = left.partition(":")
    split, note = mapped(dataset, label, Path(path).expanduser(), numbered=kind == "numbered")
    return TestSet(
        name=label,
        split=split,
        classes=tuple(np.unique(split.labels).tolist()),
        at={"on": label},
        note=note,
    )


def mapped(dataset: Dataset, label: str, root: Path, *, numbered: bool = False) -> tuple[Split, str]:
    """(the images of class folders under `root` that are training classes, what was left out in words).

    Labels are ids of training classes, by the folders' names; with `numbered` the folders are called 0, 1, 2 ... for
    the training classes in their order.

    Raises: DataError: no such folder, no images, no class in common.
    """
    known = dataset.train.classes
    suffixes = folders.suffixes(dataset.test.reading.show)
    if not root.is_dir():
        raise DataError(wanted=f"the folder of {label}", got="no such folder", where=root, do=GET)
    names = folders.class_folders(root, get=GET)
    whole = images.from_folder(dataset.name, root.name, root.parent, names, get=GET, suffixes=suffixes, may_lack=True)
    number = {str(i) if numbered else name: i for i, name in enumerate(known)}
    if numbered and all(map(str.isdecimal, known)) and list(known) != sorted(known, key=int):
        got = f"training classes that are numbers in another order ({some(list(known), 4)})"
        raise DataError(wanted="classes to number", got=got, where=root, do=f"--shift.test-on {label}={root}: by name")
    ids = np.asarray([number.get(name, -1) for name in names], dtype=np.int64)
    if not (ids >= 0).any():
        digits = all(name.isdecimal() for name in names) and not numbered
        do = f"--shift.test-on {label}:numbered={root}, if they number the classes in order" if digits else GET
        got = f"{some(names, 3)} beside {some(list(known), 3)}"
        raise DataError(wanted="a class of the training set", got=got, where=root, do=do)
    labels = ids[whole.labels]
    kept = np.flatnonzero(labels >= 0)
    if not len(kept):
        raise DataError(wanted="images of a training class", got="none", where=root, do=GET)
    state = hashlib.sha256(f"{whole.fingerprint}\0{label}\0{numbered}\0".encode() + "\0".join(known).encode())
    part = replace(
        whole.taken(kept, name=f"on {label}", fingerprint=state.hexdigest()), classes=known, labels=labels[kept]
    )
    lacking = [name for name, i in zip(names, ids.tolist(), strict=True) if i < 0]
    if alike := lookalike(lacking, set(number) - set(names)):
        raise DataError(wanted="classes named as in training", got=alike, where=root, do="rename one to the other")
    there = len(np.unique(part.labels))
    note = f"{label}: {len(part):,} images of {there:,} of the {len(known):,} training classes, mapped by "
    note += "number" if numbered else "name"
    if lacking:
        note += f"; left out: {len(whole) - len(part):,} images of {len(lacking):,} other classes, {some(lacking, 3)}"
    return images.read_as(part, dataset.test.reading), note


def _published(dataset: Dataset, root: Path) -> list[TestSet]:
    if not root.is_dir():
        raise DataError(wanted="the folder of ImageNet-C", got="no such folder", where=root, do=GET_C)
    places = {
        folder.name: folder
        for parent in (root, *sorted(p for p in root.iterdir() if p.is_dir()))  # the archives hold groups of kinds
        for folder in sorted(p for p in parent.iterdir() if p.is_dir() and p.name in ALEXNET)
    }
    if not places:
        raise DataError(wanted="folders of corruptions", got="none that is known", where=root, do=GET_C)
    found = []
    for name in ALEXNET:
        for severity in corruptions.SEVERITIES if name in places else ():
            folder = places[name] / str(severity)
            if not folder.is_dir():
                raise DataError(wanted=f"severities 1 to 5 of {name}", got=f"no {severity}", where=folder, do=GET_C)
            split, note = mapped(dataset, f"{name}_{severity}", folder)
            at: dict[str, object] = {"corruption": name, "severity": severity, "made": "ImageNet-C"}
            found.append(
                TestSet(
                    name=f"c_{name}_{severity}",
                    split=split,
                    classes=tuple(np.unique(split.labels).tolist()),
                    at=at,
                    note=note if "left out" in note else "",
                    corrupted=True,
                )
            )
    return found


def mean_corruption_error(errors: dict[tuple[str, int], float]) -> tuple[float, dict[str, float]] | None:
    """(mCE, {corruption: its CE}), each CE the error of five severities over AlexNet's; None where some are missing.

    Args: errors: {(corruption, severity): top-1 error}.
    """
    wanted = {(name, severity) for name in ALEXNET for severity in corruptions.SEVERITIES}
    if not wanted <= set(errors):
        return None
    ces = {
        name: float(np.mean([errors[name, s] for s in corruptions.SEVERITIES])) / alexnet
        for name, alexnet in ALEXNET.items()
    }
    return float(np.mean(list(ces.values()))), ces
