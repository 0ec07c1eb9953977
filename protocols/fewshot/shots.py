"""Few-shot subsets of a training split: k images per class, from lists of names or at random, in nested splits."""

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
    "expected PATH/FOLDER/1imgs_class.txt, 2imgs_class.txt, 5imgs_class.txt and 1percent.txt, one folder per split, "
    "one image name per line (facebookresearch/msn has those for ImageNet)"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shots:
    """The training images of one fit.

    Attributes:
        per_class: images per class, or a percentage of all images as ``"1 %"``. split: number of the split, from 1.
        rows: [n] int64, ascending positions in the training split.
    """

    per_class: int | str
    split: int
    rows: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The training images of all fits, and notes on them."""

    shots: tuple[Shots, ...]
    notes: tuple[str, ...] = ()


def share(percent: float) -> str:
    """Name of a percentage of all images: ``"1 %"``."""
    return f"{percent:g} %"


def draw(train: Split, *, per_class: Sequence[int], percent: float, splits: int, seed: int) -> Chosen:
    """Choose random images of each class from one shuffle per class and split, so that fewer shots are a subset.

    The percentage is spread evenly over the classes and only part of the first split, as in MSN's lists.

    Args:
        per_class: images per class, each >= 1. percent: percentage of all images, 0 for none. splits: their number.

    Raises: DataError: a class with too few images.
    """
    num_classes = len(train.classes)
    members = np.split(train.labels.argsort(kind="stable"), np.bincount(train.labels, minlength=num_classes).cumsum())
    spread, more = divmod(int(len(train) * percent / 100), num_classes)
    notes: tuple[str, ...] = ()
    if percent and not spread:
        notes = (f"{share(percent)} of {len(train):,} images is less than one per class: left out",)
    _check_enough(train, members, max(per_class, default=0), "--fewshot.shots")
    _check_enough(train, members, spread + bool(more) if spread else 0, "--fewshot.percent")
    out = []
    for split in range(1, splits + 1):
        shuffled = [
            rows[np.random.default_rng(derive(seed, "few-shot", split, name)).permutation(len(rows))]
            for rows, name in zip(members, train.classes, strict=False)
        ]
        subsets: list[tuple[int | str, np.ndarray]] = [(k, np.full(num_classes, k)) for k in dict.fromkeys(per_class)]
        if spread and split == 1:
            counts = np.full(num_classes, spread)
            counts[np.random.default_rng(derive(seed, "few-shot share")).permutation(num_classes)[:more]] += 1
            subsets.append((share(percent), counts))
        for k, counts in subsets:
            rows = np.concatenate([own[:n] for own, n in zip(shuffled, counts, strict=True)])
            out.append(Shots(per_class=k, split=split, rows=np.sort(rows)))
    return Chosen(shots=tuple(out), notes=notes)


def _check_enough(train: Split, members: Sequence[np.ndarray], wanted: int, flag: str) -> None:
    counts = [len(rows) for rows in members[: len(train.classes)]]
    least = int(np.argmin(counts))
    if counts[least] < wanted:
        raise DataError(
            wanted=f"at least {wanted} images of each class",
            got=f"{counts[least]} of {train.classes[least]}",
            where=f"{train.dataset} {train.name}",
            do=f"use a smaller {flag}, or remove the class",
        )


def list_files(root: Path) -> list[list[Path]]:
    """The lists under `root`, one group per folder; files with other names are ignored.

    Raises: DataError: no such folder, or no list in it.
    """
    try:
        folders = [root, *sorted((p for p in root.iterdir() if p.is_dir()), key=_natural)]
        groups = [sorted((p for p in folder.iterdir() if LIST.fullmatch(p.name)), key=_natural) for folder in folders]
    except OSError as error:
        got = "no such folder" if not root.exists() else str(error.strerror)
        raise DataError(wanted="a folder of image lists", got=got, where=root, do=WHERE) from error
    groups = [lists for lists in groups if lists]
    if not groups:
        got = ", ".join(sorted(p.name for p in root.iterdir())[:5]) or "an empty folder"
        raise DataError(wanted="image lists", got=got, where=root, do=WHERE)
    return groups


def _natural(path: Path) -> tuple[object, ...]:
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name))


def digest(root: Path) -> str:
    """sha256 in hex of all lists under `root` and their grouping. Raises: DataError: as `list_files`."""
    state = hashlib.sha256()
    for lists in list_files(root):
        for path in lists:
            names = _names(path)
            state.update(f"{path.name}\0{len(names)}\0".encode() + "\n".join(names).encode())
        state.update(b"\1")
    return state.hexdigest()


def read(root: Path, train: Split, *, per_class: Sequence[int], percent: float) -> Chosen:
    """The images in lists, one folder per split; images per class are counted, not taken from the list's name.

    A line is an image's name, CLASS/NAME if a name occurs in several classes, or the full id in the dataset.

    Args:
        per_class, percent: which lists to use; the list of a percentage may be missing.

    Raises: DataError: names that are not in the split or repeated, a class without images or with another number of
        images than the others; no list for one of `per_class`.
    """
    wanted, notes, out = set(per_class), [], []
    folders = list_files(root)
    index = _index(train, {name for lists in folders for path in lists for name in _names(path)})
    for split, lists in enumerate(folders, start=1):
        list_of: dict[int | str, Path] = {}
        for path in lists:
            rows = _rows(path, train, index)
            k, note = _size(path, train, rows)
            if k in list_of:
                got, do = f"{list_of[k].name} and {path.name}", "remove one of them"
                raise DataError(wanted=f"one list of {k} images per class", got=got, where=path.parent, do=do)
            list_of[k] = path
            if k in wanted or (percent and k == share(percent)):
                out.append(Shots(per_class=k, split=split, rows=np.sort(rows)))
                notes += [note] if note else []
    if missing := wanted - {s.per_class for s in out}:
        available = sorted({s.per_class for s in out if isinstance(s.per_class, int)})
        do = f"use --fewshot.shots {' '.join(map(str, available))}" if available else WHERE
        numbers, none = (", ".join(map(str, sorted(ks))) for ks in (wanted, missing))
        raise DataError(wanted=f"lists of {numbers} images per class", got=f"none of {none}", where=root, do=do)
    if percent and all(s.per_class != share(percent) for s in out):
        notes.append(f"no list of {share(percent)} of the images: left out")
    return Chosen(shots=tuple(out), notes=tuple(notes))


def _names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(wanted="a list of image names", got=str(error)[:100], where=path, do=WHERE) from error
    return [line.strip() for line in lines if line.strip()]


def _index(train: Split, wanted: set[str]) -> dict[str, list[int]]:
    """{name: rows} of the wanted names: full ids, ids without their first folder, and bare file names."""
    index: dict[str, list[int]] = {}
    for row in range(len(train)):
        full = train.image_id(row)
        for name in {full, full.partition("/")[2], full.rpartition("/")[2]} & wanted:
            index.setdefault(name, []).append(row)
    return index


def _rows(path: Path, train: Split, index: dict[str, list[int]]) -> np.ndarray:
    """The rows [n] of the images in a list. Raises: DataError: unknown, ambiguous or repeated names, wrong class."""
    names, where = _names(path), f"{train.dataset} {train.name}"
    _refuse(path, (n for n in names if n not in index), f"names of images in {where}", "not there")
    _refuse(path, (n for n in names if len(index[n]) > 1), "one image per name", "several images; write CLASS/NAME")
    _refuse(path, (n for n, count in Counter(names).items() if count > 1), "each image once", "repeated")
    rows = np.asarray([index[n][0] for n in names], dtype=np.int64)
    prefixes = (PurePosixPath(n).name.partition("_")[0] for n in names)  # the class in ImageNet's file names
    classes = set(train.classes)
    others = (
        n
        for n, c, row in zip(names, prefixes, rows, strict=True)
        if c in classes and train.classes[train.labels[row]] != c
    )
    _refuse(path, others, "images in the folder of their class", "elsewhere")
    _refuse(path, (train.image_id(r) for r, count in Counter(rows.tolist()).items() if count > 1), "each once", "twice")
    return rows


def _refuse(path: Path, bad: Iterable[str], wanted: str, got: str) -> None:
    if names := list(bad):
        first = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        do = "use lists and images of the same dataset"
        raise DataError(wanted=wanted, got=f"{got}: {len(names):,}, {first}", where=path, do=do)


def _size(path: Path, train: Split, rows: np.ndarray) -> tuple[int | str, str]:
    """(images per class or percentage of a list, a note if its name says otherwise). Raises: DataError."""
    counts = np.bincount(train.labels[rows], minlength=len(train.classes))
    empty = [train.classes[c] for c in np.flatnonzero(counts == 0)]
    _refuse(path, empty, f"images of all {len(train.classes):,} classes", "classes without any")
    name = LIST.fullmatch(path.name)
    if name is None or name["percent"]:
        return share(float(name["percent"])) if name else "", ""
    usual = Counter(counts.tolist()).most_common(1)[0][0]
    odd = [f"{train.classes[c]} ({counts[c]})" for c in np.flatnonzero(counts != usual)]
    _refuse(path, odd, f"{usual} images of each class", "classes with another number")
    shots_in_name = int(name["shots"])
    note = f"{path.parent.name}/{path.name} has {usual} images per class, not {shots_in_name}, and counts as such"
    return usual, note if usual != shots_in_name else ""


def union(train: Split, shots: Sequence[Shots]) -> tuple[Split, np.ndarray]:
    """(a split of all chosen images, the row [n] int64 of each in the training split).

    Raises: DataError: no images were chosen.
    """
    if not shots:
        do = "use --fewshot.shots 1 2 5"
        raise DataError(wanted="training images", got="none", where=f"{train.dataset} {train.name}", do=do)
    rows = np.unique(np.concatenate([s.rows for s in shots]))
    fingerprint = hashlib.sha256(train.fingerprint.encode() + rows.tobytes()).hexdigest()
    return train.taken(rows, name=f"{train.name} (few-shot)", fingerprint=fingerprint), rows
