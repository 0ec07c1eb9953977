"""Food-101: 75,750 training images, some of them mislabelled on purpose, and 25,250 test images of 101 dishes."""

from __future__ import annotations

from pathlib import Path

from evaltk import safe_json
from evaltk.data import listed, parquet
from evaltk.data.images import Dataset
from evaltk.datasets import DatasetSpec
from evaltk.errors import DataError

WHERE = (
    "expected: PATH/{images/apple_pie/*.jpg,meta/{train,test}.txt or .json} of food-101.tar.gz from "
    "data.vision.ee.ethz.ch/cvl/datasets_extra/food-101, unpacked (PATH may also be the folder above, as torchvision's)"
) + parquet.ALSO
OFFICIAL = listed.Official(
    title="Food-101", where=WHERE, classes=101, counts={"train": 75_750, "test": 25_250}, metric="top1"
)


def load(root: Path, label: str = "food101") -> Dataset:
    """The official lists, meta/NAME.txt or else meta/NAME.json; report top-1 on test.

    Raises: DataError: a list or images are missing.
    """
    if found := parquet.find(root):
        return parquet.dataset(label, found, OFFICIAL)
    folder = listed.locate(root, ("", "food-101"), ("meta", "images"), WHERE)
    listings = {split: _listing(folder / "meta", split) for split in OFFICIAL.counts}
    return listed.assemble(label, folder, listings, OFFICIAL)


def _listing(meta: Path, split: str) -> listed.Listing:
    if (meta / f"{split}.txt").exists() or not (meta / f"{split}.json").exists():
        return listed.read(meta / f"{split}.txt", _pair, form="apple_pie/1005649", where=WHERE)
    path = meta / f"{split}.json"
    try:
        found = safe_json.read(path)
        pairs = [_pair(line) for names in found.values() for line in names]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(wanted="{class: [images]}", got=str(error)[:120], where=path, do=WHERE) from error
    kept = tuple(pair for pair in pairs if pair is not None)
    if not kept or len(kept) < len(pairs):
        got = f"{len(pairs) - len(kept)} others among {len(pairs)}"
        raise DataError(wanted="images of the form 'apple_pie/1005649'", got=got, where=path, do=WHERE)
    return listed.Listing(path=path, pairs=kept)


def _pair(line: str) -> listed.Pair | None:
    dish, _, image = line.partition("/")
    return (f"images/{line}.jpg", dish) if dish and image else None


DATASET = DatasetSpec(name="food101", where=WHERE, load=load, doc=__doc__)
