"""Images that users list themselves: which files make which split, which column holds what, and the dataset."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from evaltk.data import shares
from evaltk.data.images import Dataset, Split
from evaltk.data.options import DataOptions
from evaltk.errors import DataError, lookalike, some

ROLES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
ROLE_OF = {word: role for role, words in ROLES.items() for word in words}
PATHS = ("path", "image", "file", "filename", "filepath", "file_name", "file_path", "image_path", "img_path", "img")
LABELS = ("label", "labels", "class", "target", "category", "class_name", "label_name")
SPLITS = ("split",)
NO_SPLIT = "name the train and the test part, or draw one: --split 0.2"
INTEGER = re.compile(r"[+-]?\d{1,18}(\.0+)?", re.ASCII)  # pandas writes whole numbers as 1.0 once a cell was empty
Label: TypeAlias = int | str
NONE: Label = -1  # what stands for a missing label, as on the hub
SIGNS = ({-1, 1}, {-1, 0, 1})  # labels among which it is a class


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One split as found: the label of each image, and what makes the split of (name, classes, ids [N] int64)."""

    labels: Sequence[Label]
    split: Callable[[str, tuple[str, ...], np.ndarray], Split]


def role_of(name: str, where: object) -> str | None:
    """``train``, ``val`` or ``test`` where a word of a file's or folder's name says so, else None.

    Raises: DataError: it says two.
    """
    roles = {ROLE_OF[word] for word in re.split(r"[^a-z]+", name.lower()) if word in ROLE_OF}
    if len(roles) > 1:
        raise DataError(
            wanted="names that say one of train, val and test", got=name, where=where, do="rename it, or name each part"
        )
    return roles.pop() if roles else None


def by_role(names: Mapping[Path, str], where: object) -> dict[str, list[Path]]:
    """Files by what their names say: {role: files}, or {"all": files} where none says anything.

    Raises: DataError: some say it and others do not.
    """
    found: dict[str, list[Path]] = {}
    for path, name in names.items():
        found.setdefault(role_of(name, where) or "all", []).append(path)
    if len(found) > 1 and "all" in found:
        raise DataError(
            wanted="names that all say train, val or test, or none of them",
            got=f"{some(sorted(p.name for p in found['all']), 3)} beside {', '.join(sorted(set(found) - {'all'}))}",
            where=where,
            do="rename or move the others, or name each part",
        )
    return found


def expanded(name: str) -> Path:
    """The path, with ``~`` for a home folder. Raises: DataError: nobody of that name has one."""
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        do = "write the whole path"
        raise DataError(wanted="a path", got=f"{name[:80]!r} ({error})", where="--data", do=do) from error


def check_once(files: Mapping[str, Sequence[Path]], where: object) -> None:
    """Check that no file stands in two places. Raises: DataError."""
    counts = Counter(path.resolve() for paths in files.values() for path in paths)
    twice = [path.name for path, count in counts.items() if count > 1]
    if twice:
        raise DataError(wanted="each file once", got=f"{twice[0]} twice", where=where, do="give each file to one split")


def words(text: str) -> list[str]:
    """``TRAIN,TEST`` in parts: split at commas outside of braces, unless it is the name of a file."""
    with suppress(OSError):  # too long for a file's name
        if Path(text).exists():
            return [text]
    return [part.strip() for part in re.split(r",(?![^{]*\})", text) if part.strip()]


def column(
    columns: Sequence[str], asked: str | None, customary: Sequence[str], *, flag: str, what: str, where: object
) -> str | None:
    """The column that holds `what`: the one asked for, else the only one with a customary name, else None.

    Raises: DataError: the one asked for is not there, or twice; several have customary names.
    """
    there = f"columns {some(list(columns), 8)}"
    if asked is not None:
        if (count := list(columns).count(asked)) != 1:
            got = there if not count else f"{count} columns called so"
            raise DataError(wanted=f"a column {asked!r}", got=got, where=where, do=f"{flag} with one of them")
        return asked
    found = [name for name in columns if name.lower() in customary]
    if len(found) > 1:
        do = f"say which: {flag} {found[0]}"
        raise DataError(wanted=f"one column of {what}", got=", ".join(found), where=where, do=do)
    return found[0] if found else None


