"""ADE20K scene parsing (ADEChallengeData2016): 150 classes, 20,210 training and 2,000 validation images."""

from __future__ import annotations

from pathlib import Path

from evaltk.data import listed as lists
from evaltk.data.dense import DenseDataset, beside, paired
from evaltk.datasets import DatasetSpec

WHERE = (
    "expected: PATH/{images,annotations}/{training,validation}/*, PATH being ADEChallengeData2016; get it from "
    "data.csail.mit.edu/places/ADEchallenge"
)
NUM_CLASSES = 150
FIRST = 1  # 0 is void
NAMES = "objectInfo150.txt"


def load(root: Path, label: str = "ade20k") -> DenseDataset:
    """Learn from training, report on validation. Raises: DataError: another layout, or files that are missing."""
    folder = root / "ADEChallengeData2016" if (root / "ADEChallengeData2016").is_dir() else root
    splits = [
        paired(
            label,
            name,
            folder,
            beside(folder, f"images/{name}", f"annotations/{name}", where=WHERE),
            _classes(folder),
            first=FIRST,
        )
        for name in ("training", "validation")
    ]
    return DenseDataset(name=label, train=splits[0], test=splits[1])


def _classes(folder: Path) -> list[str]:
    """Names of the classes from the list beside the images, where it is there; else their numbers."""
    listed = folder / NAMES
    if not listed.is_file():
        return [str(i) for i in range(FIRST, NUM_CLASSES + FIRST)]
    rows = [line.split("\t") for line in lists.lines(listed, WHERE, comments=False)[1:]]
    names = [row[-1].split(",")[0].strip() for row in rows]
    return names if len(names) == NUM_CLASSES else [str(i) for i in range(FIRST, NUM_CLASSES + FIRST)]


DATASET = DatasetSpec(name="ade20k", where=WHERE, load=load, doc=__doc__)
