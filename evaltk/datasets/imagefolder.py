"""Any folder of class folders, with train/ and val/ or test/ or to be split, in torchvision's ImageFolder layout."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from evaltk.data import folders, images, own, shares
from evaltk.data.images import Dataset
from evaltk.data.options import DataOptions
from evaltk.datasets import DatasetSpec
from evaltk.errors import DataError, some

WHERE = "expected: PATH/train/CLASS/IMAGE and PATH/test/CLASS/IMAGE (or val/ instead of test/)"
DRAW = "or class folders alone, PATH/CLASS/IMAGE, with --split 0.2"


def load(root: Path, label: str = "imagefolder", options: DataOptions | None = None) -> Dataset:
    """Learn from train/, report on test/ where there is one, else on val/.

    With a share to draw (`DataOptions.split`), `root` holds the class folders, or one of train/, val/ and test/ does.
    A test/ without any of the classes, as competitions have it, is passed over where there is val/. Without train/, the
    training split is empty: enough for a published head.

    Raises: DataError: another layout. SettingsError: a share out of range.
    """
    options = options or DataOptions()
    suffixes = folders.suffixes(options.reading.show)
    there = _roles(root)
    beside = _beside(root, there, suffixes)
    if options.share is not None:
        if len(there) > 1:
            got = " and ".join(f"{name}/" for name in there.values())
            raise DataError(wanted="one folder to split", got=got, where=root, do="leave --split out")
        name = next(iter(there.values()), "")
        classes = images.class_folders(root / name, get=f"{WHERE}, {DRAW}")
        _check_classes(root / name, classes)
        whole = images.from_folder(label, name, root, classes, get=WHERE, suffixes=suffixes)
        found = shares.drawn(whole, options.share)
        note = (f"train and test are drawn from {name}/ alone", *beside) if name else ()
        return replace(found, notes=(*found.notes, *note))
    held = [role for role in ("test", "val") if role in there]
    if not held:
        got = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "an empty folder"
        inside = next((p.name for p in sorted(root.iterdir()) if p.is_dir() and _roles(p)), None)
        do = f"{WHERE}, {DRAW}" if inside is None else f"give the folder that holds them: {root / inside}"
        raise DataError(wanted="train/ and test/ or val/", got=got, where=root, do=do)
    classes = images.class_folders(root / there.get("train", there[held[-1]]), get=WHERE)
    notes = beside
    if len(held) == 2:
        val, test = there["val"], there["test"]
        used = _labelled(root / test, classes) or not _labelled(root / val, classes)
        passed = f"{val}/ is not used" if used else f"{test}/ is not used: none of its folders is a class of {val}/"
        notes = (passed, *beside)
        held = ["test" if used else "val"]
    splits = {
        role: images.from_folder(label, there[role], root, classes, get=WHERE, suffixes=suffixes, may_lack=lax)
        for role, lax in (("train", False), (held[0], True))
        if role in there
    }
    none = images.of_files(label, "train", root, classes, ())
    return Dataset(name=label, train=splits.get("train", none), test=splits[held[0]], notes=notes)


def _roles(root: Path) -> dict[str, str]:
    """{role: its folder} of those that are there, such as {"train": "training"}. Raises: DataError: two of one role."""
    found: dict[str, str] = {}
    try:
        inside = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    except OSError:
        inside = []  # said where its folders are wanted
    for role, names in own.ROLES.items():
        there = [name for name in inside if name.lower() in names]
        if len(there) > 1:
            got = " and ".join(f"{name}/" for name in there)
            raise DataError(wanted=f"one folder of {role} images", got=got, where=root, do="rename or move one")
        found.update({role: there[0]} if there else {})
    return found


def _beside(root: Path, roles: Mapping[str, str], suffixes: Sequence[str]) -> tuple[str, ...]:
    """A note of the folders and images beside the folders of the splits, which are not read."""
    if not roles:
        return ()
    entries = [e for e in os.scandir(root) if not folders.is_hidden(e.name) and e.name not in roles.values()]
    others = [f"{entry.name}/" for entry in sorted(entries, key=lambda e: e.name) if entry.is_dir()]
    loose = sum(entry.name.lower().endswith(tuple(suffixes)) and entry.is_file() for entry in entries)
    others += [f"{loose:,} image{'s' * (loose > 1)}"] if loose else []
    return (
        (f"not read, beside {', '.join(f'{name}/' for name in roles.values())}: {some(others, 5)}",) if others else ()
    )


def _check_classes(folder: Path, classes: Sequence[str]) -> None:
    """Check that folders to draw from are classes. Raises: DataError: they are splits, or hold the classes."""
    words = [set(re.findall("[a-z]+", name.lower())) & own.ROLE_OF.keys() for name in classes]
    if len(classes) > 1 and all(words) and len({own.ROLE_OF[word] for found in words for word in found}) > 1:
        do = "name them train/ and test/ and leave --split out, or name one of them"
        raise DataError(wanted="class folders to draw from", got=some(list(classes), 4), where=folder, do=do)
    if len(classes) == 1 and any(entry.is_dir() for entry in os.scandir(folder / classes[0])):
        do = f"give the folder that holds the classes: {folder / classes[0]}"
        raise DataError(wanted="two class folders or more", got=f"{classes[0]}/ alone", where=folder, do=do)


def _labelled(folder: Path, classes: Sequence[str]) -> bool:
    """Whether it has a folder of some class."""
    return any((folder / name).is_dir() for name in classes)


DATASET = DatasetSpec(name="imagefolder", where=WHERE, load=load, options=("split", "show", "max_pixels"), doc=__doc__)
