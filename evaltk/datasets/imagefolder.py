"""Any folder of class folders, with train/ and val/ or test/ or to be split, in torchvision's ImageFolder layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evaltk.data import images, own, shares
from evaltk.data.images import Dataset
from evaltk.data.options import DataOptions
from evaltk.datasets import DatasetSpec
from evaltk.errors import DataError

WHERE = "expected: PATH/train/CLASS/IMAGE and PATH/test/CLASS/IMAGE (or val/ instead of test/)"
DRAW = "or class folders alone, PATH/CLASS/IMAGE, with --split 0.2"


def load(root: Path, label: str = "imagefolder", options: DataOptions | None = None) -> Dataset:
    """Learn from train/, report on test/ where there is one, else on val/.

    With a share to draw (`DataOptions.split`), `root` holds the class folders, or one of train/, val/ and test/ does.

    Raises: DataError: another layout. SettingsError: a share out of range.
    """
    share = options.share if options else None
    there = [role for role in own.ROLES if (root / role).is_dir()]
    if share is not None:
        if len(there) > 1:
            got = " and ".join(f"{role}/" for role in there)
            raise DataError(wanted="one folder to split", got=got, where=root, do="leave --split out")
        name = there[0] if there else ""
        classes = images.class_folders(root / name, get=f"{WHERE}, {DRAW}")
        found = shares.drawn(images.from_folder(label, name, root, classes, get=WHERE), share)
        note = (f"train and test are drawn from {name}/ alone",) if name else ()
        return replace(found, notes=(*found.notes, *note))
    held = next((name for name in ("test", "val") if name in there), None)
    if held is None or "train" not in there:
        got = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "an empty folder"
        raise DataError(wanted="train/ and test/ or val/", got=got, where=root, do=f"{WHERE}, {DRAW}")
    classes = images.class_folders(root / "train", get=WHERE)
    return Dataset(
        name=label,
        train=images.from_folder(label, "train", root, classes, get=WHERE),
        test=images.from_folder(label, held, root, classes, get=WHERE),
    )


DATASET = DatasetSpec(name="imagefolder", where=WHERE, load=load, options=("split", "show", "max_pixels"), doc=__doc__)
