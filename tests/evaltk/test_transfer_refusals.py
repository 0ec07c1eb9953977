"""Transfer data sets that are incomplete or damaged."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from transfer_trees import (
    NAMES,
    edit,
    write,
)

from evaltk import cli, datasets
from evaltk.data import listed, overlap
from evaltk.data.images import Dataset
from evaltk.datasets import caltech101
from evaltk.deviations import Deviation, DeviationKind
from evaltk.errors import DataError

ABSENT = [
    (
        "aircraft",
        "fgvc-aircraft-2013b/data/images_variant_test.txt",
        r"images_variant_test\.txt.*vgg/data/fgvc-aircraft",
    ),
    ("aircraft", "fgvc-aircraft-2013b/data/images_variant_val.txt", r"images_variant_val\.txt"),
    ("caltech101", "caltech101/101_ObjectCategories", r"101_ObjectCategories; got none.*data\.caltech\.edu/records"),
    ("cifar100", "cifar-100-python/test", r"batch files of CIFAR-100; got no test.*cs\.toronto\.edu"),
    ("dtd", "dtd/dtd/labels/val1.txt", r"wanted val1\.txt; got no such file.*vgg/data/dtd"),
    ("dtd", "dtd/dtd/labels", r"wanted train1\.txt; got no such file"),
    ("flowers102", "flowers-102/setid.mat", r"wanted setid\.mat; got no such file.*vgg/data/flowers/102"),
    ("flowers102", "flowers-102/imagelabels.mat", r"wanted imagelabels\.mat; got no such file"),
    ("food101", "food-101/meta", r"wanted train\.txt; got no such file.*food-101\.tar\.gz"),
    ("pets", "oxford-iiit-pet/annotations/test.txt", r"wanted test\.txt; got no such file.*annotations\.tar\.gz"),
    ("sun397", "Partitions", r"Training_01\.txt or Testing_01\.txt; got none.*Partitions\.zip.*princeton"),
    ("sun397", "Partitions/Testing_01.txt", r"wanted Testing_01\.txt"),
]


@pytest.mark.parametrize(("name", "lacks", "says"), ABSENT)
def test_what_is_absent_is_named_with_its_source(tree: Callable[[str], Path], name: str, lacks: str, says: str) -> None:
    path = tree(name) / lacks
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataError, match=says):
        datasets.load(f"{name}={path.parents[lacks.count('/')]}")


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"do: expected: PATH/"):
        datasets.load(f"{name}={tmp_path}")


@pytest.mark.parametrize("name", ["aircraft", "dtd", "flowers102", "food101", "pets", "sun397"])
def test_images_that_are_missing_are_counted(tree: Callable[[str], Path], name: str) -> None:
    root = tree(name)
    found = datasets.load(f"{name}={root}").test
    for index in (0, 2):
        (found.root / found.image_id(index)).unlink()
    with pytest.raises(DataError, match=rf"the {len(found)} images of {name} test; got 2 missing: {found.image_id(0)}"):
        datasets.load(f"{name}={root}")


BAD_LISTS = [
    ("aircraft", "fgvc-aircraft-2013b/data/images_variant_val.txt", "9999999", "lines of the form '1025794 707-320'"),
    ("aircraft", "fgvc-aircraft-2013b/data/images_variant_val.txt", "9999999 Zeppelin", "got 1 others: Zeppelin"),
    ("dtd", "dtd/dtd/labels/test1.txt", "woven/woven_0001.jpg", "in train and in test"),  # val and test confused
    ("dtd", "dtd/dtd/labels/test1.txt", "woven/woven_0004.jpg", "twice in test"),
    ("dtd", "dtd/dtd/labels/test1.txt", "woven", "lines of the form"),
    ("dtd", "dtd/dtd/labels/test1.txt", "woven/../../../../x.jpg", "leads out of the image folder"),
    ("food101", "food-101/meta/test.txt", "waffles/17", "in train and in test"),
    ("pets", "oxford-iiit-pet/annotations/test.txt", "Bengal_9", "lines of the form 'Abyssinian_100 1 1 1'"),
    ("pets", "oxford-iiit-pet/annotations/test.txt", "Bengal_9 2 1 1", "number 1 for Bengal; got 2 for Bengal_9"),
    ("pets", "oxford-iiit-pet/annotations/test.txt", "Bengal_1 1 1 1", "in train and in test"),
    ("sun397", "Partitions/Testing_01.txt", "/abbey.jpg", "lines of the form"),
    ("sun397", "Partitions/Testing_01.txt", "/b/bar/sun_x.jpg", "got 1 others: bar"),
]


@pytest.mark.parametrize(("name", "path", "line", "says"), BAD_LISTS)
def test_lists_that_will_not_do(tree: Callable[[str], Path], name: str, path: str, line: str, says: str) -> None:
    root = tree(name)
    edit(root / path, line)
    with pytest.raises(DataError) as error:
        datasets.load(f"{name}={root}")
    assert says in str(error.value) and Path(path).name in error.value.where


def test_lists_that_are_empty_or_no_text(tree: Callable[[str], Path]) -> None:
    root = tree("dtd")
    path = root / "dtd/dtd/labels/test1.txt"
    for content, says in ((b"", "lines in test1.txt; got none"), (b"#x\n\n", "got none"), (b"\xff\xfe", "decode")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=says):
            datasets.load(f"dtd={root}")


def test_moving_an_image_from_train_to_val_is_another_data_set(tree: Callable[[str], Path]) -> None:
    root = tree("dtd")
    before, labels = datasets.load(f"dtd={root}"), root / "dtd/dtd/labels"
    train, val = ((labels / f"{s}1.txt").read_text().splitlines() for s in ("train", "val"))
    write(labels / "train1.txt", train[:-1])
    write(labels / "val1.txt", [train[-1], *val])
    after = datasets.load(f"dtd={root}")
    assert after.train.fingerprint == before.train.fingerprint and after.fingerprint != before.fingerprint


BAD_MATS = [
    ("setid.mat", {"trnid": [[1, 11]], "valid": [[2]], "tstid": [[3]]}, "images 1 to 10, as labelled; got image 11"),
    ("setid.mat", {"trnid": [[0, 1]], "valid": [[2]], "tstid": [[3]]}, "got image 0 in trnid"),
    ("setid.mat", {"trnid": [[1]], "valid": [[2]]}, "vectors trnid, valid, tstid of whole numbers; got no tstid"),
    ("setid.mat", {"trnid": [[1]], "valid": [[2]], "tstid": [[1]]}, "in train and in test"),
    ("setid.mat", {"trnid": [[1.5]], "valid": [[2]], "tstid": [[3]]}, "trnid is float64"),
    ("setid.mat", {"trnid": [[1, 2], [3, 4]], "valid": [[2]], "tstid": [[3]]}, r"trnid is int64 [2, 2]"),
    ("setid.mat", {"trnid": np.array([["a"]], object), "valid": [[2]], "tstid": [[3]]}, "trnid is "),
    ("imagelabels.mat", {"labels": np.array([1, 2, 3])}, "as labelled"),
    ("imagelabels.mat", {"other": [[1]]}, "vectors labels of whole numbers"),
    ("imagelabels.mat", None, "vectors labels of whole numbers"),
]


@pytest.mark.parametrize(("file", "content", "says"), BAD_MATS)
def test_matlab_files_that_will_not_do(
    tree: Callable[[str], Path], file: str, content: dict[str, object] | None, says: str
) -> None:
    root = tree("flowers102")
    path = root / "flowers-102" / file
    path.write_bytes(path.read_bytes()[:150]) if content is None else savemat(path, content)
    with pytest.raises(DataError) as error:
        datasets.load(f"flowers102={root}")
    assert says in str(error.value)


def test_the_whole_sets_deviate_in_nothing() -> None:
    official = caltech101.OFFICIAL
    assert listed.differences(official, {"train": 3060, "test": 6084}, 102) == ()
    assert listed.differences(official, {"train": 3060, "test": 6084}, 101) == (
        Deviation(kind=DeviationKind.CLASS_COUNT, text="101 classes, Caltech-101 has 102"),
    )
    totals = {"aircraft": 10_000, "caltech101": 9144, "dtd": 5640, "flowers102": 8189, "food101": 101_000}
    totals |= {"pets": 7349, "sun397": 39_700}
    for name, total in totals.items():
        assert sum(importlib.import_module(f"evaltk.datasets.{name}").OFFICIAL.counts.values()) == total


def test_test_images_that_are_training_images_by_their_bytes(tree: Callable[[str], Path]) -> None:
    root = tree("caltech101")
    found = datasets.load(f"caltech101={root}")
    assert overlap.check(found) == ()
    path = found.test.root / found.test.image_id(2)
    original = path.read_bytes()
    shutil.copyfile(found.train.root / found.train.image_id(50), path)
    again = datasets.load(f"caltech101={root}")
    assert overlap.shared(again.train, again.test) == [(found.test.image_id(2), found.train.image_id(50))]
    with pytest.raises(DataError, match=rf"got 1 of 9 with the same bytes: {found.test.image_id(2)} = .*mixed up"):
        overlap.check(again)
    path.write_bytes(original[:-1] + b"x")  # of one size, of another content
    assert overlap.check(datasets.load(f"caltech101={root}")) == ()
    path.unlink()
    assert overlap.shared(found.train, found.test) == []  # a file that has gone is equal to none


def test_a_few_shared_images_are_told_and_not_refused(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    pixels, labels = draw.integers(0, 256, (60, 4, 4, 3), dtype=np.uint8), np.arange(60) % 3
    from evaltk.data import images

    train = images.from_arrays("x", "train", pixels[:30], labels[:30], "abc")
    tests = np.concatenate([pixels[30:], pixels[:2]])
    for count, repeats in ((31, 1), (32, 2)):
        test = images.from_arrays("x", "test", tests[:count], np.zeros(count, int), "abc")
        assert overlap.shared(train, test) == [("30", "0"), ("31", "1")][:repeats]
    few = Dataset(name="x", train=train, test=images.from_arrays("x", "test", tests[:31], np.zeros(31, int), "abc"))
    text = "1 test images are byte for byte in train too: 30 = 0"
    assert overlap.check(few) == (Deviation(kind=DeviationKind.SHARED_IMAGES, text=text),)
    many = Dataset(name="x", train=train, test=images.from_arrays("x", "test", tests, np.zeros(32, int), "abc"))
    with pytest.raises(DataError, match="got 2 of 32 with the same bytes"):
        overlap.check(many)


def test_datasets_check(trees: Path, tree: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["datasets", "check", f"dtd={trees / 'dtd'}", "digits"]) == 0
    out = capsys.readouterr().out
    assert (
        "dtd: trainval 6 images, test 4 images\n  2 classes, reported by top-1, 2 of trainval are official val" in out
    )
    assert "no image of test is in trainval too" in out and "digits: train 1,000 images, test 797 images" in out
    root = tree("sun397")
    shutil.rmtree(root / "Partitions")
    assert cli.main(["datasets", "check", f"sun397={root}", f"pets={trees / 'pets'}"]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("pets: train 6 images") and "mean per class" in out
    assert err.count("\n") == 1 and err.startswith("evaltk: sun397: wanted Training_01.txt")
    assert "PATH/Partitions/" in err
    root = tree("pets")
    found = datasets.load(f"pets={root}")
    shutil.copyfile(found.train.root / found.train.image_id(0), found.test.root / found.test.image_id(0))
    assert cli.main(["datasets", "check", f"pets={root}"]) == 2
    assert "with the same bytes" in capsys.readouterr().err
    assert cli.main(["datasets", "check", f"pets={root}", "--no-contents"]) == 0
    (found.test.root / found.test.image_id(0)).write_bytes(b"")
    assert cli.main(["datasets", "check", f"pets={root}"]) == 2
    out, err = capsys.readouterr()
    assert "an empty file" in err and cli.main(["datasets", "check"]) == 2
