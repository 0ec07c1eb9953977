"""What people have in folders: read by the right classes, and what is passed over is counted in a note."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from evaltk import datasets
from evaltk.data import images, sanity, subsets
from evaltk.data.options import DataOptions
from evaltk.errors import DataError

Build = Callable[..., Path]
COMPANION = b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(60)


def test_hidden_files_and_folders_are_passed_over_and_counted(image_tree: Build) -> None:
    root = image_tree({"train/a": 3, "train/b": 2, "test/a": 1, "test/b": 1})
    before = datasets.load(f"imagefolder={root}")
    for image in list(root.rglob("*.png")):
        (image.parent / f"._{image.name}").write_bytes(COMPANION)
    shutil.copytree(root / "train/a", root / "train/a/.thumbnails")
    shutil.copytree(root / "train", root / "train/__MACOSX")
    (root / "test/.ipynb_checkpoints").mkdir()
    after = datasets.load(f"imagefolder={root}")
    assert after.sizes == before.sizes == {"train": 5, "test": 2}
    assert after.train.classes == ("a", "b") and after.fingerprint == before.fingerprint
    assert after.notes[0] == "train: 5 images of 2 classes; left out: 27 hidden"
    assert after.notes[1] == "test: 2 images of 2 classes; left out: 2 hidden"


def test_all_suffixes_that_can_be_read_are_and_others_are_counted(image_tree: Build) -> None:
    root = image_tree({"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1})
    picture = Image.new("RGB", (8, 8), (200, 0, 0))
    for suffix, form in ((".gif", "GIF"), (".jfif", "JPEG"), (".JPE", "JPEG"), (".jp2", "JPEG2000")):
        picture.save(root / f"test/b/other{suffix}", form)
    if features.check("avif"):
        picture.save(root / "test/b/other.avif", "AVIF")
    for name in ("x.heic", "y.heic", "labels.txt", "README"):
        (root / "test/a" / name).write_bytes(b"0")
    picture.save(root / "test/loose.png")
    found = datasets.load(f"imagefolder={root}")
    assert len(found.test) == 2 + 4 + features.check("avif")
    assert all(np.asarray(found.test.open(i)).shape[2] == 3 for i in range(len(found.test)))
    assert "left out: 2 .heic, 1 .txt, 1 outside of the class folders, 1 without suffix" in found.notes[1]
    same = datasets.load(f"imagefolder={root}", DataOptions(show="as-reference"))
    assert len(same.test) == 2 and "1 .gif" in same.notes[1]  # as torchvision's ImageFolder has it
    assert same.fingerprint != found.fingerprint


def test_a_class_of_unreadable_suffixes_is_not_called_empty(image_tree: Build) -> None:
    root = image_tree({"train/a": 2, "train/b": 0, "test/a": 1})
    (root / "train/b/0.heic").write_bytes(b"0")
    with pytest.raises(DataError, match=r"got none, but 1 \.heic; where: .*train/b; do: convert"):
        datasets.load(f"imagefolder={root}")


def test_a_test_class_may_be_empty_or_absent_and_the_note_names_it(image_tree: Build) -> None:
    root = image_tree({"train/a": 2, "train/b": 2, "train/c": 2, "test/a": 1, "test/b": 0, "test/c": 1})
    empty = datasets.load(f"imagefolder={root}")
    (root / "test/b").rmdir()
    absent = datasets.load(f"imagefolder={root}")
    for found in (empty, absent):
        assert found.test.labels.tolist() == [0, 2]
        assert found.notes[1] == "test: 2 images of 2 of 3 classes, none of b"
    assert empty.fingerprint == absent.fingerprint


@pytest.mark.parametrize("layout", [{"test": 3}, {"test/unlabelled": 3}])
def test_an_unlabelled_test_beside_a_labelled_val(image_tree: Build, layout: dict[str, int]) -> None:
    root = image_tree({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1} | layout)
    found = datasets.load(f"imagefolder={root}")
    assert found.sizes == {"train": 4, "val": 2}
    assert found.notes[0] == "test/ is not used: none of its folders is a class of val/"


def test_other_names_of_the_parts(image_tree: Build) -> None:
    root = image_tree({"training/a": 2, "training/b": 2, "valid/a": 1, "valid/b": 2, "test/a": 1, "test/b": 1})
    found = datasets.load(f"imagefolder={root}")
    assert found.sizes == {"training": 4, "test": 2} and found.notes[0] == "valid/ is not used"
    (root / "val").mkdir()
    with pytest.raises(DataError, match="one folder of val images; got val/ and valid/"):
        datasets.load(f"imagefolder={root}")


def test_classes_may_be_numbered_from_one_and_with_gaps(image_tree: Build) -> None:
    root = image_tree({f"train/{n}": 1 for n in (1, 2, 40)} | {"test/40": 2, "test/1": 1})
    found = datasets.load(f"imagefolder={root}")
    assert found.train.classes == ("1", "2", "40") and found.test.labels.tolist() == [0, 2, 2]


def test_hidden_files_of_a_published_layout_are_left_out_with_a_note(image_tree: Build) -> None:
    root = image_tree({"train/a": 2})
    shutil.copytree(root / "train/a", root / "train/a/.cache")
    split = images.from_folder("x", "train", root, ["a"], get="")
    assert len(split) == 2 and split.left == {"hidden": 2}
    assert images.noted(images.Dataset(name="x", train=split, test=split)).notes[0].endswith("left out: 2 hidden")


def test_a_hold_out_never_takes_the_only_image_of_a_class() -> None:
    labels = np.array([0] * 3 + list(range(1, 60)))
    for share in (0.01, 0.1, 0.5, 0.9):
        for seed in range(5):
            held = subsets.hold_out(labels, share, seed=seed)
            assert 1 <= len(held) <= 2
            assert set(np.delete(labels, held)) == set(labels)
    assert len(subsets.hold_out(np.arange(9), 0.1, seed=0)) == 0
    plenty = np.repeat(np.arange(4), 25)
    assert len(subsets.hold_out(plenty, 0.1, seed=0)) == 10


def test_splits_of_any_case_are_never_drawn_from_as_classes(image_tree: Build) -> None:
    root = image_tree({"Train/a": 3, "Train/b": 2, "TEST/a": 1, "TEST/b": 1, "extra/a": 2})
    Image.new("RGB", (8, 8)).save(root / "loose.png")
    found = datasets.load(f"imagefolder={root}")
    assert found.sizes == {"Train": 5, "TEST": 2}
    assert found.notes[0] == "not read, beside Train/, TEST/: extra/, 1 image"
    with pytest.raises(DataError, match="one folder to split; got Train/ and TEST/"):
        datasets.load(f"imagefolder={root}", DataOptions(split=0.5))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"train_images/a": 2, "train_images/b": 2, "test_images/a": 2}, "got test_images, train_images"),
        ({"photos/a": 2, "photos/b": 2}, "got photos/ alone; .* do: give the folder .*/photos"),
    ],
)
def test_folders_that_hold_classes_are_no_classes_to_draw_from(
    image_tree: Build, tree: dict[str, int], message: str
) -> None:
    root = image_tree(tree)
    with pytest.raises(DataError, match=message):
        datasets.load(f"imagefolder={root}", DataOptions(split=0.5))
    if "photos/a" in tree:
        assert datasets.load(f"imagefolder={root / 'photos'}", DataOptions(split=0.5)).sizes == {"train": 2, "test": 2}


def test_classes_that_look_alike_are_told(image_tree: Build) -> None:
    cased = datasets.load(f"imagefolder={image_tree({'train/Cat': 1, 'train/cat': 1, 'test/cat': 1})}")
    assert "classes that differ in case only: Cat and cat" in cased.notes
    sanity.check_labels(cased)
    for twin, how in (("cat ", "spaces"), ("caf\u00e9", "Unicode form")):
        name = unicodedata.normalize("NFD", twin.strip())
        root = image_tree({f"train/{name}": 1, f"train/{twin}": 1, f"test/{twin}": 1}, name=how)
        with pytest.raises(DataError, match=f"told apart; got .* {how} only"):
            sanity.check_labels(datasets.load(f"imagefolder={root}"))
        shutil.rmtree(root / "train" / twin)
        with pytest.raises(DataError, match=f"{how} only.*rename one"):
            datasets.load(f"imagefolder={root}")
