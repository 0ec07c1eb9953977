"""DAVIS-2017 val at 480p: 30 video sequences with index masks of their objects in every frame."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from evaltk.data import listed as lists
from evaltk.data.images import Split
from evaltk.datasets import DatasetSpec
from evaltk.deviations import Deviation, DeviationKind
from evaltk.errors import DataError

WHERE = (
    "expected: PATH/{ImageSets/2017/val.txt,JPEGImages/480p/SEQUENCE/*.jpg,Annotations/480p/SEQUENCE/*.png}; get "
    "DAVIS-2017-trainval-480p.zip from davischallenge.org/davis2017/code.html"
)
NUM_SEQUENCES = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """One video: its frames and their index masks, pairwise, in order of their names."""

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """Videos with index masks.

    Attributes:
        split: name of the list of sequences. fingerprint: of names and sizes of all files, the same on every machine.
        stamp: of their modification times.
    """

    KIND: ClassVar[str] = "sequences"

    name: str
    split: str
    sequences: tuple[Sequence, ...]
    fingerprint: str
    stamp: str
    deviations: tuple[Deviation, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[Split, ...]:
        """None: tokens of frames are used at once and not kept."""
        return ()

    @property
    def sizes(self) -> dict[str, int]:
        """Videos by split."""
        return {self.split: len(self.sequences)}


def load(root: Path, label: str = "davis2017") -> Sequences:
    """The sequences that ImageSets/2017/val.txt names; no image is decoded.

    Raises: DataError: a folder or file that lacks, or frames and masks that do not pair.
    """
    return from_list(root, label, "2017", NUM_SEQUENCES)


def from_list(root: Path, label: str, year: str, number: int) -> Sequences:
    """The sequences of the list val.txt of a year, of which there are to be `number`. Raises: as `load`."""
    found = read_sequences(root, year=year)
    prints, stamps = hashlib.sha256(), hashlib.sha256()
    for sequence in found:
        for path in (*sequence.frames, *sequence.masks):
            stat = path.stat()
            prints.update(f"{path.relative_to(root)}\0{stat.st_size}\n".encode())
            stamps.update(stat.st_mtime_ns.to_bytes(16, "big", signed=True))
    deviations: tuple[Deviation, ...] = ()
    if len(found) != number:
        text = f"{len(found)} sequences, DAVIS-{year} val has {number}"
        deviations = (Deviation(kind=DeviationKind.SPLIT_SIZE, text=text),)
    return Sequences(
        name=label,
        split="val",
        sequences=found,
        fingerprint=prints.hexdigest(),
        stamp=stamps.hexdigest(),
        deviations=deviations,
    )


def read_sequences(root: Path, split: str = "val", *, frames: bool = True, year: str = "2017") -> tuple[Sequence, ...]:
    """The sequences of a split, in the order of its list. Raises: DataError.

    Args:
        year: whose list it is.
        frames: whether the JPEGs are wanted; without them the masks alone are listed, for scoring.
    """
    listed = root / "ImageSets" / year / f"{split}.txt"
    if not listed.is_file():
        raise DataError(wanted=f"the list of sequences {split}.txt", got="no such file", where=listed, do=WHERE)
    names = lists.lines(listed, WHERE)
    if len(set(names)) < len(names):
        raise DataError(wanted="the names of sequences, each once", got="a sequence twice", where=listed, do=WHERE)
    if odd := [name for name in names if lists.leads_out(name) or "/" in name]:  # masks are written under these names
        raise DataError(wanted="names of folders", got=repr(odd[0])[:80], where=listed, do=WHERE)
    return tuple(_sequence(root, name, frames) for name in names)


def _sequence(root: Path, name: str, with_frames: bool) -> Sequence:
    masks = _listed(root / "Annotations" / "480p" / name, ".png")
    if not with_frames:
        return Sequence(name=name, frames=(), masks=masks)
    frames = _listed(root / "JPEGImages" / "480p" / name, ".jpg")
    if frames[0].stem not in {m.stem for m in masks}:
        wanted = f"the annotation of the first frame, {frames[0].stem}.png"
        raise DataError(wanted=wanted, got=f"the first is {masks[0].name}", where=masks[0].parent, do=WHERE)
    odd = sorted({f.stem for f in frames} ^ {m.stem for m in masks})
    if odd:
        raise DataError(
            wanted="a mask for each frame and a frame for each mask",
            got=f"{len(frames)} frames, {len(masks)} masks, alone: {', '.join(odd[:5])}",
            where=f"sequence {name} in {root}",
            do=WHERE,
        )
    return Sequence(name=name, frames=frames, masks=masks)


def _listed(folder: Path, ending: str) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise DataError(wanted=f"a folder of {ending[1:].upper()} files", got="no such folder", where=folder, do=WHERE)
    found = tuple(sorted(p for p in folder.iterdir() if p.suffix == ending and not p.name.startswith(".")))
    if not found:
        raise DataError(wanted=f"{ending[1:].upper()} files", got="none", where=folder, do=WHERE)
    return found


DATASET = DatasetSpec(name="davis2017", where=WHERE, load=load, doc=__doc__)
