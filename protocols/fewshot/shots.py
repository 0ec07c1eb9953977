"""Few labelled images of a split: so many of each class, by lists of names or drawn, in several nested splits."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from evaltk.data.images import Split
from evaltk.errors import DataError
from evaltk.seeding import derive

LIST = re.compile(r"(?P<shots>\d+)imgs?_class\.txt|(?P<percent>\d+(\.\d+)?)percent\.txt")  # as facebookresearch/msn's
WHERE = (
    "expected: PATH/FOLDER/1imgs_class.txt, 2imgs_class.txt, 5imgs_class.txt and 1percent.txt, a folder a split, "
    "an image name a line (facebookresearch/msn has those of ImageNet)"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shots:
    """The images of one fit.

    Attributes:
        per_class: images of each class, or a share of all images as ``"1 %"``. split: number of the draw, from 1.
        rows: [n] int64, positions in the training split, rising.
    """

    per_class: int | str
    split: int
    rows: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """All images to learn from, and what a reader of the figures must know of them."""

    shots: tuple[Shots, ...]
    notes: tuple[str, ...] = ()


def share(percent: float) -> str:
    """How a share of all images is called: ``"1 %"``."""
    return f"{percent:g} %"


def draw(train: Split, *, per_class: Sequence[int], percent: float, splits: int, seed: int) -> Chosen:
    """Draw images of each class, in the order of one shuffle a class and split: fewer shots lie within more.

    The share is spread evenly over the classes and drawn in the first split alone, as in MSN's lists.

    Args:
        per_class: images a class, each >= 1. percent: share of all images, 0 for none. splits: how many draws.

    Raises: DataError: a class with fewer images than asked for.
    """
    num_classes = len(train.classes)
    members = np.split(train.labels.argsort(kind="stable"), np.bincount(train.labels, minlength=num_classes).cumsum())
    spread, more = divmod(int(len(train) * percent / 100), num_classes)
    notes: tuple[str, ...] = ()
    if percent and not spread:
        notes = (f"{share(percent)} of {len(train):,} images is less than one a class: left out",)
    _check_enough(train, members, max(per_class, default=0), "--fewshot.shots")
    _check_enough(train, members, spread + bool(more) if spread else 0, "--fewshot.percent")
    found = []
    for split in range(1, splits + 1):
        shuffled = [
            rows[np.random.default_rng(derive(seed, "few-shot", split, name)).permutation(len(rows))]
            for rows, name in zip(members, train.classes, strict=False)
        ]
        asked: list[tuple[int | str, np.ndarray]] = [(k, np.full(num_classes, k)) for k in dict.fromkeys(per_class)]
        if spread and split == 1:
            counts = np.full(num_classes, spread)
            counts[np.random.default_rng(derive(seed, "few-shot share")).permutation(num_classes)[:more]] += 1
            asked.append((share(percent), counts))
        for k, counts in asked:
            rows = np.concatenate([own[:n] for own, n in zip(shuffled, counts, strict=True)])
            found.append(Shots(per_class=k, split=split, rows=np.sort(rows)))
    return Chosen(shots=tuple(found), notes=notes)


def _check_enough(train: Split, members: Sequence[np.ndarray], wanted: int, flag: str) -> None:
    counts = [len(rows) for rows in members[: len(train.classes)]]
    least = int(np.argmin(counts))
    if counts[least] < wanted:
        raise DataError(
            wanted=f"{wanted} images of each class to draw from",
            got=f"{counts[least]} of {train.classes[least]}",
            where=f"{train.dataset} {train.name}",
            do=f"ask for fewer with {flag}, or leave the class out",
        )


def list_files(root: Path) -> list[list[Path]]:
    """The lists under `root`, folder by folder; files of other names are passed over.

    Raises: DataError: no such folder, no list in it, several lists for what only one folder can hold.
    """
    try:
        folders = [root, *sorted((p for p in root.iterdir() if p.is_dir()), key=_natural)]
        found = [sorted((p for p in folder.iterdir() if LIST.fullmatch(p.name)), key=_natural) for folder in folders]
    except OSError as error:
        got = "no such folder" if not root.exists() else str(error.strerror)
        raise DataError(wanted="a folder of image lists", got=got, where=root, do=WHERE) from error
    found = [lists for lists in found if lists]
    if not found:
        got = ", ".join(sorted(p.name for p in root.iterdir())[:5]) or "an empty folder"
        raise DataError(wanted="image lists", got=got, where=root, do=WHERE)
    return found


def _natural(path: Path) -> tuple[object, ...]:
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name))


def digest(root: Path) -> str:
    """sha256 in hex of all lists under `root` and of how they are grouped. Raises: DataError: as `list_files`."""
    state = hashlib.sha256()
    for lists in list_files(root):
        for path in lists:
            names = _names(path)
            state.update(f"{path.name}\0{len(names)}\0".encode() + "\n".join(names).encode())
        state.update(b"\1")
    return state.hexdigest()


def read(root: Path, train: Split, *, per_class: Sequence[int], percent: float) -> Chosen:
    """The images that lists name, a folder a split; how many a class a list holds is counted, not taken from its name.

    A line is an image's name, CLASS/NAME where a name occurs in several classes, or the whole id in the data set.

    Args:
        per_class, percent: which lists to take; a list of a share need not be there.

    Raises: DataError: names that the split lacks, twice the same, a class without images or with another number of
        them than the others; no list of a number asked for.
    """
    wanted, notes, found = set(per_class), [], []
    folders = list_files(root)
    index = _index(train, {name for lists in folders for path in lists for name in _names(path)})
    for split, lists in enumerate(folders, start=1):
        of: dict[int | str, Path] = {}
        for path in lists:
            rows = _rows(path, train, index)
            k, note = _size(path, train, rows)
            if k in of:
                got, do = f"{of[k].name} and {path.name}", "remove one of them"
                raise DataError(wanted=f"one list of {k} images a class", got=got, where=path.parent, do=do)
            of[k] = path
            if k in wanted or (percent and k == share(percent)):
                found.append(Shots(per_class=k, split=split, rows=np.sort(rows)))
                notes += [note] if note else []
    if lacking := wanted - {s.per_class for s in found}:
        there = sorted(s.per_class for s in found if isinstance(s.per_class, int))
        do = f"--fewshot.shots {' '.join(map(str, sorted(set(there))))}" if there else WHERE
        numbers, none = (", ".join(map(str, sorted(some))) for some in (wanted, lacking))
        raise DataError(wanted=f"lists of {numbers} images a class", got=f"none of {none}", where=root, do=do)
    if percent and all(s.per_class != share(percent) for s in found):
        notes.append(f"no list of {share(percent)} of the images: left out")
    return Chosen(shots=tuple(found), notes=tuple(notes))


def _names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(wanted="a list of image names", got=str(error)[:100], where=path, do=WHERE) from error
    return [line.strip() for line in lines if line.strip()]


def _index(train: Split, wanted: set[str]) -> dict[str, list[int]]:
    """{name: rows} of the names wanted: whole ids, ids without their first folder, and bare file names."""
    found: dict[str, list[int]] = {}
    for row in range(len(train)):
        whole = train.image_id(row)
        for name in {whole, whole.partition("/")[2], whole.rpartition("/")[2]} & wanted:
            found.setdefault(name, []).append(row)
    return found


def _rows(path: Path, train: Split, index: dict[str, list[int]]) -> np.ndarray:
    """The rows [n] that a list names. Raises: DataError: unknown, ambiguous or repeated names, another class."""
    names, where = _names(path), f"{train.dataset} {train.name}"
    _refuse(path, (n for n in names if n not in index), f"names of images in {where}", "not there")
    _refuse(path, (n for n in names if len(index[n]) > 1), "one image a name", "several images; write CLASS/NAME")
    _refuse(path, (n for n, count in Counter(names).items() if count > 1), "each image once", "repeated")
    rows = np.asarray([index[n][0] for n in names], dtype=np.int64)
    told = (PurePosixPath(n).name.partition("_")[0] for n in names)  # of ImageNet's names the first part is the class
    known = set(train.classes)
    others = (
        n for n, c, row in zip(names, told, rows, strict=True) if c in known and train.classes[train.labels[row]] != c
    )
    _refuse(path, others, "images in the folder of their class", "elsewhere")
    _refuse(path, (train.image_id(r) for r, count in Counter(rows.tolist()).items() if count > 1), "each once", "twice")
    return rows


def _refuse(path: Path, bad: Iterable[str], wanted: str, got: str) -> None:
    if names := list(bad):
        first = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        do = "take the lists of this data set, or the data set of these lists"
        raise DataError(wanted=wanted, got=f"{got}: {len(names):,}, {first}", where=path, do=do)


def _size(path: Path, train: Split, rows: np.ndarray) -> tuple[int | str, str]:
    """(images a class or the share a list is of, a note where its name says otherwise). Raises: DataError."""
    counts = np.bincount(train.labels[rows], minlength=len(train.classes))
    lacking = [train.classes[c] for c in np.flatnonzero(counts == 0)]
    _refuse(path, lacking, f"images of all {len(train.classes):,} classes", "classes without any")
    name = LIST.fullmatch(path.name)
    if name is None or name["percent"]:
        return share(float(name["percent"])) if name else "", ""
    usual = Counter(counts.tolist()).most_common(1)[0][0]
    odd = [f"{train.classes[c]} ({counts[c]})" for c in np.flatnonzero(counts != usual)]
    _refuse(path, odd, f"{usual} images of each class", "classes with another number")
    said = int(name["shots"])
    note = f"{path.parent.name}/{path.name} holds {usual} images a class, not {said}, and counts as such"
    return usual, note if usual != said else ""


def union(train: Split, shots: Sequence[Shots]) -> tuple[Split, np.ndarray]:
    """(a split of the images chosen, the row [n] int64 of the training split that each of them is).

    Raises: DataError: none was chosen.
    """
    if not shots:
        do = "ask for --fewshot.shots 1 2 5"
        raise DataError(wanted="images to learn from", got="none", where=f"{train.dataset} {train.name}", do=do)
    rows = np.unique(np.concatenate([s.rows for s in shots]))
    fingerprint = hashlib.sha256(train.fingerprint.encode() + rows.tobytes()).hexdigest()
    return train.taken(rows, name=f"{train.name} (few-shot)", fingerprint=fingerprint), rows
