"""PASCAL VOC 2012 segmentation: 20 classes and background; train (or trainaug) and val."""

from __future__ import annotations

from pathlib import Path

from evaltk.data import listed as lists
from evaltk.data.dense import DenseDataset, DenseSplit, paired
from evaltk.datasets import DatasetSpec
from evaltk.errors import DataError

WHERE = (
    "expected: PATH/{JPEGImages,SegmentationClass,ImageSets/Segmentation/{train,val}.txt}, PATH being VOC2012; get it "
    "from host.robots.ox.ac.uk/pascal/VOC/voc2012"
)
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
AUGMENTED = ("trainaug", "SegmentationClassAug")  # the SBD's label maps, as mmsegmentation lays them out


def load(root: Path, label: str = "voc2012") -> DenseDataset:
    """Learn from trainaug where it is there (10,582 images), else from train (1,464); report on val (1,449).

    Raises: DataError: another layout, or files that are missing.
    """
    places = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
    folder = next((f for f in places if (f / "ImageSets" / "Segmentation").is_dir()), None)
    if folder is None:
        raise DataError(wanted="ImageSets/Segmentation", got="no such folder", where=root, do=WHERE)
    lists = folder / "ImageSets" / "Segmentation"
    more = (lists / f"{AUGMENTED[0]}.txt").is_file() and (folder / AUGMENTED[1]).is_dir()
    train = _split(folder, label, *(AUGMENTED if more else ("train", "SegmentationClass")))
    test = _split(folder, label, "val", "SegmentationClass")
    return DenseDataset(name=label, train=train, test=test, notes=(f"trained on {train.name}",))


def _split(folder: Path, label: str, name: str, masks: str) -> DenseSplit:
    listed = folder / "ImageSets" / "Segmentation" / f"{name}.txt"
    if not listed.is_file():
        raise DataError(wanted=f"the list {name}.txt", got="no such file", where=listed, do=WHERE)
    names = lists.lines(listed, WHERE)
    return paired(label, name, folder, [(f"JPEGImages/{n}.jpg", f"{masks}/{n}.png") for n in names], CLASSES)


DATASET = DatasetSpec(name="voc2012", where=WHERE, load=load, doc=__doc__)
