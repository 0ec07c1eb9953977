"""Datasets on disk: layouts, order, fingerprints, and every layout that is wrong."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from evaltk import datasets
from evaltk.data import images
from evaltk.datasets import cifar10
from evaltk.deviations import DeviationKind
from evaltk.errors import DataError, SettingsError

Build = Callable[..., Path]


def test_imagefolder_reads_test_before_val(image_tree: Build) -> None:
    root = image_tree({"train/b": 2, "train/a": 3, "val/a": 1, "val/b": 1})
    found = datasets.load(f"pics:imagefolder={root}")
    assert (found.name, found.train.name, found.test.name) == ("pics", "train", "val")
    assert found.train.classes == ("a", "b") and found.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert found.train.labels.dtype == np.int64
    assert found.train.image_id(0) == "train/a/000.png"
    with Image.open(root / "train/a/000.png") as image:
        assert np.array_equal(np.asarray(found.train.open(0)), np.asarray(image.convert("RGB")))
    image_tree({"test/a": 4, "test/b": 1})
    found = datasets.load(f"imagefolder={root}")
    assert (found.name, found.test.name, len(found.test)) == ("imagefolder", "test", 5)


def test_order_is_torchvisions(image_tree: Build) -> None:
    below = ["train/cat", "train/cat/a", "train/cat/a/c", "train/cat/a-b", "train/cat/a b", "train/cat/Z", "train/Dog"]
    root = image_tree(dict.fromkeys(below, 2) | {"test/cat": 1, "test/Dog": 1})
    image_tree({"train/cat/b": 1}, form="JPG")
    (root / "train/cat/notes.txt").write_text("no image")
    found = datasets.load(f"imagefolder={root}").train
    theirs = ImageFolder(str(root / "train"))
    assert list(found.classes) == theirs.classes
    assert [str(root / file) for file in found.files or ()] == [path for path, _ in theirs.samples]
    assert found.labels.tolist() == theirs.targets


def test_a_test_split_may_lack_classes(image_tree: Build) -> None:
    root = image_tree({"train/a": 1, "train/b": 1, "train/c": 1, "test/b": 1, "test/c": 2})
    found = datasets.load(f"imagefolder={root}").test
    assert found.classes == ("a", "b", "c") and found.labels.tolist() == [1, 2, 2]  # by name, not by place


def test_test_classes_that_the_training_split_lacks(image_tree: Build) -> None:
    root = image_tree({"train/a": 1, "train/b": 1, "test/a": 1, "test/zebra": 1})
    with pytest.raises(DataError, match=r"2 classes of the training split; got 1 more: zebra.*test"):
        datasets.load(f"imagefolder={root}")


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        ({"train/a": 1, "train/b": 0, "test/a": 1}, r"an empty class folder; where: .*train/b"),
        ({"train/a": 1, "test/a": 0}, r"an empty class folder; where: .*test/a"),
        ({"train/a": 1, "train/b/inner": 0, "test/a": 1}, r"an empty class folder; where: .*train/b"),
        ({"train": 3, "test/a": 1}, r"class folders.*none among 3 entries; where: .*train"),
        ({"train/a": 1, "val": 3}, r"class folders.*none among 3 entries; where: .*val"),  # the flat layout of a tar
        ({"train/a": 1}, r"train/ and test/ or val/; got train"),
        ({"cats": 1, "dogs": 1}, r"got cats, dogs"),
    ],
)
def test_wrong_layouts(image_tree: Build, folders: dict[str, int], says: str) -> None:
    root = image_tree(folders)
    with pytest.raises(DataError, match=says):
        datasets.load(f"imagefolder={root}")


def test_an_empty_root_and_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="an empty folder"):
        datasets.load(f"imagefolder={tmp_path}")
    with pytest.raises(DataError, match=r"no such folder.*PATH/train/CLASS"):
        datasets.load(f"imagefolder={tmp_path}/nothing")
    with pytest.raises(SettingsError, match="got no path"):
        datasets.load("imagefolder")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="wanted the folder of imagefolder; got a file"):
        datasets.load(f"imagefolder={tmp_path}/file")


def test_broken_links_and_links_in_a_circle_are_named(image_tree: Build) -> None:
    root = image_tree({"train/a": 1, "test/a": 1})
    (root / "train/a/gone.png").symlink_to(root / "nowhere.png")
    with pytest.raises(DataError, match=r"where: .*gone\.png"):
        datasets.load(f"imagefolder={root}")
    (root / "train/a/gone.png").unlink()
    (root / "train/a/round").symlink_to(root / "train")
    with pytest.raises(DataError, match=r"a link back.*where: .*round"):
        datasets.load(f"imagefolder={root}")
    (root / "train/a/round").unlink()
    shutil.move(root / "train/a", root / "elsewhere")
    (root / "train/a").symlink_to(root / "elsewhere")  # a link that leads somewhere is a folder as any other
    assert len(datasets.load(f"imagefolder={root}").train) == 1


def test_names_that_are_not_utf8(image_tree: Build) -> None:
    root = image_tree({"train/a": 1, "test/a": 1})
    os.rename(root / "train/a/000.png", os.fsencode(root / "train/a") + b"/caf\xe9.png")
    found = datasets.load(f"imagefolder={root}")
    assert len(found.train) == 1 and found.train.open(0).size == (20, 16)


def test_fingerprints_travel_and_stamps_do_not(image_tree: Build) -> None:
    root = image_tree({"train/a": 3, "train/b": 2, "test/a": 1})

    def look(where: Path) -> tuple[str, str]:
        found = datasets.load(f"imagefolder={where}")
        return found.fingerprint, found.stamp

    first = look(root)
    assert look(root) == first
    copy = Path(shutil.copytree(root, root.parent / "copy", copy_function=shutil.copyfile))  # modification times differ
    assert look(copy)[0] == first[0] and look(copy)[1] != first[1]
    shutil.move(root / "train/a/002.png", root / "train/b/002.png")  # another label
    assert look(root)[0] != first[0]
    shutil.move(root / "train/b/002.png", root / "train/a/002.png")
    assert look(root) == first
    stat = (root / "train/b/000.png").stat()
    os.utime(root / "train/b/000.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert look(root)[0] == first[0] and look(root)[1] != first[1]
    with (root / "test/a/000.png").open("ab") as stream:  # another size
        stream.write(b"x")
    assert look(root)[0] != first[0]


def test_data_sets_of_one_layout_and_other_pixels_are_told_apart(tmp_path: Path) -> None:
    def build(name: str, level: int) -> Path:
        for split in ("train", "test"):
            path = tmp_path / name / split / "a" / "0.bmp"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (8, 8), (level, 0, 0)).save(path)
            os.utime(path, (0, 0))
        return tmp_path / name

    one, two, same = (datasets.load(f"imagefolder={build(n, v)}") for n, v in (("a", 1), ("b", 2), ("c", 1)))
    assert one.stamp == two.stamp and one.fingerprint != two.fingerprint  # same names, sizes and times
    assert one.fingerprint == same.fingerprint


def test_a_corrupt_image_is_named(image_tree: Build) -> None:
    root = image_tree({"train/a": 1, "test/a": 1})
    whole = (root / "train/a/000.png").read_bytes()
    split = datasets.load(f"imagefolder={root}").train
    damaged = [b"", b"not an image", whole[: len(whole) // 2], whole[:40] + b"\xff" * 60 + whole[100:]]
    for bad in damaged:
        (root / "train/a/000.png").write_bytes(bad)
        with pytest.raises(DataError, match=r"000\.png.*--skip-bad-images") as caught:
            split.open(0)
        assert ("an empty file" in str(caught.value)) == (not bad)
    (root / "train/a/000.png").unlink()
    with pytest.raises(DataError, match=r"FileNotFoundError.*000\.png"):
        split.open(0)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of damage before it gives up
def test_damage_of_any_kind_is_a_data_error(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    picture = Image.fromarray(draw.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    for form in ("jpg", "png", "bmp", "tif", "webp", "ppm"):
        path = tmp_path / "train" / "a" / f"0.{form}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        whole = bytearray(path.read_bytes())
        split = images.from_folder("x", "train", tmp_path, ["a"], get="")
        for _ in range(60):
            bad = whole[: int(draw.integers(len(whole)))] if draw.random() < 0.3 else whole[:]
            for place in draw.integers(0, len(bad), 8) if bad else ():
                bad[place] = int(draw.integers(256))
            path.write_bytes(bad)
            try:
                assert split.open(0).mode == "RGB"
            except DataError as error:
                assert f"0.{form}" in str(error)
        path.unlink()


def test_other_modes_become_rgb(tmp_path: Path) -> None:
    for number, mode in enumerate(("L", "RGBA", "P", "CMYK", "1")):
        path = tmp_path / "train" / "a" / f"{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (4, 5)).save(path)
    split = images.from_folder("x", "train", tmp_path, ["a"], get="")
    assert all(split.open(i).mode == "RGB" for i in range(5))


def test_digits() -> None:
    from sklearn.datasets import load_digits

    found = datasets.load("digits")
    assert (len(found.train), len(found.test), len(found.train.classes)) == (1000, 797, 10)
    raw = load_digits()
    assert found.train.labels.tolist() == raw.target[:1000].tolist()
    assert found.test.labels.tolist() == raw.target[1000:].tolist()
    picture = np.asarray(found.test.open(5))
    assert picture.shape == (8, 8, 3)
    assert np.array_equal(picture[..., 0], np.rint(raw.images[1005] * 255 / 16).astype(np.uint8))
    assert found.fingerprint == datasets.load("zip:digits").fingerprint and found.train.stamp == ""
    with pytest.raises(SettingsError, match="wanted no path for digits"):  # or it would be passed over in silence
        datasets.load("digits=/data/mnist")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("imagnet=/x", "did you mean 'imagenet'"),
        ("cifar=/x", "did you mean 'cifar10'"),
        ("/data/folder", "there are: .*LABEL:imagefolder=PATH"),
        ("", "wanted a dataset; got ''"),
        ("mine:folder=/x", "got 'folder'"),
        ("imagenet:imagefolder=/x", "a label that is no dataset's name; got 'imagenet'"),
    ],
)
def test_names_that_will_not_do(word: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        datasets.load(word)


def batches(folder: Path, *, rows: int = 20, python2: bool = False) -> tuple[np.ndarray, list[int]]:
    """The six official files, small; returns the test batch's data [rows, 3072] and labels."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name in (*cifar10.TRAIN_FILES, "test_batch"):
        data = draw.integers(0, 256, (rows, 3072), dtype=np.uint8)
        labels = draw.integers(0, 10, rows).tolist()
        tree = {b"batch_label": b"x", b"labels": labels, b"data": data, b"filenames": [b"a.png"] * rows}
        (folder / name).write_bytes(pickle.dumps(tree, protocol=2))
    return data, labels


