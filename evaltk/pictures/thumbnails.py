"""Small pictures of the images that results were measured on, found by what this machine remembers of their place."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from evaltk import datasets
from evaltk.data.images import Dataset, Split
from evaltk.errors import DataError, EvaltkError
from evaltk.running import remembered
from evaltk.types import Result

SIDE = 96  # pixels of the longer side
QUALITY = 75  # JPEG


@dataclass(frozen=True, slots=True, kw_only=True)
class TestImages:
    """The test images of a result, in the order of its predictions. missing: why there are no pictures; "" for none.

    `names`: of the images, () where not even those are known.
    """

    __test__ = False  # no test of pytest's

    split: Split | None
    names: Sequence[str]
    classes: Sequence[str]
    missing: str

    def name(self, row: int) -> str:
        """The image's path in its folder, or its number."""
        return self.names[row] if row < len(self.names) else f"image {row}"

    def thumbnail(self, row: int) -> bytes | None:
        """The image as a JPEG of at most `SIDE` px, None where it cannot be had."""
        if self.split is None:
            return None
        try:
            image = self.split.open(row)
        except DataError:
            return None
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=QUALITY)
        return buffer.getvalue()


@dataclass(slots=True, kw_only=True)
class Finder:
    """Finds the images of results. given: datasets by fingerprint that the user named. cache: what `run` remembers."""

    cache: Path
    given: dict[str, Dataset] = field(default_factory=dict)
    known: dict[str, Dataset | str] = field(default_factory=dict)

    @staticmethod
    def of(words: Sequence[str], cache: Path) -> Finder:
        """With the datasets of ``--data`` words. Raises: SettingsError, DataError: one that cannot be loaded."""
        loaded = [datasets.load(word) for word in words]
        return Finder(cache=cache, given={d.fingerprint: d for d in loaded if isinstance(d, Dataset)})

    def __call__(self, result: Result, target: np.ndarray) -> TestImages:
        """The images whose classes the result's predictions had to tell: [N], one row each."""
        fingerprint = result.data.fingerprint
        place = remembered.recall(self.cache, fingerprint)
        if fingerprint not in self.known:
            self.known[fingerprint] = self._found(fingerprint, place, result.data.name)
        found = self.known[fingerprint]
        if isinstance(found, str):
            files = place.files if place is not None else ()
            return TestImages(split=None, names=files if len(files) == len(target) else (), classes=(), missing=found)
        split = found.test
        if not np.array_equal(split.labels, target):  # of another test set, or some images could not be read
            return TestImages(split=None, names=(), classes=(), missing="the predictions are not of all test images")
        return TestImages(split=split, names=split.files or (), classes=split.classes, missing="")

    def _found(self, fingerprint: str, place: remembered.Place | None, name: str) -> Dataset | str:
        if fingerprint in self.given:
            return self.given[fingerprint]
        if place is None:
            return f"the images of {name} are not at hand: evaltk report --data NAME=PATH"
        try:
            return place.load(fingerprint)
        except EvaltkError:
            return f"the images of {name} are not where they were measured, or have changed"
