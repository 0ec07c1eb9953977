"""DAVIS-2016 val at 480p: 20 video sequences; with --vos.merged all objects of a video are one, as published."""

from __future__ import annotations

from pathlib import Path

from evaltk.datasets import DatasetSpec
from evaltk.datasets.davis2017 import Sequences, from_list

WHERE = (
    "expected: PATH/{ImageSets/2016/val.txt,JPEGImages/480p/SEQUENCE/*.jpg,Annotations/480p/SEQUENCE/*.png}, as in "
    "DAVIS-2017-trainval-480p.zip of davischallenge.org/davis2017/code.html"
)
NUM_SEQUENCES = 20


def load(root: Path, label: str = "davis2016") -> Sequences:
    """The sequences that ImageSets/2016/val.txt names; no image is decoded. Raises: DataError: as DAVIS-2017's."""
    return from_list(root, label, "2016", NUM_SEQUENCES)


DATASET = DatasetSpec(name="davis2016", where=WHERE, load=load, doc=__doc__)