def test_cifar10_pickles(tmp_path: Path) -> None:
    data, labels = batches(tmp_path / "cifar-10-batches-py")
    for root in (tmp_path, tmp_path / "cifar-10-batches-py"):
        found = datasets.load(f"cifar10={root}")
        assert (len(found.train), len(found.test)) == (100, 20) and found.test.labels.tolist() == labels
        assert found.train.classes == cifar10.CLASSES
        picture = np.asarray(found.test.open(7))
        assert np.array_equal(picture, data[7].reshape(3, 32, 32).transpose(1, 2, 0))
        assert "train has 100 images, CIFAR-10 50,000: not comparable" in found.deviations[0].words()


def test_a_hostile_pickle_is_not_executed(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    folder = tmp_path / "cifar-10-batches-py"
    batches(folder)
    for tree in (Hostile(), {b"data": Hostile(), b"labels": [1]}):
        (folder / "data_batch_3").write_bytes(pickle.dumps(tree))
        with pytest.raises(DataError, match=r"an official CIFAR-10 batch.*system.*data_batch_3"):
            datasets.load(f"cifar10={tmp_path}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({b"data": np.zeros((3, 3072), np.uint8), b"labels": [1, 2]}, r"data \(3, 3072\) uint8 for 2 labels"),
        ({b"data": np.zeros((2, 1024), np.uint8), b"labels": [1, 2]}, r"data \(2, 1024\)"),
        ({b"data": np.zeros((2, 3072), np.float32), b"labels": [1, 2]}, ""),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10]}, "labels from 1 to 10"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [-1, 0]}, "labels from -1"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [1, 0]}, "labels"),  # CIFAR-100
        ([1, 2], ""),
    ],
)
def test_cifar10_pickles_of_another_content(tmp_path: Path, tree: object, says: str) -> None:
    batches(tmp_path / "x")
    (tmp_path / "x" / "test_batch").write_bytes(pickle.dumps(tree, protocol=2))
    with pytest.raises(DataError, match=rf"an official CIFAR-10 batch.*{says}.*test_batch"):
        datasets.load(f"cifar10={tmp_path / 'x'}")


