"""The nine small datasets in their real layouts and file formats, made small; torchvision reads the same trees."""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image
from scipy.io import savemat

from evaltk import cli, datasets
from evaltk.data import listed, overlap
from evaltk.data.images import Dataset
from evaltk.datasets import caltech101, cifar100
from evaltk.deviations import Deviation, DeviationKind
from evaltk.errors import DataError

NAMES = ("aircraft", "caltech101", "cifar100", "dtd", "flowers102", "food101", "pets", "sun397")


def picture(path: Path) -> None:
    """A small image of its own, whose bytes no other has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(zlib.crc32("/".join(path.parts[-3:]).encode()))
    Image.fromarray(draw.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(path, format="JPEG")


def write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    variants = ["Boeing 707-320", "A300B4", "DHC-8-100"]  # not sorted; the official order counts
    write(data / "variants.txt", variants)
    for number, (split, count) in enumerate({"train": 2, "val": 1, "test": 3}.items()):
        rows = [(f"{number}{v}{i:05d}", name) for v, name in enumerate(variants) for i in range(count)]
        for image, _ in rows:
            picture(data / "images" / f"{image}.jpg")
        write(data / f"images_variant_{split}.txt", [" ".join(row) for row in rows])


def caltech(root: Path) -> None:
    folder = root / "caltech101" / "101_ObjectCategories"
    for cls, count in (("BACKGROUND_Google", 33), ("Faces", 31), ("accordion", 35)):
        for number in range(1, count + 1):
            picture(folder / cls / f"image_{number:04d}.jpg")
    (folder / "BACKGROUND_Google" / "tmp").touch()  # the archive has such a file


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes bytes as Python 2 wrote its strings, which is what the official files hold."""

    def save_string(self, text: bytes) -> None:
        self.write(b"T" + len(text).to_bytes(4, "little") + text)

    dispatch = {**pickle._Pickler.dispatch, bytes: save_string}  # type: ignore[attr-defined]  # noqa: RUF012


def pickled_by_python2(tree: object) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(tree)
    return stream.getvalue()


def cifar(root: Path) -> None:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name, count in (("train", 40), ("test", 10)):
        data = draw.integers(0, 256, (count, 3072), dtype=np.uint8)
        fine = draw.integers(0, 100, count).tolist()
        tree = {b"data": data, b"fine_labels": fine, b"coarse_labels": [c // 5 for c in fine], b"batch_label": b"x"}
        (folder / name).write_bytes(pickled_by_python2(tree))
    meta = {b"fine_label_names": [c.encode() for c in cifar100.CLASSES]}
    (folder / "meta").write_bytes(pickled_by_python2(meta))


def dtd(root: Path) -> None:
    folder = root / "dtd" / "dtd"
    for split, numbers in {"train": (1, 2), "val": (3,), "test": (4, 5)}.items():
        files = [f"{t}/{t}_{n:04d}.jpg" for t in ("woven", "banded") for n in numbers]
        for file in files:
            picture(folder / "images" / file)
        write(folder / "labels" / f"{split}1.txt", files)
        write(folder / "labels" / f"{split}2.txt", files[:1])  # another partition


def flowers(root: Path) -> None:
    folder = root / "flowers-102"
    labels = np.array([[3, 1, 2, 3, 1, 2, 3, 1, 2, 1]], dtype=np.uint8)
    for number in range(1, 11):
        picture(folder / "jpg" / f"image_{number:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": labels})
    ids = {"trnid": [[3, 1, 2]], "valid": [[6, 5, 4]], "tstid": [[7, 8, 9, 10]]}
    savemat(folder / "setid.mat", {key: np.array(value, dtype=np.uint16) for key, value in ids.items()})


def food(root: Path) -> None:
    folder = root / "food-101"
    for split, numbers in {"train": (1, 2, 3), "test": (4, 5)}.items():
        names = {dish: [f"{dish}/{n}{len(dish)}" for n in numbers] for dish in ("apple_pie", "waffles")}
        lines = [name for dish in names.values() for name in dish]
        for name in lines:
            picture(folder / "images" / f"{name}.jpg")
        write(folder / "meta" / f"{split}.txt", lines)
        (folder / "meta" / f"{split}.json").write_text(json.dumps(names))


def pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    breeds = {"Bengal": (1, 1, 1), "american_bulldog": (2, 2, 1), "Abyssinian": (3, 1, 2)}  # the numbers rule the order
    for name, numbers in {"trainval": (1, 20), "test": (3, 4)}.items():
        rows = [f"{breed}_{n} {' '.join(map(str, ids))}" for n in numbers for breed, ids in breeds.items()]
        for row in rows:
            picture(folder / "images" / f"{row.split()[0]}.jpg")
        write(folder / "annotations" / f"{name}.txt", ["#Image CLASS-ID SPECIES BREED ID", *rows])


def sun(root: Path) -> None:
    scenes = ("a/abbey", "a/apartment_building/outdoor", "z/zen_garden")
    for name, letters in {"Training_01": "abc", "Testing_01": "de"}.items():
        files = [f"{scene}/sun_{letter}{n}.jpg" for n, scene in enumerate(scenes) for letter in letters]
        for file in files:
            picture(root / "SUN397" / file)
        write(root / "Partitions" / f"{name}.txt", [f"/{file}" for file in files])
    write(root / "Partitions" / "ClassName.txt", [f"/{scene}" for scene in scenes])


BUILD: dict[str, Callable[[Path], None]] = dict(
    zip(NAMES, (aircraft, caltech, cifar, dtd, flowers, food, pets, sun), strict=True)
)
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


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, one folder each; not to be changed."""
    root = tmp_path_factory.mktemp("sets")
    for name, build in BUILD.items():
        build(root / name)
    return root


@pytest.fixture
def tree(trees: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of them, to be changed."""
    return lambda name: Path(shutil.copytree(trees / name, tmp_path / name))


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


def edit(path: Path, *lines: str) -> None:
    path.write_text(path.read_text() + "".join(f"{line}\n" for line in lines))


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
    ("setid.mat", {"trnid": [[1]], "valid": [[2]]}, "vectors trnid, valid, tstid of whole numbers; got KeyError"),
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
    assert err.count("\n") == 1 and err.startswith("evaltk: sun397: wanted Training_01.txt") and "Partitions.zip" in err
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
