"""The nine small datasets in their real layouts and file formats, made small; torchvision reads the same trees."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision
from transfer_trees import (
    NAMES,
    edit,
    picture,
    write,
)

from evaltk import datasets
from evaltk.data import overlap
from evaltk.data.images import Dataset
from evaltk.datasets import cifar100
from evaltk.deviations import DeviationKind
from evaltk.errors import DataError

BELOW = {  # where the archive's own folder lies in what torchvision makes
    "aircraft": ("", "fgvc-aircraft-2013b", "fgvc-aircraft-2013b/data"),
    "caltech101": ("", "caltech101", "caltech101/101_ObjectCategories"),
    "cifar100": ("", "cifar-100-python"),
    "dtd": ("", "dtd", "dtd/dtd"),
    "flowers102": ("", "flowers-102"),
    "food101": ("", "food-101"),
    "pets": ("", "oxford-iiit-pet"),
    "sun397": ("",),
}


SIZES = {  # images to learn from, of these official validation, and to test on
    "aircraft": (9, 3, 9), "caltech101": (90, None, 9), "cifar100": (40, None, 10), "dtd": (6, 2, 4),
    "flowers102": (6, 3, 4), "food101": (6, None, 4), "pets": (6, None, 6), "sun397": (9, None, 6),
}  # fmt: skip


PER_CLASS = ("aircraft", "caltech101", "flowers102", "pets")


@pytest.mark.parametrize(("name", "below"), [(name, below) for name in NAMES for below in BELOW[name]])
def test_layouts(trees: Path, name: str, below: str) -> None:
    found = datasets.load(f"{name}={trees / name / below}")
    num_train, num_val, num_test = SIZES[name]
    assert (len(found.train), len(found.test)) == (num_train, num_test)
    assert found.train.name == ("trainval" if num_val else "train") and found.test.name == "test"
    assert found.metric == ("mean_per_class" if name in PER_CLASS else "top1")
    assert (found.val is None) == (num_val is None)
    if num_val:
        assert found.val.dtype == bool and found.val.shape == (num_train,) and found.val.sum() == num_val
    kinds = {d.kind for d in found.deviations}
    assert kinds and kinds <= {DeviationKind.SPLIT_SIZE, DeviationKind.CLASS_COUNT, DeviationKind.OWN_SPLIT}
    assert found.fingerprint == datasets.load(f"x:{name}={trees / name}").fingerprint
    for split in found.splits:
        assert split.open(len(split) - 1).mode == "RGB" and not split.empty
    assert not overlap.shared(found.train, found.test)


def named(dataset: Dataset, split: str) -> list[tuple[str, str]]:
    """(file name, class name) of a split; ``train`` without the official validation images."""
    part = dataset.test if split == "test" else dataset.train
    rows = range(len(part))
    if split in ("train", "val") and dataset.val is not None:
        rows = [i for i in rows if dataset.val[i] == (split == "val")]
    return [(Path(part.image_id(i)).name, part.classes[part.labels[i]]) for i in rows]


@pytest.mark.parametrize(
    ("name", "split", "load"),
    [
        *(
            (("aircraft"), s, lambda root, s: torchvision.datasets.FGVCAircraft(root, s))
            for s in ("train", "val", "test")
        ),
        *((("dtd"), s, lambda root, s: torchvision.datasets.DTD(root, s)) for s in ("train", "val", "test")),
        *((("food101"), s, lambda root, s: torchvision.datasets.Food101(root, s)) for s in ("train", "test")),
        *(
            (("flowers102"), s, lambda root, s: torchvision.datasets.Flowers102(root, s))
            for s in ("train", "val", "test")
        ),
    ],
)
def test_torchvision_reads_the_same(
    trees: Path, monkeypatch: pytest.MonkeyPatch, name: str, split: str, load: Callable
) -> None:
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_check_integrity", lambda self: True)  # of the real files
    theirs, ours = load(trees / name, split), datasets.load(f"{name}={trees / name}")
    files = [Path(file).name for file in theirs._image_files]
    if name == "flowers102":
        expected = [f"{label + 1:03d}" for label in theirs._labels]
    else:
        expected = [theirs.classes[label] for label in theirs._labels]
        assert tuple(theirs.classes) == ours.train.classes
    assert named(ours, split) == list(zip(files, expected, strict=True))


def test_pets_are_torchvisions(trees: Path) -> None:
    ours = datasets.load(f"pets={trees / 'pets'}")
    for split, name in (("train", "trainval"), ("test", "test")):
        folder = trees / "pets" / "oxford-iiit-pet" / "annotations"
        rows = [line.split() for line in (folder / f"{name}.txt").read_text().splitlines()[1:]]
        assert [f for f, _ in named(ours, split)] == [f"{row[0]}.jpg" for row in rows]
        part = ours.test if split == "test" else ours.train
        assert part.labels.tolist() == [int(row[1]) - 1 for row in rows]
    assert ours.train.classes == ("Bengal", "american_bulldog", "Abyssinian")


def test_sun397_takes_its_scenes_from_the_partition(trees: Path, tree: Callable[[str], Path]) -> None:
    found = datasets.load(f"sun397={trees / 'sun397'}")
    assert found.train.classes == ("abbey", "apartment_building/outdoor", "zen_garden")
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] and found.test.labels.tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    assert found.train.image_id(3) == "a/apartment_building/outdoor/sun_a1.jpg"
    root = tree("sun397")
    for name in ("Training_01", "Testing_01"):  # beside the images, without ClassName.txt
        shutil.move(root / "Partitions" / f"{name}.txt", root / "SUN397")
    for place in (root, root / "SUN397"):
        again = datasets.load(f"sun397={place}")
        assert again.train.classes == found.train.classes and again.train.labels.tolist() == found.train.labels.tolist()


def test_food101_by_json_alone(tree: Callable[[str], Path]) -> None:
    root = tree("food101")
    before = datasets.load(f"food101={root}")
    for split in ("train", "test"):
        (root / "food-101" / "meta" / f"{split}.txt").unlink()
    assert datasets.load(f"food101={root}").fingerprint == before.fingerprint
    for text in ("[1, 2]", '{"apple_pie": [3]}', '{"apple_pie": ["apple_pie"]}', "{", "{}"):
        (root / "food-101" / "meta" / "test.json").write_text(text)
        with pytest.raises(DataError, match=r"where: .*test\.json.*data\.vision\.ee\.ethz\.ch"):
            datasets.load(f"food101={root}")


def test_cifar100_is_torchvisions_in_every_format(trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    found = datasets.load(f"cifar100={trees / 'cifar100'}")
    for split, train in ((found.train, True), (found.test, False)):
        theirs = torchvision.datasets.CIFAR100(trees / "cifar100", train=train)
        assert np.array_equal(split.pixels, theirs.data) and split.labels.tolist() == theirs.targets
        assert split.classes == tuple(theirs.classes)
        rows = theirs.data.transpose(0, 3, 1, 2).reshape(-1, 3072)
        coarse_fine = np.array([[9, label] for label in theirs.targets], np.uint8)
        path = tmp_path / "cifar-100-binary" / ("train.bin" if train else "test.bin")
        path.parent.mkdir(exist_ok=True)
        np.concatenate([coarse_fine, rows], axis=1).tofile(path)
    for root in (tmp_path, tmp_path / "cifar-100-binary"):
        assert datasets.load(f"cifar100={root}").fingerprint == found.fingerprint
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"official CIFAR-100 batch.*no multiple of 3074.*test\.bin"):
        datasets.load(f"cifar100={tmp_path}")
    path.write_bytes(b"")
    with pytest.raises(DataError, match="official CIFAR-100 batch"):
        datasets.load(f"cifar100={tmp_path}")


def test_cifar10_binary_files(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    rows = draw.integers(0, 256, (6, 5, 3073), dtype=np.uint8)
    rows[:, :, 0] %= 10
    (tmp_path / "cifar-10-batches-bin").mkdir()
    for name, part in zip([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"], rows, strict=True):
        part.tofile(tmp_path / "cifar-10-batches-bin" / f"{name}.bin")
    found = datasets.load(f"cifar10={tmp_path}")
    assert found.train.labels.tolist() == rows[:5, :, 0].ravel().tolist() and len(found.test) == 5
    assert np.array_equal(np.asarray(found.test.open(3)), rows[5, 3, 1:].reshape(3, 32, 32).transpose(1, 2, 0))
    rows[5, 0, 0] = 10
    rows[5].tofile(tmp_path / "cifar-10-batches-bin" / "test_batch.bin")
    with pytest.raises(DataError, match=r"official CIFAR-10 batch.*labels from \d to 10"):
        datasets.load(f"cifar10={tmp_path}")


def test_cifar100_does_not_execute_its_pickles(tree: Callable[[str], Path], tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    path = tree("cifar100") / "cifar-100-python" / "train"
    path.write_bytes(pickle.dumps({b"data": Hostile(), b"fine_labels": [1]}))
    with pytest.raises(DataError, match=r"official CIFAR-100 batch.*system"):
        datasets.load(f"cifar100={path.parents[1]}")
    assert not (tmp_path / "ran").exists()


def test_cifar100_as_class_folders(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in cifar100.CLASSES:
            picture(tmp_path / split / name / "0.jpg")
    found = datasets.load(f"cifar100={tmp_path}")
    assert found.train.labels.tolist() == list(range(100)) and "JPEG" in found.deviations[0].text
    assert "train has 100 images, CIFAR-100 50,000: not comparable" in found.deviations[1].words()
    shutil.rmtree(tmp_path / "train" / "apple")
    with pytest.raises(DataError, match="the 100 classes apple, aquarium_fish"):
        datasets.load(f"cifar100={tmp_path}")


def test_caltech101_draws_thirty_of_each_class(trees: Path, tree: Callable[[str], Path]) -> None:
    found = datasets.load(f"caltech101={trees / 'caltech101'}")
    assert np.bincount(found.train.labels).tolist() == [30, 30, 30]
    assert np.bincount(found.test.labels).tolist() == [3, 1, 5]
    assert len({*found.train.files, *found.test.files}) == 99
    drawn = {file for file in found.train.files if file.startswith("accordion")}
    assert sorted(drawn) != [f"accordion/image_{n:04d}.jpg" for n in range(1, 31)]  # drawn, not the first ones
    (own,) = [d for d in found.deviations if d.kind is DeviationKind.OWN_SPLIT]
    assert own.text.startswith("split: 30 images a class drawn without replacement, seed 0")
    root = tree("caltech101") / "caltech101" / "101_ObjectCategories"
    shutil.rmtree(root / "Faces")
    fewer = datasets.load(f"caltech101={root}")
    assert {file for file in fewer.train.files if file.startswith("accordion")} == drawn
    for number in range(1, 4):
        (root / "BACKGROUND_Google" / f"image_{number:04d}.jpg").unlink()
    with pytest.raises(DataError, match="more than 30 images a class; got 30 in BACKGROUND_Google"):
        datasets.load(f"caltech101={root}")


# Of the 467 and 435 images, those in ssl-transfer@416913f caltech101-splits/train.txt:1-52, by number.
DRAWN = {
    "BACKGROUND_Google": [10, 26, 40, 48, 71, 73, 88, 89, 118, 166, 173, 175, 193],
    "Faces": [29, 32, 33, 100, 116, 128, 129, 148, 152, 164, 178, 184],
}


def test_caltech101_in_ericssons_split(tmp_path: Path, trees: Path) -> None:
    folder = tmp_path / "101_ObjectCategories"
    for cls, count in (("BACKGROUND_Google", 467), ("Faces", 435), ("Faces_easy", 40)):
        (folder / cls).mkdir(parents=True)
        for number in range(1, count + 1):
            (folder / cls / f"image_{number:04d}.jpg").touch()
    found = datasets.load(f"caltech101_ericsson={tmp_path}")
    for cls, numbers in DRAWN.items():
        drawn = [int(file[-8:-4]) for file in found.train.files if file.startswith(f"{cls}/")]
        assert drawn[: len(numbers)] == numbers and len(drawn) < 30
    assert len(found.train) + len(found.test) == 942 and found.metric == "mean_per_class"
    for name, split in (("train", found.train), ("test", found.test)):
        write(
            tmp_path / f"{name}.txt", [f"{file} {label}" for file, label in zip(split.files, split.labels, strict=True)]
        )
    listed_ = datasets.load(f"caltech101_ericsson={tmp_path}")
    assert listed_.fingerprint == found.fingerprint and "the lists train.txt" in listed_.deviations[-1].text
    (tmp_path / "test.txt").unlink()
    with pytest.raises(DataError, match=r"wanted test\.txt; got no such file"):
        datasets.load(f"caltech101_ericsson={tmp_path}")
    edit(tmp_path / "train.txt", "Faces/image_0001.jpg")
    with pytest.raises(DataError, match="lines of the form 'accordion/image_0001"):
        datasets.load(f"caltech101_ericsson={tmp_path}")
