"""A retrieval benchmark on disk: photographs, queries with their boxes, and who is to be found by whom."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from PIL import Image, ImageFile

from evaltk import files
from evaltk.data import revisitop
from evaltk.data.folders import EXTENSIONS, is_hidden
from evaltk.data.images import Split
from evaltk.data.revisitop import GroundTruth
from evaltk.deviations import Deviation, DeviationKind
from evaltk.errors import DataError

Box = tuple[float, float, float, float]
NAMED = 100  # missing images that an error names one by one
# As downloaded; since June 2022 the sites give copies with blurred faces. revisitop python/download.py:29-36
ARCHIVES = {
    "blurred v1": ("oxbuild_images-v1.tgz", "paris_1-v1.tgz", "paris_2-v1.tgz"),
    "original": ("oxbuild_images.tgz", "paris_1.tgz", "paris_2.tgz"),
}
VERSIONS = {"blurred v1": None, "original": DeviationKind.ORIGINAL_IMAGES}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Photographs(Split):
    """Images of individual sizes; with `boxes` each is cropped to its own (left, top, right, bottom) in pixels."""

    boxes: tuple[Box, ...] | None = None

    def taken(self, rows: np.ndarray, *, name: str, fingerprint: str) -> Self:
        """The images at `rows` [n] int64, in that order and with their boxes, as a split of its own."""
        part = super(Photographs, self).taken(rows, name=name, fingerprint=fingerprint)
        return replace(part, boxes=None if self.boxes is None else tuple(self.boxes[row] for row in rows.tolist()))

    def open(self, index: int) -> Image.Image:
        """The image as RGB; one that ends early is taken as far as it goes, as the reference does.

        Raises: DataError: it cannot be decoded at all.
        """
        with _truncated_allowed():
            image = super(Photographs, self).open(index)
        return image if self.boxes is None else image.crop(self.boxes[index])  # Pillow rounds the sides


@contextmanager
def _truncated_allowed() -> Iterator[None]:
    # Paris has photographs that end early; the switch is Pillow's own, for the whole process, so it is put back.
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gallery:
    """A retrieval benchmark.

    Attributes:
        database: the images that are ranked. queries: whole images; `cropped_queries` gives them cut to their boxes.
        truth: who is easy, hard and junk for each query.
        fingerprint: of the ground truth, names and sizes. stamp: of modification times.
    """

    KIND: ClassVar[str] = "retrieval"

    name: str
    database: Photographs
    queries: Photographs
    truth: GroundTruth
    fingerprint: str
    stamp: str
    deviations: tuple[Deviation, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[Split, ...]:
        """None: what to extract depends on the protocol's settings."""
        return ()

    @property
    def sizes(self) -> dict[str, int]:
        """Images by split."""
        return {split.name: len(split) for split in (self.database, self.queries)}

    def cropped_queries(self) -> Photographs:
        """The queries cut to their boxes. Raises: DataError: a query has none."""
        boxes = [entry["bbx"] for entry in self.truth.gnd]
        lacking = [name for name, box in zip(self.truth.qimlist, boxes, strict=True) if box is None]
        if lacking:
            raise DataError(
                wanted="a box for each query",
                got=f"none for {len(lacking)}, the first {lacking[0]}",
                where=f"ground truth of {self.name}",
                do="--retrieval.crop False",
            )
        return photographs(self.name, "queries", self.queries.root, self.queries.files or (), boxes=tuple(boxes))


def photographs(
    dataset: str, name: str, root: Path | None, names: Sequence[str], *, boxes: tuple[Box, ...] | None = None
) -> Photographs:
    """A split of the images `names` under `root`, in their order."""
    root = root or Path()
    prints, stamps, empty = hashlib.sha256(repr(boxes).encode()), hashlib.sha256(), []
    for file in names:
        stat = (root / file).stat()
        prints.update(f"{file}\0{stat.st_size}\n".encode(errors="surrogateescape"))
        stamps.update(stat.st_mtime_ns.to_bytes(16, "big", signed=True))
        if not stat.st_size:
            empty.append(file)
    return Photographs(
        dataset=dataset,
        name=name,
        classes=("image",),
        labels=np.zeros(len(names), dtype=np.int64),
        root=root,
        files=list(names),
        fingerprint=prints.hexdigest(),
        stamp=stamps.hexdigest(),
        empty=tuple(empty),
        boxes=boxes,
    )


