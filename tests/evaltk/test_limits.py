"""Parts of datasets for smoke tests: balanced, the same on every machine, and never taken for the whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaltk.data import images, limits
from evaltk.data.galleries import Gallery, photographs
from evaltk.data.images import Dataset, Split
from evaltk.data.revisitop import GroundTruth
from evaltk.data.subsets import subset
from evaltk.datasets import davis2017, digits, imagefolder
from evaltk.errors import SettingsError
from evaltk.types import DeviationKind
from protocols.fewshot.shots import Shots, union

Build = Callable[..., Path]
DIGITS = digits.load(None)
FIRST = [44, 245, 287, 292, 301, 414, 485, 600, 650, 741]  # rows of train


def rows(limit: int, seed: int) -> list[list[int]]:
    return [found.tolist() for found in limits.rows_of(DIGITS, limit, seed)]


def test_every_class_has_as_many_images() -> None:
    part = limits.limited(DIGITS, 57, 0)
    for split in part.splits:
        counts = np.bincount(split.labels, minlength=10)
        assert len(split) == 57 and sorted(counts) == [5] * 3 + [6] * 7
    assert all(np.diff(found).min() > 0 for found in rows(57, 0))
    assert part.sizes == {"train": 57, "test": 57}
    assert np.bincount(part.train.labels).tolist() == np.bincount(part.test.labels).tolist()


def test_the_draw_depends_on_the_seed_alone_and_a_larger_one_contains_a_smaller() -> None:
    small, again, other = (rows(40, seed) for seed in (3, 3, 4))
    assert small == again and small != other and small[0] != small[1]
    for few, many in zip(small, rows(90, 3), strict=True):
        assert set(few) < set(many)
    assert rows(10, 0)[0] == FIRST  # the same with every version of numpy


def test_fewer_images_than_classes_are_of_the_same_classes_in_both_splits() -> None:
    part = limits.limited(DIGITS, 4, 0)
    assert len(set(part.train.labels)) == 4 and set(part.train.labels) == set(part.test.labels)


def test_a_small_class_leaves_its_share_to_the_others() -> None:
    labels = np.array([0] * 2 + [1] * 50 + [2] * 50)
    rows = limits.balanced(labels, 20, 0, "train", places=np.arange(3))
    assert np.bincount(labels[rows]).tolist() == [2, 9, 9]


def test_features_and_results_of_a_part_are_its_own() -> None:
    part = limits.limited(DIGITS, 40, 0)
    prints = {s.fingerprint for d in (DIGITS, part, limits.limited(DIGITS, 41, 0)) for s in d.splits}
    assert len(prints) == 6 and part.fingerprint != DIGITS.fingerprint
    (mark,) = part.deviations
    assert mark.kind is DeviationKind.SMOKE_TEST
    assert mark.text == "smoke test on 40 of 1,000 train and 40 of 797 test images (--limit 40)"


def test_a_dataset_that_is_no_larger_is_left_as_it_is() -> None:
    assert limits.limited(DIGITS, 1000, 0) is DIGITS
    part = limits.limited(DIGITS, 900, 0)  # the test split has 797 images
    assert part.test is DIGITS.test and len(part.train) == 900 and len(part.deviations) == 1


def test_images_are_those_of_the_whole(image_tree: Build) -> None:
    root = image_tree({"train/a": 9, "train/b": 8, "test/a": 5, "test/b": 6})
    (root / "train/b/003.png").write_bytes(b"")
    whole = imagefolder.load(root)
    part = limits.limited(whole, 6, 1)
    for split, full, chosen in zip(part.splits, whole.splits, limits.rows_of(whole, 6, 1), strict=True):
        same_images(split, full, chosen)
        assert split.stamp == full.stamp and list(split.files or ()) == [full.image_id(i) for i in chosen]
    part = limits.limited(DIGITS, 5, 0)
    same_images(part.test, DIGITS.test, limits.rows_of(DIGITS, 5, 0)[1])


def same_images(split: Split, whole: Split, rows: np.ndarray) -> None:
    assert split.labels.tolist() == whole.labels[rows].tolist() and set(split.empty) <= set(whole.empty)
    for index, row in enumerate(rows.tolist()):
        if split.image_id(index) not in whole.empty:
            assert split.open(index).tobytes() == whole.open(row).tobytes()


@pytest.mark.parametrize("kind", ["pixels", "files"])
def test_a_part_of_a_part(kind: str, image_tree: Build) -> None:
    """Held-out and few-shot images are taken from a split that may be a part itself."""
    root = image_tree({"train/a": 9, "train/b": 8, "test/a": 1, "test/b": 1})
    whole = imagefolder.load(root).train if kind == "files" else DIGITS.train
    first, second = np.array([1, 4, 5, 11, 12, 16]), np.array([0, 3, 5])
    part = whole.taken(first, name="part", fingerprint="1")
    same_images(part, whole, first)
    same_images(part.taken(second, name="less", fingerprint="2"), whole, first[second])
    same_images(subset(part, second, "held out"), whole, first[second])
    shots = [Shots(per_class=1, split=1, rows=second)]
    few, _ = union(part, shots)
    same_images(few, whole, first[second])


def test_official_validation_images_stay_marked() -> None:
    val = np.arange(1000) % 3 == 0
    part = limits.limited(dataclasses.replace(DIGITS, val=val), 50, 0)
    assert part.val is not None and part.val.tolist() == val[rows(50, 0)[0]].tolist()


def test_a_part_of_a_retrieval_benchmark(image_tree: Build) -> None:
    root = image_tree({"jpg": 30, "queries": 4})
    names, queries = (tuple(sorted(p.name for p in (root / f).iterdir())) for f in ("jpg", "queries"))
    gnd = tuple(
        {"easy": [q, q + 4], "hard": [q + 8], "junk": np.array([], dtype=np.int64), "bbx": None} for q in range(4)
    )
    whole = Gallery(
        name="roxford5k",
        database=photographs("roxford5k", "database", root / "jpg", names),
        queries=photographs("roxford5k", "queries", root / "queries", queries),
        truth=GroundTruth(name="roxford5k", imlist=names, qimlist=queries, gnd=gnd),
        fingerprint="whole",
        stamp="",
    )
    part = limits.limited(whole, 2, 0)
    assert part.sizes == {"database": 8, "queries": 2} and part.fingerprint != "whole"
    assert part.deviations[-1].kind is DeviationKind.SMOKE_TEST
    for name, entry in zip(part.truth.qimlist, part.truth.gnd, strict=True):
        before = gnd[queries.index(name)]
        for kind in ("easy", "hard", "junk"):
            assert [part.truth.imlist[i] for i in entry[kind]] == [names[i] for i in before[kind]]
            assert [part.database.image_id(i) for i in entry[kind]] == [names[i] for i in before[kind]]
    assert limits.limited(whole, 4, 0) is whole


def test_a_part_of_videos() -> None:
    videos = tuple(davis2017.Sequence(name=str(i), frames=(), masks=()) for i in range(5))
    whole = davis2017.Sequences(name="davis2017", split="val", sequences=videos, fingerprint="whole", stamp="")
    part = limits.limited(whole, 2, 0)
    assert part.sizes == {"val": 2} and set(part.sequences) < set(videos) and part.fingerprint != "whole"
    assert part.deviations[0].text == "smoke test on 2 of 5 val sequences (--limit 2)"
    assert limits.limited(whole, 9, 0) is whole


def test_what_has_no_part() -> None:
    with pytest.raises(SettingsError, match="at least one image per split; got 0"):
        limits.limited(DIGITS, 0, 0)

    class Sounds:
        KIND, name = "sounds", "birds"

    with pytest.raises(SettingsError, match="a dataset of sounds; where: --limit"):
        limits.limited(Sounds(), 5, 0)


def test_empty_splits() -> None:
    none = images.from_arrays("none", "train", np.zeros((0, 2, 2, 3), np.uint8), np.zeros(0, np.int64), ["a"])
    empty = Dataset(name="none", train=none, test=dataclasses.replace(none, name="test"))
    assert limits.limited(empty, 3, 0) is empty