def needed(
    columns: Sequence[str], asked: str | None, customary: Sequence[str], *, flag: str, what: str, where: object
) -> str:
    """As `column`. Raises: DataError: also where there is none."""
    name = column(columns, asked, customary, flag=flag, what=what, where=where)
    if name is None:
        got = f"columns {some(list(columns), 8)}"
        raise DataError(wanted=f"a column of {what}", got=got, where=where, do=f"name it: {flag} NAME")
    return name


def roles_in(values: Sequence[Label], where: object) -> list[str]:
    """The role of each row, from a column of splits. Raises: DataError: other words."""
    roles = [ROLE_OF.get(str(value).strip().lower(), "") for value in values]
    if unknown := sorted({str(v) for v, role in zip(values, roles, strict=True) if not role}):
        got = some([repr(v) for v in unknown], 4)
        do = "rename them, or give one file per split: TRAIN,TEST"
        raise DataError(wanted="train, val and test in the column of splits", got=got, where=where, do=do)
    return roles


def assemble(
    label: str,
    parts: Mapping[str, Part],
    options: DataOptions,
    *,
    where: object,
    names: Sequence[str] | None = None,
) -> Dataset:
    """The dataset of the parts ``train``, ``val``, ``test``; or of a single one, of which a share is drawn.

    Learns from train and reports on test, or on val where there is no test.

    Args:
        names: of the labels 0, 1, ..., where the files tell; None: the classes are the training labels, integers by
            value, text sorted.

    Raises: DataError: a part is missing or empty, labels that no class has. SettingsError: a share out of range.
    """
    parts, passed = _with_labels(parts, where)
    share, roles = options.share, tuple(parts)
    if empty := [role for role, part in parts.items() if not part.labels]:
        raise DataError(wanted=f"images in {empty[0]}", got="none", where=where, do="add images, or leave it out")
    held = next((role for role in ("test", "val") if role in parts), None)
    if share is not None and len(parts) != 1:
        raise DataError(wanted="one part to split", got=" and ".join(roles), where=where, do="leave --split out")
    if share is None and (held is None or "train" not in parts):
        got = "images of no named split" if roles == ("all",) else f"only {' and '.join(roles) or 'nothing'}"
        raise DataError(wanted="images to train on and to test on", got=got, where=where, do=NO_SPLIT)
    used = roles if share is not None else ("train", str(held))
    numbered = uniform({role: parts[role].labels for role in used}, where)
    _check_labelled(numbered, where)
    classes, number = numbering(numbered[used[0]], names, where)
    splits = {}
    for role in used:
        _check_known(numbered[role], number, f"{where} ({role})")
        ids = np.array([number[one] for one in numbered[role]], dtype=np.int64)
        splits[role] = parts[role].split(role, classes, ids)
    if share is not None:
        return shares.drawn(splits[used[0]], share)
    notes = passed + tuple(f"{r}: {len(parts[r].labels):,} images are not used" for r in roles if r not in used)
    return Dataset(name=label, train=splits["train"], test=splits[str(held)], notes=notes)


def _with_labels(parts: Mapping[str, Part], where: object) -> tuple[Mapping[str, Part], tuple[str, ...]]:
    """(the parts without a test part that has no labels, as competitions have it, where there is val; notes on it).

    Raises: DataError: another part has no labels at all.
    """
    bare = [role for role, part in parts.items() if part.labels and set(part.labels) <= {NONE, str(NONE)}]
    if bare == ["test"] and "val" in parts:
        count = len(parts["test"].labels)
        return {r: p for r, p in parts.items() if r != "test"}, (f"test: {count:,} images without labels are not used",)
    if bare:
        do = "add them, or give a validation part with labels"
        raise DataError(wanted=f"labels in {bare[0]}", got="none", where=where, do=do)
    return parts, ()