def test_cifar10_files_that_lack_or_broke(tmp_path: Path) -> None:
    batches(tmp_path / "x")
    whole = (tmp_path / "x" / "data_batch_2").read_bytes()
    (tmp_path / "x" / "data_batch_2").write_bytes(whole[:1000])
    with pytest.raises(DataError, match=r"an official CIFAR-10 batch.*data_batch_2"):
        datasets.load(f"cifar10={tmp_path / 'x'}")
    (tmp_path / "x" / "data_batch_2").unlink()
    with pytest.raises(DataError, match=r"all six batch files of CIFAR-10; got no data_batch_2"):
        datasets.load(f"cifar10={tmp_path / 'x'}")
    with pytest.raises(DataError, match=r"no such folder.*cs\.toronto\.edu"):
        datasets.load(f"cifar10={tmp_path / 'nothing'}")


def test_cifar10_image_folders(image_tree: Build) -> None:
    folders = {f"{split}/{name}": 1 for split in ("train", "test") for name in cifar10.CLASSES}
    found = datasets.load(f"cifar10={image_tree(folders, form='jpg')}")
    assert found.test.labels.tolist() == list(range(10)) and "JPEG" in found.deviations[0].text
    lacking = image_tree({k: v for k, v in folders.items() if k != "train/frog"}, name="lacking")
    with pytest.raises(DataError, match=r"wanted the ten classes.*my-cifar10:imagefolder=PATH"):
        datasets.load(f"cifar10={lacking}")