def folder_of_images(root: Path, *, suffixes: Sequence[str] = EXTENSIONS) -> Photographs:
    """All images below a folder, in order of their paths. Raises: DataError: none."""
    names = sorted(_walk(root, suffixes))
    if not names:
        raise DataError(wanted="a folder of images", got="none", where=root, do=f"images end in {' '.join(suffixes)}")
    return photographs(root.name, "distractors", root, names)


def load(root: Path, label: str, name: str, where: str) -> Gallery:
    """The benchmark `name` (``roxford5k`` or ``rparis6k``) below `root`, in any of the layouts people have.

    The ground truth gnd_NAME.pkl lies in root, root/NAME, root/datasets/NAME or root/data/datasets/NAME; the images
    beside it in jpg/ or below it.

    Raises: DataError: no ground truth, one that will not do, or images that are missing (all of them are named).
    """
    folders = [root, root / name, root / "datasets" / name, root / "data" / "datasets" / name]
    folder = next((f for f in folders if (f / f"gnd_{name}.pkl").is_file()), None)
    if folder is None:
        raise DataError(wanted=f"gnd_{name}.pkl", got="no such file", where=root, do=where)
    path = folder / f"gnd_{name}.pkl"
    truth = revisitop.read_ground_truth(path)
    images = folder / "jpg" if (folder / "jpg").is_dir() else folder
    found = {Path(file).stem: file for file in sorted(_walk(images), reverse=True)}  # of two the first is taken
    missing = [n for n in (*truth.imlist, *truth.qimlist) if Path(n).name not in found]
    if missing:
        raise DataError(
            wanted=f"the {len(truth.imlist)} images and {len(truth.qimlist)} queries of {path.name}",
            got=f"{len(missing)} missing: {', '.join(missing[:NAMED])}" + (" ..." if len(missing) > NAMED else ""),
            where=images,
            do=where,
        )
    database, queries = (
        photographs(label, split, images, [found[Path(n).name] for n in names])
        for split, names in (("database", truth.imlist), ("queries", truth.qimlist))
    )
    kind, version = _version(root, folder, images, database)
    prints = f"{files.sha256(path)}{database.fingerprint}{queries.fingerprint}"
    return Gallery(
        name=label,
        database=database,
        queries=queries,
        truth=truth,
        fingerprint=hashlib.sha256(prints.encode()).hexdigest(),
        stamp=hashlib.sha256(f"{database.stamp}{queries.stamp}".encode()).hexdigest(),
        deviations=(*((Deviation(kind=kind, text=version),) if kind else ()), *truth.deviations),
        notes=() if kind else (version,),
    )


def _version(root: Path, folder: Path, images: Path, database: Photographs) -> tuple[DeviationKind | None, str]:
    """(deviation from blurred v1, in words) of the images, told by the archives beside them: the images do not tell."""
    there = {p.name for f in {root, folder, images} for p in f.iterdir() if p.suffix == ".tgz"}
    names = [version for version, archives in ARCHIVES.items() if there & set(archives)]
    size = sum((images / name).stat().st_size for name in database.files or ())
    kind = VERSIONS[names[0]] if len(names) == 1 else DeviationKind.UNKNOWN_IMAGES
    version = names[0] if len(names) == 1 else "unknown (no archive beside the images)"
    about = f"{size:,} bytes in {len(database):,} database files; papers since 2022 use blurred v1"
    return kind, f"images: {version}, {about}"


def _walk(root: Path, suffixes: Sequence[str] = EXTENSIONS) -> Iterator[str]:
    for here, inside, names in os.walk(root, followlinks=True):
        inside[:] = [name for name in inside if not is_hidden(name)]
        for name in names:
            if name.lower().endswith(tuple(suffixes)) and not is_hidden(name):
                yield os.path.relpath(f"{here}{os.sep}{name}", root).replace(os.sep, "/")
