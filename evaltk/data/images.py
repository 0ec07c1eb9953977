"""Splits of labelled images: listed, fingerprinted and opened. Nothing here decodes an image before it is asked for."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
from PIL import Image

from evaltk.deviations import Deviation
from evaltk.errors import DataError, lookalike

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's ImageFolder
SAMPLED = 32  # images a split whose bytes are part of its fingerprint
TAIL = 65_536  # bytes of each, from its end
Found = tuple[str, int, int, int]  # a file's path below the root, its class id, its bytes, modified in ns


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Labelled images of one split.

    Attributes:
        dataset, name: e.g. ``cifar10``, ``test``. classes: names, in the order of their ids.
        labels: [N] int64. files: N paths under `root`, or None where `pixels` [N, H, W, 3] uint8 holds the images.
        fingerprint: of names, sizes, labels and the bytes of some images (or of all pixels): the same on every machine.
        stamp: of the files' modification times: what makes a local cache forget a file changed in place.
        empty: files of no bytes.
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
        try:
            with path.open("rb") as stream, Image.open(stream) as image:
                return image.convert("RGB")
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
            got = "an empty file" if path.exists() and not path.stat().st_size else f"{type(error).__name__}: {error}"
            raise undecodable(got, path) from error


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """A dataset: the training split, the split that scores are reported on, and notes for the result.

    Attributes:
        train: with the official validation images, where there are some; `val`: which of its rows [N] bool they are.
        metric: what its figures are: ``top1``, or ``mean_per_class``, the mean of the classes' recalls.
    """

    KIND: ClassVar[str] = "images"

    name: str
    train: Split
    test: Split
    deviations: tuple[Deviation, ...] = ()
    notes: tuple[str, ...] = ()
    val: np.ndarray | None = None
    metric: Literal["top1", "mean_per_class"] = "top1"

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


def undecodable(got: str, where: object) -> DataError:
    """The error for an image that cannot be decoded."""
    return DataError(
        wanted="an image that can be decoded",
        got=got,
        where=where,
        do="restore the file, or allow some to be left out with --skip-bad-images N",
    )


def from_arrays(dataset: str, name: str, pixels: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Split:
    """A split of images in memory: pixels [N, H, W, 3] uint8, labels [N]."""
    labels = np.ascontiguousarray(labels, dtype=np.int64)
    state = hashlib.sha256(repr((pixels.shape, tuple(classes))).encode())
    state.update(np.ascontiguousarray(pixels).data)
    state.update(labels.data)
    return Split(
        dataset=dataset, name=name, classes=tuple(classes), labels=labels, pixels=pixels, fingerprint=state.hexdigest()
    )


def class_folders(folder: Path, *, get: str) -> list[str]:
    """Names of the class folders under `folder`, sorted. Raises: DataError: no such folder, or none inside."""
    if not folder.is_dir():
        raise DataError(wanted="a folder of class folders", got="no such folder", where=folder, do=get)
    try:
        names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise DataError(wanted="a folder that can be read", got=str(error), where=folder, do=get) from error
    if not names:
        files = sum(1 for _ in os.scandir(folder))
        raise DataError(
            wanted="class folders (CLASS/IMAGE.jpg)", got=f"none among {files} entries", where=folder, do=get
        )
    return names


def from_folder(dataset: str, name: str, root: Path, classes: Sequence[str], *, get: str) -> Split:
    """A split in torchvision's ImageFolder layout, `root/name/CLASS/**/IMAGE`, in ImageFolder's order.

    Args:
        name: of the split and its folder; empty for class folders directly under `root`.
        classes: the classes and their order; the folder may lack some of them, but have no others.
        get: what to do where the layout is wrong.

    Raises: DataError: a class that `classes` lacks, an empty class folder, no images.
    """
    folder = root / name
    there = class_folders(folder, get=get)
    before = f"{name}/" if name else ""
    _check_known(there, classes, folder)
    number = {c: i for i, c in enumerate(classes)}
    found: list[Found] = []
    for cls in there:
        inside = _walk(folder / cls)
        if not inside:
            raise DataError(
                wanted=f"at least one image ({' '.join(EXTENSIONS)}) a class",
                got="an empty class folder",
                where=folder / cls,
                do="add images, or remove the folder",
            )
        for path, size, modified in inside:
            found.append((f"{before}{cls}/{path}".replace(os.sep, "/"), number[cls], size, modified))
    return of_files(dataset, name, root, classes, found)


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


def _walk(folder: Path) -> list[tuple[str, int, int]]:
    """(path below `folder`, bytes, modified in ns) of its images, in torchvision's order: by folder, then by name.

    Raises: DataError: a folder that cannot be read, a link that leads nowhere or back up.
    """
    below: list[tuple[str, list[str]]] = []
    found: list[tuple[str, int, int]] = []
    try:
        for here, _, names in os.walk(folder, onerror=_raise, followlinks=True):
            real = Path(here).resolve()
            if here != str(folder) and Path(here).parent.resolve().is_relative_to(real):
                raise OSError(errno.ELOOP, "a link back to a folder above it", here)
            below.append((here, sorted(n for n in names if n.lower().endswith(EXTENSIONS))))
        for here, names in sorted(below):
            for name in names:
                path = f"{here}{os.sep}{name}"
                stat = Path(path).stat()
                found.append((path[len(str(folder)) + 1 :], stat.st_size, stat.st_mtime_ns))
    except OSError as error:
        raise DataError(
            wanted="folders and files that can be read",
            got=str(error.strerror),
            where=error.filename or folder,
            do="restore it, or remove it (is it a broken link?)",
        ) from error
    return found


def _raise(error: OSError) -> None:
    raise error
