"""Splits whose images are named by lists of files, as most of the small datasets publish theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from evaltk.data import images
from evaltk.data.images import Dataset, Split
from evaltk.deviations import Deviation, DeviationKind
from evaltk.errors import DataError

Pair = tuple[str, str]  # a file below the root of the images, and the name of its class


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One split as published: files below the root of the images, the class of each, and the file that lists them."""

    path: Path
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Official:
    """What a whole dataset has.

    Attributes:
        title: its name in print. where: the layout expected and where the files come from.
        classes: their number. counts: {split: images}.
        metric: what papers report on it.
    """

    title: str
    where: str
    classes: int
    counts: Mapping[str, int] = field(default_factory=dict)
    metric: Literal["top1", "mean_per_class"] = "top1"


def locate(root: Path, folders: Sequence[str], marks: Sequence[str], where: str) -> Path:
    """The one of `folders` below `root` that has most of the files or folders `marks`; the first of equals.

    Raises: DataError: none has any.
    """
    found = [sum((root / folder / mark).exists() for mark in marks) for folder in folders]
    if not max(found):
        tried = ", ".join(folder or "the folder itself" for folder in folders)
        raise DataError(wanted=" or ".join(marks), got=f"none of them (looked in {tried})", where=root, do=where)
    return root / folders[found.index(max(found))]


def lines(path: Path, where: str, *, comments: bool = True) -> list[str]:
    """The lines of a text file, stripped; empty ones and, where there can be some, comments (#) are left out.

    Raises: DataError: no such file, no text, nothing in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else str(error)[:120]
        raise DataError(wanted=path.name, got=got, where=path.parent, do=where) from error
    found = [line.strip() for line in text.splitlines() if line.strip() and not (comments and line.startswith("#"))]
    if not found:
        raise DataError(wanted=f"lines in {path.name}", got="none", where=path, do=where)
    return found


def read(path: Path, parse: Callable[[str], Pair | None], *, form: str, where: str) -> Listing:
    """The list in a text file; `parse` makes (file, class) of a line, or None where it is not of the `form` told.

    Raises: DataError: also a line of another form, e.g. an image without a label.
    """
    pairs: list[Pair] = []
    for line in lines(path, where):
        pair = parse(line)
        if pair is None:
            raise DataError(wanted=f"lines of the form {form!r}", got=repr(line[:80]), where=path, do=where)
        pairs.append(pair)
    return Listing(path=path, pairs=tuple(pairs))


def classes_of(listings: Mapping[str, Listing]) -> tuple[str, ...]:
    """The classes that the lists name, sorted."""
    return tuple(sorted({cls for listing in listings.values() for _, cls in listing.pairs}))


def assemble(
    label: str,
    root: Path,
    listings: Mapping[str, Listing],
    official: Official,
    *,
    classes: Sequence[str] | None = None,
    deviations: tuple[Deviation, ...] = (),
    notes: tuple[str, ...] = (),
) -> Dataset:
    """The dataset that lists make of the images below `root`.

    Args:
        listings: ``train``, ``test`` and, where that is official, ``val``, which becomes the end of the training split
            (then called ``trainval``): figures are reported after learning from both.
        classes: their order; None: sorted.

    Raises: DataError: a file listed twice or in two splits, an unknown class, a name that leads out of the folder,
        images that are not there.
    """
    classes = classes or classes_of(listings)
    _check_apart(listings, official.where)
    train = (*listings["train"].pairs, *(listings["val"].pairs if "val" in listings else ()))
    known = {cls: number for number, cls in enumerate(classes)}
    for listing in listings.values():
        _check_names(listing, known, official.where)
    name = "trainval" if "val" in listings else "train"
    parts = {name: train, "test": listings["test"].pairs}
    splits = {split: _split(label, split, root, pairs, known, official.where) for split, pairs in parts.items()}
    val = np.arange(len(train)) >= len(listings["train"].pairs) if "val" in listings else None
    there = {split: len(listing.pairs) for split, listing in listings.items()}
    return Dataset(
        name=label,
        train=splits[name],
        test=splits["test"],
        val=val,
        metric=official.metric,
        deviations=(*differences(official, there, len(classes)), *deviations),
        notes=notes,
    )


def differences(official: Official, counts: Mapping[str, int], num_classes: int) -> tuple[Deviation, ...]:
    """How a dataset deviates from the whole official one."""
    found = [
        Deviation(
            kind=DeviationKind.SPLIT_SIZE,
            text=f"{split} has {counts.get(split, 0):,} images, {official.title} {wanted:,}",
        )
        for split, wanted in official.counts.items()
        if counts.get(split) != wanted
    ]
    if num_classes != official.classes:
        text = f"{num_classes} classes, {official.title} has {official.classes}"
        found.append(Deviation(kind=DeviationKind.CLASS_COUNT, text=text))
    return tuple(found)


def _split(dataset: str, name: str, root: Path, pairs: Sequence[Pair], known: Mapping[str, int], where: str) -> Split:
    found: list[images.Found] = []
    missing: list[str] = []
    for file, cls in pairs:
        try:
            stat = (root / file).stat()
        except (OSError, ValueError):  # no such file, or a name that no file can have
            missing.append(file)
        else:
            found.append((file, known[cls], stat.st_size, stat.st_mtime_ns))
    if missing:
        got = f"{len(missing):,} missing: {', '.join(missing[:3])}" + (" ..." if len(missing) > 3 else "")
        raise DataError(wanted=f"the {len(pairs):,} images of {dataset} {name}", got=got, where=root, do=where)
    return images.of_files(dataset, name, root, tuple(known), found)


def _check_apart(listings: Mapping[str, Listing], where: str) -> None:
    seen: dict[str, str] = {}
    for split, listing in listings.items():
        for file, _ in listing.pairs:
            if file in seen:
                twice = f"twice in {split}" if seen[file] == split else f"in {seen[file]} and in {split}"
                do = f"restore the official lists; {where}"
                raise DataError(
                    wanted="each image in one split, once", got=f"{file} {twice}", where=listing.path, do=do
                )
            seen[file] = split


def leads_out(name: str) -> bool:
    """Whether a name in a list leads out of the folder that it is of."""
    return PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts


def _check_names(listing: Listing, known: Mapping[str, int], where: str) -> None:
    unknown = sorted({cls for _, cls in listing.pairs} - set(known))
    if unknown:
        got = f"{len(unknown)} others: {', '.join(unknown[:5])}"
        raise DataError(wanted=f"the {len(known)} known classes", got=got, where=listing.path, do=where)
    for file, _ in listing.pairs:
        if leads_out(file):
            got = f"{file!r}, which leads out of the image folder"
            raise DataError(wanted="names of images", got=got, where=listing.path, do=where)
