"""Revisited Oxford: 4,993 photographs and 70 queries, ranked by similarity."""

from __future__ import annotations

from pathlib import Path

from evaltk.data import galleries
from evaltk.data.galleries import Gallery
from evaltk.datasets import DatasetSpec

WHERE = (
    "expected: PATH/gnd_roxford5k.pkl (cmp.felk.cvut.cz/revisitop/data/datasets/roxford5k) and PATH/jpg/*.jpg "
    "(oxbuild_images-v1.tgz of www.robots.ox.ac.uk/~vgg/data/oxbuildings)"
)


def load(root: Path, label: str = "roxford5k") -> Gallery:
    """The benchmark; no image is decoded. Raises: DataError: see `evaltk.data.galleries.load`."""
    return galleries.load(root, label, "roxford5k", WHERE)


DATASET = DatasetSpec(name="roxford5k", where=WHERE, load=load, doc=__doc__)
