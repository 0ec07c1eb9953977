"""Splits of labelled images: listed, fingerprinted and opened. Nothing here decodes an image before it is asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from PIL import Image

from evaltk.data import decoding, folders
from evaltk.data.decoding import Reading
from evaltk.data.folders import EXTENSIONS, class_folders
from evaltk.deviations import Deviation
from evaltk.errors import DataError, lookalike, some, twins

SAMPLED = 32  # images a split whose bytes are part of its fingerprint
TAIL = 65_536  # bytes of each, from its end
MISSING = frozenset(
    {"na", "n/a", "none", "null", "nan", "?", "#n/a", "unlabeled", "unlabelled"}
)  # names that may mean it
READ = {
    "as-shown": "images are read as shown: EXIF orientation, transparency on white, sRGB, gray of all depths at 8 bits",
    "as-reference": "images are read as-reference, as torchvision's ImageFolder does",
}
Found = tuple[str, int, int, int]  # a file's path below the root, its class id, its bytes, modified in ns


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Labelled images of one split.

    Attributes:
        dataset, name: e.g. ``cifar10``, ``test``. classes: names, in the order of their ids.
        labels: [N] int64. files: N paths under `root`, or None where `pixels` [N, H, W, 3] uint8 holds the images.
        fingerprint: of names, sizes, labels and the bytes of some images (or of all pixels): the same on every machine.
        stamp: of the files' modification times: what makes a local cache forget a file changed in place.
        empty: files of no bytes. reading: how files become pixels.
        left: {kind: files of the folder that are not read}, such as hidden ones and ``.heic``.
    """

    dataset: str
    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    fingerprint: str
    root: Path | None = None
    files: Sequence[str] | None = None
    pixels: np.ndarray | None = None
    stamp: str = ""
    empty: tuple[str, ...] = ()
    reading: Reading = decoding.REFERENCE
    left: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def image_id(self, index: int) -> str:
        """The image's path under the root, or its number."""
        return self.files[index] if self.files is not None else str(index)

    def taken(self, rows: np.ndarray, *, name: str, fingerprint: str) -> Self:
        """The images at `rows` [n] int64, in that order, as a split of its own."""
        names = [self.image_id(row) for row in rows.tolist()]
        return replace(
            self,
            name=name,
            labels=self.labels[rows],
            files=None if self.files is None else names,
            pixels=None if self.pixels is None else self.pixels[rows],
            fingerprint=fingerprint,
            empty=tuple(sorted(set(self.empty) & set(names))),
        )

    def open(self, index: int) -> Image.Image:
        """The image as RGB. Raises: DataError: the file cannot be decoded (it is named)."""
        if self.pixels is not None:
            return Image.fromarray(self.pixels[index])
        path = (self.root or Path()) / self.image_id(index)
        return decoding.rgb(path, self.reading)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """A dataset: the training split, the split that scores are reported on, and notes for the result.

    Attributes:
        train: with the official validation images, where there are some; `val`: which of its rows [N] bool they are.
        metric: what its figures are: ``top1``, or ``mean_per_class``, the mean of the classes' recalls.
        own: whether it is of a user's own files, whose classes have no published order.
    """

    KIND: ClassVar[str] = "images"

    name: str
    train: Split
    test: Split
    deviations: tuple[Deviation, ...] = ()
    notes: tuple[str, ...] = ()
    val: np.ndarray | None = None
    metric: Literal["top1", "mean_per_class"] = "top1"
    own: bool = False

    def __post_init__(self) -> None:
        if self.train.classes != self.test.classes:
            raise ValueError("both splits must number their classes alike")

    @property
    def fingerprint(self) -> str:
        """Of both splits and of which images validate, the same on every machine."""
        state = hashlib.sha256(f"{self.train.fingerprint}{self.test.fingerprint}".encode())
        state.update(b"" if self.val is None else np.packbits(self.val).tobytes())
        return state.hexdigest()

    @property
    def stamp(self) -> str:
        """Of the modification times of both splits' files, on this machine."""
        return hashlib.sha256(f"{self.train.stamp}{self.test.stamp}".encode()).hexdigest()

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits whose features protocols ask for."""
        return (self.train, self.test)

    @property
    def sizes(self) -> dict[str, int]:
        """Images by split."""
        return {split.name: len(split) for split in self.splits}


def read_as(split: Split, reading: Reading) -> Split:
    """The split with its images read so, which its fingerprint says."""
    text = reading.text()
    prints = hashlib.sha256(f"{split.fingerprint}\0{text}".encode()).hexdigest() if text else split.fingerprint
    return replace(split, reading=reading, fingerprint=prints)


def own(dataset: Any, reading: Reading) -> Any:
    """A dataset of a user's own images, with or without label maps, read so; notes say how, and what is in it."""
    train, test = (read_as(split, reading) for split in (dataset.train, dataset.test))
    if not isinstance(dataset, Dataset):
        return replace(dataset, train=train, test=test, notes=(*dataset.notes, READ[reading.show]))
    told = tuple(counts(split) for split in dataset.splits if len(split))
    if twice := twins(train.classes, case=True):
        told += (f"classes that differ in case only: {some([f'{a} and {b}' for a, b in twice], 3)}",)
    if odd := [name for name in train.classes if name.lower() in MISSING]:
        told += (f"a class is called {some(odd, 3)}: are these images without a label?",)
    notes = (*dataset.notes, *told, READ[reading.show])
    return replace(dataset, train=train, test=test, notes=notes, own=True)