def _check_labelled(labels: Mapping[str, Sequence[Label]], where: object) -> None:
    """Check that no row has the label -1, which stands for none. Classes called -1 and 1, or -1, 0 and 1, are classes.

    Raises: DataError.
    """
    seen = set(itertools.chain.from_iterable(labels.values()))
    if not seen & {NONE, str(NONE)} or seen in SIGNS:
        return
    counts = [f"{count:,} in {role}" for role, of in labels.items() if (count := sum(str(one) == "-1" for one in of))]
    do = "leave these rows out, or call the class something else"
    raise DataError(
        wanted="a label for each row", got=f"-1, which stands for none: {', '.join(counts)}", where=where, do=do
    )


def bare(labels: Sequence[object]) -> bool:
    """Whether there are rows, and not one has a label."""
    return bool(labels) and all(one is None or one in ("", -1) for one in labels)


def whole(label: Any) -> Any:
    """The label, an integer where it is a whole floating-point number: pandas makes these where one is missing."""
    return int(label) if isinstance(label, float) and label.is_integer() and abs(label) < 2**53 else label


def check_alike(labels: Mapping[str, Sequence[Sequence[object]]], where: object) -> None:
    """Check that of the files of a split all have labels, or none. Args: labels: of each file, by split.

    Raises: DataError.
    """
    for role, files in labels.items():
        if len({bare(one) for one in files if one}) > 1:
            got, do = "some without any", "leave those out"
            raise DataError(wanted=f"labels in each file of {role}", got=got, where=where, do=do)


def uniform(labels: Mapping[str, Sequence[Label]], where: object) -> dict[str, Sequence[Label]]:
    """Labels by split, as integers where all can be read so, else all as text.

    Raises: DataError: integers beside text, or one integer written in two ways (1 and 01; 1.0 is 1).
    """
    seen = set(itertools.chain.from_iterable(labels.values()))
    texts = {one for one in seen if isinstance(one, str)}
    if not texts:
        return dict(labels)
    if not all(INTEGER.fullmatch(one) for one in texts):
        if len(texts) < len(seen):
            got = f"{next(one for one in seen if not isinstance(one, str))} beside {sorted(texts)[0]!r}"
            raise DataError(wanted="labels that are all numbers or all names", got=got, where=where, do="use one kind")
        return dict(labels)
    value = {one: int(str(one).partition(".")[0]) for one in seen}
    spellings = {str(one).partition(".")[0]: number for one, number in value.items()}
    if twice := [number for number, count in Counter(spellings.values()).items() if count > 1]:
        spelled = " and ".join(sorted(repr(text) for text, number in spellings.items() if number == twice[0]))
        do = "write each label in one way"
        raise DataError(wanted="one spelling for each label", got=spelled, where=where, do=do)
    return {role: [value[one] for one in found] for role, found in labels.items()}


def numbering(
    train: Sequence[Label], names: Sequence[str] | None, where: object
) -> tuple[tuple[str, ...], dict[Label, int]]:
    """Names of the classes, and the class id of each training label. Raises: DataError: one that `names` lacks."""
    values = sorted(set(train))  # type: ignore[type-var]
    if names is None:
        return tuple(map(str, values)), {value: i for i, value in enumerate(values)}
    known: dict[Label, int] = {i: i for i in range(len(names))}
    _check_known(train, known, where)
    return tuple(names), {value: known[value] for value in values}


def _check_known(labels: Sequence[Label], number: Mapping[Label, int], where: object) -> None:
    unknown = sorted({str(one) for one in set(labels) - number.keys()})
    alike = lookalike(unknown, map(str, number))
    if unknown:
        raise DataError(
            wanted=f"labels of the {len(number)} classes that can be learnt",
            got=alike or f"{len(unknown)} others: {some(unknown, 5)}",
            where=where,
            do="write both alike" if alike else "add images of them to the training split, or leave these out",
        )