def imagenet_like(root: Path, names: list[str]) -> Path:
    (root / "one").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(root / "one" / "x.JPEG")
    for split in ("train", "val"):
        for name in names:
            (root / split / name).mkdir(parents=True)
            os.link(root / "one" / "x.JPEG", root / split / name / f"{name}_1.JPEG")
    return root


def test_imagenet(tmp_path: Path) -> None:
    names = [f"n{9_000_000 + 7 * number:08d}" for number in range(1000)]
    root = imagenet_like(tmp_path / "imagenet", names)
    found = datasets.load(f"imagenet={root}")
    assert found.train.classes == tuple(names) and found.test.name == "val"
    assert found.test.labels.tolist() == list(range(1000))
    assert [(d.kind, d.text) for d in found.deviations] == [
        (DeviationKind.SPLIT_SIZE, "train has 1,000 images, ImageNet-1K 1,281,167"),
        (DeviationKind.SPLIT_SIZE, "val has 1,000 images, ImageNet-1K 50,000"),
    ]
    shutil.move(root / "train" / names[3], root / "train" / "kitten")
    with pytest.raises(DataError, match=r"1000 class folders named nXXXXXXXX.*image-net\.org.*my-imagenet"):
        datasets.load(f"imagenet={root}")
    shutil.rmtree(root / "train" / "kitten")
    with pytest.raises(DataError, match="got 999, the first n09000000"):
        datasets.load(f"imagenet={root}")
    with pytest.raises(DataError, match=r"no such folder; where: .*train"):
        datasets.load(f"imagenet={tmp_path}")


def test_both_splits_number_their_classes_alike() -> None:
    pixels, labels = np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1, np.int64)
    one, two = (images.from_arrays("x", "train", pixels, labels, names) for names in (["a"], ["b"]))
    with pytest.raises(ValueError, match="alike"):
        images.Dataset(name="x", train=one, test=two)
    assert one.fingerprint != two.fingerprint
