"""Which images are shown, which are searched for neighbours, and which are classified and drawn in the map."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaltk.data import images, limits
from evaltk.data.images import Split
from evaltk.errors import DataError, SettingsError

FRAMES = "frames"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Images of a page.

    Attributes:
        shown: of the pictures. bank: searched for neighbours. judged: classified by them and drawn in the map.
        alone: whether all are of one split, so that an image is no neighbour of its own.
        notes: what a reader must know of the choice.
    """

    shown: Split
    bank: Split
    judged: Split
    alone: bool
    notes: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether the images have classes to be right or wrong about."""
        return len(self.bank.classes) > 1 and bool((self.bank.labels >= 0).all())


def choose(found: Any, *, count: int, bank: int, points: int, seed: int, skip: int = 0) -> Chosen:
    """The images of a dataset, of one split, the frames of videos, or queries and database of a benchmark.

    Args:
        found: a dataset of images or sequences, or a split. count: images shown. bank: images searched (of the training
            split, where there is one). points: images of the map. Each is drawn class by class with `seed`.
        skip: unreadable images allowed among those shown, which are left out.

    Raises: SettingsError: a number below 1. DataError: a kind of dataset without images to show, no images, or more
        unreadable ones than allowed.
    """
    for flag, value, least in (("--images", count, 1), ("--bank", bank, 2), ("--points", points, 3)):
        if value < least:
            raise SettingsError(wanted=f"{least} or more", got=str(value), where=flag, do=f"{flag} {least}")
    if isinstance(found, Split):
        parts, alone = (found, found), True
    elif found.KIND == "images":
        alone = not len(found.train)
        parts = (found.test if alone else found.train), found.test
    elif found.KIND == "retrieval":
        part = limits.limited(found, count, seed)
        parts, alone = (part.database, part.queries), False
    elif found.KIND == "sequences":
        split = frames(found)
        parts, alone = (split, split), True
    else:
        got, do = f"{found.name}, a dataset of {found.KIND}", "name a folder of images"
        raise DataError(wanted="a dataset of images, videos or retrieval", got=got, where="--data", do=do)
    if not len(parts[1]):
        raise DataError(wanted="images", got="none", where=f"{parts[1].dataset} {parts[1].name}", do="name others")
    searched, shown, judged = (
        limits.limited_split(split, number, seed)
        for split, number in ((parts[0], bank), (parts[1], count), (parts[1], points))
    )
    if len(judged) < len(shown):
        judged = shown
    drawn, shown = shown, readable(shown, skip)
    known = len(searched.classes) > 1 and bool((searched.labels >= 0).all())
    uses = ("shown", "searched for neighbours", "classified and drawn in the map" if known else "drawn in the map")
    notes = [
        f"{use}: {len(part):,} of {len(whole):,} images of {whole.dataset}, {whole.name}"
        for part, whole, use in zip((shown, searched, judged), (parts[1], parts[0], parts[1]), uses, strict=True)
    ]
    if lost := len(drawn) - len(shown):
        notes.append(f"left out: {lost} of the images drawn to be shown, which cannot be decoded")
    if alone:
        notes.append("all are of one split: no image counts as a neighbour of its own")
    return Chosen(shown=shown, bank=searched, judged=judged, alone=alone, notes=tuple(notes))


def readable(split: Split, allowed: int) -> Split:
    """The images of a split that can be decoded. Raises: DataError: more than `allowed` cannot, or none can."""
    if not allowed:
        return split
    kept, error = [], None
    for row in range(len(split)):
        try:
            split.open(row)
        except DataError as found:
            error = error or found
        else:
            kept.append(row)
    if error is None:
        return split
    if len(split) - len(kept) > allowed or not kept:
        raise error
    rows = np.asarray(kept, dtype=np.int64)
    state = hashlib.sha256(split.fingerprint.encode() + rows.tobytes())
    return split.taken(rows, name=split.name, fingerprint=state.hexdigest())


def frames(videos: Any) -> Split:
    """All frames of a dataset of sequences as one split, whose classes are the sequences."""
    paths = [(path, number) for number, one in enumerate(videos.sequences) for path in one.frames]
    root = Path(*_common([path.parts for path, _ in paths]))
    state = hashlib.sha256(f"{videos.fingerprint}\0{FRAMES}".encode())
    split = Split(
        dataset=videos.name,
        name=FRAMES,
        classes=tuple(one.name for one in videos.sequences),
        labels=np.asarray([number for _, number in paths], dtype=np.int64),
        root=root,
        files=[str(path.relative_to(root)) for path, _ in paths],
        fingerprint=state.hexdigest(),
        stamp=videos.stamp,
    )
    return images.read_as(split, split.reading)


def _common(parts: list[tuple[str, ...]]) -> list[str]:
    kept = []
    for names in zip(*(p[:-1] for p in parts), strict=False):
        if len(set(names)) > 1:
            break
        kept.append(names[0])
    return kept


def pairs(split: Split, limit: int) -> list[tuple[int, int]]:
    """Pairs of rows to compare patch by patch: two of one class as far as there are any, else one after the other."""
    found, used = [], set()
    for label in dict.fromkeys(split.labels.tolist()):
        rows = np.flatnonzero(split.labels == label).tolist()
        found += [(a, b) for a, b in zip(rows[::2], rows[1::2], strict=False)]
        used |= {row for pair in found for row in pair}
    rest = [row for row in range(len(split)) if row not in used]
    found += list(zip(rest[::2], rest[1::2], strict=False))
    return found[:limit]