def noted(dataset: Any) -> Any:
    """A dataset of any kind; one of images with a note of the files in its folders that are not read."""
    if not isinstance(dataset, Dataset):
        return dataset
    found = tuple(counts(split) for split in dataset.splits if split.left)
    return replace(dataset, notes=(*dataset.notes, *found)) if found else dataset


def counts(split: Split) -> str:
    """Images and classes of a split, classes without images, and what was left out, in words."""
    there = set(split.labels.tolist())
    lacking = [name for number, name in enumerate(split.classes) if number not in there]
    classes = f"{len(split.classes):,} classes"
    if lacking:
        classes = f"{len(there):,} of {classes}, none of {some(lacking, 5)}"
    return f"{split.name or 'all'}: {len(split):,} images of {classes}{left_out(split)}"


def left_out(split: Split) -> str:
    """``; left out: 3 hidden, 2 .heic``, or ""."""
    return f"; left out: {folders.told(split.left)}" if split.left else ""


def from_arrays(dataset: str, name: str, pixels: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Split:
    """A split of images in memory: pixels [N, H, W, 3] uint8, labels [N]."""
    labels = np.ascontiguousarray(labels, dtype=np.int64)
    state = hashlib.sha256(repr((pixels.shape, tuple(classes))).encode())
    state.update(np.ascontiguousarray(pixels).data)
    state.update(labels.data)
    return Split(
        dataset=dataset, name=name, classes=tuple(classes), labels=labels, pixels=pixels, fingerprint=state.hexdigest()
    )


def from_folder(
    dataset: str,
    name: str,
    root: Path,
    classes: Sequence[str],
    *,
    get: str,
    suffixes: Sequence[str] = EXTENSIONS,
    may_lack: bool = False,
) -> Split:
    """A split in torchvision's ImageFolder layout, `root/name/CLASS/**/IMAGE`, in ImageFolder's order.

    Args:
        name: of the split and its folder; empty for class folders directly under `root`.
        classes: the classes and their order; the folder may lack some of them, but have no others.
        get: what to do where the layout is wrong. suffixes: of the files that are images.
        may_lack: whether class folders may be empty, as long as some are not.

    Raises: DataError: a class that `classes` lacks, an empty class folder, no images.
    """
    folder = root / name
    there = class_folders(folder, get=get)
    before = f"{name}/" if name else ""
    _check_known(there, classes, folder)
    number = {c: i for i, c in enumerate(classes)}
    found: list[Found] = []
    left = folders.beside(folder, suffixes)
    empty: dict[str, str] = {}
    for cls in there:
        inside, others = folders.walk(folder / cls, suffixes)
        left.update(others)
        if not inside:
            empty[cls] = folders.told(others)
        for path, size, modified in inside:
            found.append((f"{before}{cls}/{path}".replace(os.sep, "/"), number[cls], size, modified))
    if empty and not (may_lack and found):
        cls, others_told = next(iter(empty.items()))
        raise DataError(
            wanted=f"at least one image ({' '.join(suffixes)}) a class",
            got=f"none, but {others_told}" if others_told else "an empty class folder",
            where=folder / cls,
            do="convert these to JPEG or PNG" if others_told else "add images, or remove the folder",
        )
    return replace(of_files(dataset, name, root, classes, found), left=dict(left))


def of_files(dataset: str, name: str, root: Path, classes: Sequence[str], found: Sequence[Found]) -> Split:
    """A split of the files `found` under `root`, in their order."""
    return Split(
        dataset=dataset,
        name=name,
        classes=tuple(classes),
        labels=np.asarray([label for _, label, _, _ in found], dtype=np.int64),
        root=root,
        files=[file for file, _, _, _ in found],
        fingerprint=fingerprint(classes, found, lambda row: _tail(root / found[row][0])),
        stamp=stamp(modified for _, _, _, modified in found),
        empty=tuple(file for file, _, size, _ in found if not size),
    )


def fingerprint(classes: Sequence[str], found: Sequence[Found], tail: Callable[[int], bytes]) -> str:
    """sha256 of names, sizes and labels of the images `found`, and of `tail(row)` of some: their last `TAIL` bytes."""
    state = hashlib.sha256("\0".join(classes).encode(errors="surrogateescape"))
    for file, label, size, _ in found:
        state.update(f"{file}\0{size}\0{label}\n".encode(errors="surrogateescape"))
    for row in np.linspace(0, len(found) - 1, min(SAMPLED, len(found))).astype(int).tolist():
        state.update(tail(row))
    return state.hexdigest()


def stamp(modified: Iterable[int]) -> str:
    """sha256 of modification times in ns."""
    state = hashlib.sha256()
    for time in modified:
        state.update(time.to_bytes(16, "big", signed=True))
    return state.hexdigest()


def _check_known(there: Sequence[str], classes: Sequence[str], folder: Path) -> None:
    unknown = sorted(set(there) - set(classes))
    alike = lookalike(unknown, classes)
    if unknown:
        raise DataError(
            wanted=f"the {len(classes)} classes of the training split",
            got=alike or f"{len(unknown)} more: {', '.join(unknown[:5])}",
            where=folder,
            do="rename one to the other" if alike else "remove them, or add them to the training split",
        )


def _tail(path: Path) -> bytes:
    """The last bytes of a file: two datasets may share names and sizes (uncompressed images) and nothing else."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - TAIL))
            return stream.read()
    except OSError:
        return b""  # it is named as unreadable when its turn comes
