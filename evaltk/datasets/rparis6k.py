"""Revisited Paris: 6,322 photographs and 70 queries, ranked by similarity."""

from __future__ import annotations

from pathlib import Path

from evaltk.data import galleries
from evaltk.data.galleries import Gallery
from evaltk.datasets import DatasetSpec

WHERE = (
    "expected: PATH/gnd_rparis6k.pkl (cmp.felk.cvut.cz/revisitop/data/datasets/rparis6k) and PATH/jpg/*.jpg "
    "(paris_1-v1.tgz and paris_2-v1.tgz of www.robots.ox.ac.uk/~vgg/data/parisbuildings)"
)


def load(root: Path, label: str = "rparis6k") -> Gallery:
    """The benchmark; no image is decoded. Raises: DataError: see `evaltk.data.galleries.load`."""
    return galleries.load(root, label, "rparis6k", WHERE)


DATASET = DatasetSpec(name="rparis6k", where=WHERE, load=load, doc=__doc__)
