"""Images with a class for every pixel: listed, checked and opened; pixels that belong to nobody are void."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from evaltk.data import frames
from evaltk.data.folders import EXTENSIONS, is_hidden
from evaltk.data.images import Split
from evaltk.data.listed import leads_out
from evaltk.deviations import Deviation
from evaltk.errors import DataError, some

VOID = 255
MOST = 255  # classes: ids 0 to 254, the largest byte is void


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DenseSplit(Split):
    """Images and their label maps.

    Attributes:
        masks: paths of the label maps under `root`, one per image. first: the id in the files that is class 0; ids
            below it are void, as is 255.
    """

    masks: tuple[str, ...] = ()
    first: int = 0

    def taken(self, rows: np.ndarray, *, name: str, fingerprint: str) -> Self:
        """The images at `rows` [n] int64 with their label maps, in that order, as a split of its own."""
        part = super(DenseSplit, self).taken(rows, name=name, fingerprint=fingerprint)
        return replace(part, masks=tuple(self.masks[row] for row in rows.tolist()))

    def mask(self, index: int) -> np.ndarray:
        """Class of each pixel, uint8 [H, W], 255 where there is none.

        Raises: DataError: not an index mask, or an id that is no class.
        """
        path = (self.root or Path()) / self.masks[index]
        ids = frames.read_ids(path).astype(np.int16)
        labels = np.where((ids == VOID) | (ids < self.first), VOID, ids - self.first)
        odd = np.unique(labels[(labels != VOID) & (labels >= len(self.classes))])
        if len(odd):
            wanted = f"ids from {self.first} to {self.first + len(self.classes) - 1}, or 255 for void"
            got = some([str(int(one) + self.first) for one in odd], 5)
            raise DataError(wanted=wanted, got=got, where=path, do="list all classes, or save other ids as 255")
        return labels.astype(np.uint8)

    def pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(pixels uint8 [H, W, 3], classes uint8 [H, W]). Raises: DataError: as `mask`, or of another size."""
        pixels, labels = np.asarray(self.open(index)), self.mask(index)
        if pixels.shape[:2] != labels.shape:
            (height, width), (mask_height, mask_width) = pixels.shape[:2], labels.shape
            wanted, got = f"{width} x {height}, the size of {self.image_id(index)}", f"{mask_width} x {mask_height}"
            do = "save the label map in the image's size, without interpolation"
            raise DataError(wanted=wanted, got=got, where=(self.root or Path()) / self.masks[index], do=do)
        return pixels, labels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DenseDataset:
    """Training images and those that are reported on, with label maps of the same classes."""

    KIND: ClassVar[str] = "masks"

    name: str
    train: DenseSplit
    test: DenseSplit
    deviations: tuple[Deviation, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Of names and sizes of all files, the same on every machine."""
        return hashlib.sha256(f"{self.train.fingerprint}{self.test.fingerprint}".encode()).hexdigest()

    @property
    def stamp(self) -> str:
        """Of modification times, on this machine."""
        return hashlib.sha256(f"{self.train.stamp}{self.test.stamp}".encode()).hexdigest()

    @property
    def splits(self) -> tuple[Split, ...]:
        """None: tokens of images are used at once and not kept."""
        return ()

    @property
    def sizes(self) -> dict[str, int]:
        """Images by split."""
        return {split.name: len(split) for split in (self.train, self.test)}


def paired(
    dataset: str, name: str, root: Path, pairs: Sequence[tuple[str, str]], classes: Sequence[str], *, first: int = 0
) -> DenseSplit:
    """A split of (image, label map) below `root`, in their order; no pixel is read.

    Raises: DataError: no pairs, a pair or a class twice, files that are missing, more classes than a byte holds.
    """
    if not pairs:
        raise DataError(wanted=f"images of {name}", got="none", where=root, do="see evaltk datasets check")
    if not 2 <= len(classes) <= MOST:
        do = "name two classes or more, at most 255"
        raise DataError(wanted=f"2 to {MOST} classes", got=str(len(classes)), where=root, do=do)
    if len(set(classes)) < len(classes):
        got = some(sorted(name for name, count in Counter(classes).items() if count > 1), 3)
        raise DataError(wanted="each class once", got=f"twice: {got}", where=root, do="give every class its own name")
    if twice := [path for path, count in Counter(image for image, _ in pairs).items() if count > 1]:
        raise DataError(
            wanted=f"each image of {name} once", got=f"twice: {some(twice, 3)}", where=root, do="list it once"
        )
    if odd := [path for pair in pairs for path in pair if leads_out(path)]:
        got = f"{odd[0]!r}, which leads out of the folder"
        raise DataError(wanted=f"images of {name}", got=got, where=root, do="restore the list")
    missing = [path for pair in pairs for path in pair if not _is_file(root / path)]
    if missing:
        got = f"{len(missing)} missing: {some(missing, 3)}"
        raise DataError(wanted=f"an image and a label map each of {name}", got=got, where=root, do="restore the files")
    prints, stamps = hashlib.sha256("\0".join((*classes, str(first))).encode()), hashlib.sha256()
    for pair in pairs:
        for path in pair:
            stat = (root / path).stat()
            prints.update(f"{path}\0{stat.st_size}\n".encode(errors="surrogateescape"))
            stamps.update(stat.st_mtime_ns.to_bytes(16, "big", signed=True))
    return DenseSplit(
        dataset=dataset,
        name=name,
        classes=tuple(classes),
        labels=np.zeros(len(pairs), dtype=np.int64),
        root=root,
        files=[image for image, _ in pairs],
        masks=tuple(mask for _, mask in pairs),
        first=first,
        fingerprint=prints.hexdigest(),
        stamp=stamps.hexdigest(),
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def beside(root: Path, images: str, masks: str, *, where: str) -> list[tuple[str, str]]:
    """(image, label map) of the folders `images` and `masks` below `root`, paired by name without ending, sorted.

    Raises: DataError: a folder that lacks, two files of a name, an image without a label map or the other way round.
    """
    stems: list[dict[str, str]] = []
    for folder in (images, masks):
        if not (root / folder).is_dir():
            raise DataError(wanted="a folder", got="no such folder", where=root / folder, do=where)
        names = sorted(p.name for p in (root / folder).iterdir() if p.suffix.lower() in EXTENSIONS)
        named: dict[str, str] = {}
        for name in (name for name in names if not is_hidden(name)):
            other = named.setdefault(Path(name).stem, f"{folder}/{name}")
            if other != f"{folder}/{name}":
                got, do = f"{other} and {folder}/{name}", "keep one of them, or rename it with its label map"
                raise DataError(wanted="one file of a name", got=got, where=root / folder, do=do)
        stems.append(named)
    alone = sorted(set(stems[0]) ^ set(stems[1]))
    if alone:
        got = f"{len(stems[0])} images, {len(stems[1])} label maps, alone: {some(alone, 5)}"
        raise DataError(wanted="a label map for each image", got=got, where=root / masks, do=where)
    return [(stems[0][stem], stems[1][stem]) for stem in stems[0]]
