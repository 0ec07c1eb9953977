"""Small trees in the layouts of the transfer data sets."""

from __future__ import annotations

import io
import json
import pickle
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from evaltk.datasets import cifar100

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


def edit(path: Path, *lines: str) -> None:
    path.write_text(path.read_text() + "".join(f"{line}\n" for line in lines))
