"""Which column of a published head is which class: told by the names of the classes, by a file, or asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from evaltk.data.images import Dataset
from evaltk.errors import SettingsError, some

WORDNET = re.compile(r"n\d{8}")
FLAG = "--linear.classes"
IMAGENET = 1000  # classes; heads of so many are ImageNet's, in the order of its WordNet ids


def columns(dataset: Dataset, classes: str | None, origin: object) -> tuple[list[int], str]:
    """(the head's column of each class of the dataset, in words how that is known).

    Args:
        classes: a text file with a name a line, in the order of the head's columns; None: the names decide.
        origin: the head's file, for errors.

    Raises: SettingsError: a file of other names, or names that do not tell.
    """
    names = dataset.test.classes
    if classes is not None:
        order = _listed(Path(classes).expanduser(), names)
        return [order[name] for name in names], f"class order: as {Path(classes).name} lists it"
    if not dataset.own:
        return list(range(len(names))), f"class order: that of {dataset.name}"
    wordnet, in_order = all(map(WORDNET.fullmatch, names)), list(names) == sorted(names)
    if wordnet and (in_order or len(names) == IMAGENET):
        rank = {name: i for i, name in enumerate(sorted(names))}
        return [rank[name] for name in names], "class order: by WordNet id"
    if not in_order and not wordnet and not _numbers(names):
        return list(range(len(names))), "class order: as the dataset's files number them"
    if _numbers(names) and not (len(names) == IMAGENET and min(map(int, names)) == 1):  # as its development kit numbers
        rank = {name: i for i, name in enumerate(sorted(names, key=int))}
        return [rank[name] for name in names], "class order: by number"
    if wordnet or len(names) == IMAGENET or sorted(names, key=_natural) != sorted(names):
        told = f"{some(list(names), 4)}, which do not tell"
        if _numbers(names):
            told = "1 to 1000, in whose order ImageNet's development kit has other classes"
        do = f"{FLAG} FILE: a class a line, named as here, in the order of the head's columns"
        raise SettingsError(wanted="the order of the head's classes", got=told, where=origin, do=do)
    return list(range(len(names))), f"class order: names sorted, as ImageFolder does ({FLAG} tells another)"


def _numbers(names: Sequence[str]) -> bool:
    return all(re.fullmatch(r"\d{1,18}", name, re.ASCII) for name in names) and len(set(map(int, names))) == len(names)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """As people sort: ``class_2`` before ``class_10``."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), "") if part.isdecimal() and part.isascii() else (1, 0, part) for part in parts]


def _listed(path: Path, names: Sequence[str]) -> dict[str, int]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        do = "a text file with a class a line"
        raise SettingsError(wanted="a list of classes", got=str(error)[:120], where=path, do=do) from error
    listed = [line.strip() for line in lines if line.strip()]
    order = {name: i for i, name in enumerate(listed)}
    if len(order) != len(listed) or set(order) != set(names):
        lacking, more = (sorted(a - b) for a, b in ((set(names), set(order)), (set(order), set(names))))
        got = [f"{len(listed) - len(order)} twice"] if len(order) != len(listed) else []
        got += [f"without {some(lacking, 3)}"] if lacking else []
        got += [f"others: {some(more, 3)}"] if more else []
        wanted = f"the {len(names)} classes of the dataset, each once"
        raise SettingsError(wanted=wanted, got=", ".join(got), where=path, do="name them as the dataset does")
    return order
