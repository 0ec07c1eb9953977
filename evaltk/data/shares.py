"""One set of images split into train and test: a seeded, class-balanced share of it (`--split 0.2`)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np

from evaltk.data import images
from evaltk.data.images import Dataset, Split
from evaltk.deviations import Deviation, DeviationKind
from evaltk.errors import DataError, SettingsError, some
from evaltk.seeding import derive

FLAG = "--split"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What to draw: `share` of the images of each class, in (0, 1), for the test split. Raises: SettingsError."""

    share: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise SettingsError(
                wanted="a share between 0 and 1 for testing", got=str(self.share), where=FLAG, do=f"{FLAG} 0.2"
            )


def test_rows(labels: np.ndarray, share: Share) -> np.ndarray:
    """Rows [n] bool, True for test: `share` of each class to the nearest, at least one and not all of its images.

    Depends on the labels [N] int64, their order and the seed only, and is the same on every processor. A class with
    one image stays in the training split.
    """
    # Raw output of the generator: no version of numpy changes it.
    keys = np.random.PCG64(derive(share.seed, "split")).random_raw(len(labels))
    test = np.zeros(len(labels), dtype=bool)
    order = np.lexsort((keys, labels))
    for mine in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        count = min(max(1, math.floor(share.share * len(mine) + 0.5)), len(mine) - 1)
        test[mine[:count]] = True
    return test


def drawn(whole: Split, share: Share) -> Dataset:
    """`whole` as a dataset of ``train`` and ``test``, each in its order; the draw is part of the fingerprints.

    Raises: DataError: no class has two images.
    """
    test = test_rows(whole.labels, share)
    if not test.any():
        raise DataError(
            wanted="two images of some class, one of them to test on",
            got=f"{len(whole):,} images of {len(whole.classes):,} classes",
            where=f"{whole.dataset} {whole.name}",
            do="add images, or give a test split",
        )
    counts = np.bincount(whole.labels, minlength=len(whole.classes))
    single = [whole.classes[c] for c in np.flatnonzero(counts == 1)]
    text = f"no official split: {share.share:g} of each class drawn for test, seed {share.seed}"
    return Dataset(
        name=whole.dataset,
        train=_part(whole, np.flatnonzero(~test), "train", share),
        test=_part(whole, np.flatnonzero(test), "test", share),
        deviations=(Deviation(kind=DeviationKind.OWN_SPLIT, text=text),),
        notes=(
            *((f"not tested, as they have one image only: {some(single)}",) if single else ()),
            *((f"before the draw, {images.counts(whole)}",) if whole.left else ()),
        ),
    )


def _part(whole: Split, rows: np.ndarray, name: str, share: Share) -> Split:
    state = hashlib.sha256(f"{whole.fingerprint}\0{FLAG}\0{share.share!r}\0{share.seed}\0{name}\0".encode())
    state.update(np.ascontiguousarray(rows, dtype="<i8").tobytes())
    return replace(whole.taken(rows, name=name, fingerprint=state.hexdigest()), left={})
