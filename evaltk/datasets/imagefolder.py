"""Any folder of class folders with train/ and val/ or test/, in torchvision's ImageFolder layout."""

from __future__ import annotations

from pathlib import Path

from evaltk.data import images
from evaltk.data.images import Dataset
from evaltk.datasets import DatasetSpec
from evaltk.errors import DataError

WHERE = "expected: PATH/train/CLASS/IMAGE and PATH/test/CLASS/IMAGE (or val/ instead of test/)"


def load(root: Path, label: str = "imagefolder") -> Dataset:
    """Learn from train/, report on test/ where there is one, else on val/. Raises: DataError: another layout."""
    held = next((name for name in ("test", "val") if (root / name).is_dir()), None)
    if held is None or not (root / "train").is_dir():
        got = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "an empty folder"
        raise DataError(wanted="train/ and test/ or val/", got=got, where=root, do=WHERE)
    classes = images.class_folders(root / "train", get=WHERE)
    return Dataset(
        name=label,
        train=images.from_folder(label, "train", root, classes, get=WHERE),
        test=images.from_folder(label, held, root, classes, get=WHERE),
    )


DATASET = DatasetSpec(name="imagefolder", where=WHERE, load=load, doc=__doc__)
