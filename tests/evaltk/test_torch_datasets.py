"""PyTorch datasets in memory: every form of image, what their fingerprints hang on, and what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset, Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from evaltk import datasets
from evaltk.data import images, limits, overlap
from evaltk.data.torch_datasets import from_torch, from_torch_one
from evaltk.deviations import DeviationKind
from evaltk.errors import DataError, SettingsError

Build = Callable[..., Path]
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
LABELS = [0, 1, 0, 1, 0, 1]
FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "pil": Image.fromarray,
    "array": lambda a: a,
    "uint8 tensor": lambda a: torch.from_numpy(a).permute(2, 0, 1),
    "float tensor": lambda a: transforms.functional.to_tensor(Image.fromarray(a)),
    "half tensor": lambda a: transforms.functional.to_tensor(Image.fromarray(a)).half(),
}


class Listed(list):  # type: ignore[type-arg]
    """A list is a map-style dataset; this one can have attributes."""


def items(form: str = "pil", rows: range = range(6)) -> Any:
    return Listed((FORMS[form](PIXELS[i]), LABELS[i]) for i in rows)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pixels_and_the_same_fingerprint(form: str) -> None:
    found = from_torch(items(form, range(4)), items(form, range(4, 6)), name="toy")
    assert [np.array_equal(np.asarray(found.train.open(i)), PIXELS[i]) for i in range(4)] == [True] * 4
    assert found.train.labels.tolist() == [0, 1, 0, 1] and found.train.classes == ("0", "1")
    assert found.fingerprint == from_torch(items("pil", range(4)), items("pil", range(4, 6)), name="x").fingerprint
    assert (found.notes != ()) == (form == "half tensor")  # 8 bits do not fit into halves of 1/255


def test_gray_images_are_spread_over_the_channels() -> None:
    gray = PIXELS[..., 0]
    forms = ([Image.fromarray(g) for g in gray], list(gray), list(torch.from_numpy(gray)[:, None]))
    prints = {from_torch_one(list(zip(f, LABELS, strict=True)), name="g", share=0.5).fingerprint for f in forms}
    assert len(prints) == 1
    assert np.array_equal(
        np.asarray(from_torch_one(list(zip(gray, LABELS, strict=True)), name="g").test.open(0)).std(axis=2),
        np.zeros((5, 4)),
    )


def test_the_fingerprint_hangs_on_pixels_labels_order_and_classes() -> None:
    other = PIXELS.copy()
    other[3, 2, 1, 0] ^= 1
    pairs = list(zip(PIXELS, LABELS, strict=True))
    made = [
        pairs,
        list(zip(other, LABELS, strict=True)),
        list(zip(PIXELS, [0, 1, 0, 1, 1, 1], strict=True)),
        pairs[::-1],
        [(image.reshape(4, 5, 3), label) for image, label in pairs],
    ]
    prints = [from_torch(one, items(), name="toy").fingerprint for one in made]
    prints.append(from_torch(pairs, items(), name="toy", class_names=("a", "b")).fingerprint)
    assert len(set(prints)) == len(prints)
    assert from_torch(pairs, items(), name="toy").fingerprint == from_torch(pairs, items(), name="toy").fingerprint


def test_workers_find_the_same(image_tree: Build) -> None:
    source = ImageFolder(str(image_tree({"a": 4, "b": 3})))
    alone, shared = (from_torch_one(source, name="pics", share=0.4, workers=n) for n in (0, 1))
    assert alone.fingerprint == shared.fingerprint and alone.train.classes == ("a", "b")


def test_class_names_come_from_the_dataset_also_below_a_subset(image_tree: Build) -> None:
    source = ImageFolder(str(image_tree({"train/cat": 3, "train/dog": 3}) / "train"))
    found = from_torch(Subset(source, [0, 1, 4]), Subset(source, [2, 5]), name="pets")
    assert found.train.classes == ("cat", "dog") and found.test.labels.tolist() == [0, 1]
    hugging = Listed({"image": image, "label": label} for image, label in items())
    hugging.features = {"label": type("ClassLabel", (), {"names": ["x", "y"]})()}  # type: ignore[attr-defined]
    assert from_torch(hugging, hugging, name="hf").train.classes == ("x", "y")


def test_labels_without_names_are_classes_by_value() -> None:
    found = from_torch([(PIXELS[0], np.int64(10)), (PIXELS[1], torch.tensor(2))], [(PIXELS[2], 10)], name="toy")
    assert found.train.classes == ("2", "10") and found.train.labels.tolist() == [1, 0]
    assert found.test.labels.tolist() == [1]


def test_images_in_both_splits_are_told() -> None:
    found = from_torch(items(rows=range(4)), items(rows=range(3, 6)), name="toy")
    assert [(d.kind, d.text) for d in found.deviations] == [
        (DeviationKind.SHARED_IMAGES, "1 of 3 test images are pixel for pixel in train too")
    ]


def test_the_check_of_datasets_finds_them() -> None:
    found = from_torch(items(rows=range(4)), items(rows=range(3, 6)), name="toy")
    assert overlap.shared(found.train, found.test) == [("0", "3")]
    pixels = images.from_arrays("toy", "train", PIXELS, np.array(LABELS), ["0", "1"])
    assert overlap.shared(pixels, found.test) == [("0", "3"), ("1", "4"), ("2", "5")]


def test_one_dataset_is_split_class_by_class() -> None:
    pairs = [(np.full((4, 4, 3), i, np.uint8), int(i % 3 == 0)) for i in range(30)]
    found = from_torch_one(pairs, name="toy", share=0.2, seed=3)
    assert np.bincount(found.test.labels).tolist() == [4, 2] and np.bincount(found.train.labels).tolist() == [16, 8]
    ids = [split.image_id(i) for split in found.splits for i in range(len(split))]
    assert sorted(map(int, ids)) == list(range(30))
    assert all(np.asarray(s.open(i))[0, 0, 0] == int(s.image_id(i)) for s in found.splits for i in range(len(s)))
    assert found.deviations[0].kind == DeviationKind.OWN_SPLIT and "seed 3" in found.deviations[0].text
    # Another draw would change the numbers of all who split so.
    assert [found.test.image_id(i) for i in range(6)] == ["0", "7", "8", "9", "20", "26"]
    others = [from_torch_one(pairs, name="toy", share=s, seed=n).fingerprint for s, n in ((0.2, 4), (0.25, 3))]
    assert len({found.fingerprint, *others}) == 3
    part = limits.limited(found, 4, 0)
    assert len(part.train) == 4 and part.fingerprint != found.fingerprint
    assert np.asarray(part.train.open(2))[0, 0, 0] == int(part.train.image_id(2))


def test_classes_of_one_image_are_not_tested() -> None:
    found = from_torch_one([*items(), (PIXELS[0] + 1, 7)], name="toy")
    assert found.test.labels.tolist() == [0, 1] and found.notes == ("not tested, as they have one image only: 7",)
    with pytest.raises(DataError, match="two images of some class"):
        from_torch_one([(PIXELS[0], 0), (PIXELS[1], 1)], name="toy")
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(SettingsError, match="a share between 0 and 1"):
            from_torch_one(items(), name="toy", share=share)


def test_splits_go_to_other_processes() -> None:
    split = from_torch(items("array"), items("array"), name="toy").test
    assert np.array_equal(np.asarray(pickle.loads(pickle.dumps(split)).open(2)), PIXELS[2])


class Broken(Listed):
    def __getitem__(self, index: Any) -> Any:
        raise KeyError("no such file")


class Jitter(Listed):
    def __getitem__(self, index: Any) -> Any:
        return np.random.default_rng().integers(0, 256, (4, 4, 3), dtype=np.uint8), 0


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter(items())


TENSORS = TensorDataset(torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))
WRONG: dict[str, tuple[Any, str]] = {
    "a stream": (Stream(), "a map-style dataset.*got Stream.*list"),
    "nothing": ([], "got an empty dataset"),
    "an error": (Broken([1]), "KeyError: 'no such file'; where: toy train, image 0.*Subset"),
    "augmented": (Jitter([1]), "the same image each time.*without random augmentation"),
    "an image alone": ([PIXELS[0]], r"got an array \[5, 4, 3\] of uint8.*\(image, label\)"),
    "a dict without label": ([{"image": 1}], "got a dict of image"),
    "normalised": ([(torch.full((3, 2, 2), -1.5), 0)], "values from -1.5 to -1.5.*leave Normalize out"),
    "255ths": ([(torch.full((3, 2, 2), 255.0), 0)], "values from 255 to 255"),
    "not a number": ([(torch.full((3, 2, 2), float("nan")), 0)], "values from nan"),
    "channels last": ([(torch.zeros(8, 8, 3), 0)], r"got a tensor \[8, 8, 3\] of float32"),
    "channels first": ([(np.zeros((3, 8, 8), np.uint8), 0)], r"got an array \[3, 8, 8\] of uint8"),
    "a float array": ([(np.zeros((8, 8, 3)), 0)], "got an array .* of float64"),
    "a batch": ([(torch.zeros(2, 3, 8, 8), 0)], "got a tensor"),
    "a path": ([("x.png", 0)], "got 'x.png'"),
    "a float label": ([(PIXELS[0], 0.0)], "an integer label >= 0; got 0.0"),
    "no label": ([(PIXELS[0], -1)], "an integer label >= 0; got -1"),
    "a flag": ([(PIXELS[0], True)], "got True"),
    "many labels": ([(PIXELS[0], torch.zeros(3))], "an integer label"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(case: str) -> None:
    source, says = WRONG[case]
    with pytest.raises(DataError, match=says) as caught:
        from_torch(source, TENSORS, name="toy")
    assert "\n" not in str(caught.value) and caught.value.do


def test_classes_that_do_not_fit(image_tree: Build) -> None:
    root = image_tree({"train/a": 1, "train/b": 1, "test/b": 1})
    train, test = (ImageFolder(str(root / split)) for split in ("train", "test"))
    with pytest.raises(DataError, match=r"the same classes.*got a, b against b"):  # both call their first class 0
        from_torch(train, test, name="toy")
    with pytest.raises(DataError, match="got 1 others: 5; where: toy test"):
        from_torch(items(), [(PIXELS[0], 5)], name="toy")
    with pytest.raises(DataError, match="got 1 others: 1; where: toy train"):
        from_torch(items(), items(), name="toy", class_names=["a"])
    with pytest.raises(DataError, match="got one twice"):
        from_torch(items(), items(), name="toy", class_names=["a", "a"])


def test_the_same_pixels_as_a_folder_of_files(image_tree: Build) -> None:
    root = image_tree({"train/a": 2, "train/b": 1, "test/a": 1, "test/b": 1})
    files = datasets.load(f"imagefolder={root}")
    mine = from_torch(*(ImageFolder(str(root / s)) for s in ("train", "test")), name="mine")
    for ours, theirs in zip(files.splits, mine.splits, strict=True):
        assert ours.labels.tolist() == theirs.labels.tolist() and ours.classes == theirs.classes
        assert all(ours.open(i).tobytes() == theirs.open(i).tobytes() for i in range(len(ours)))
