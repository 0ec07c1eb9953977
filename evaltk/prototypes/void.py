"""The void set: duplicate prototypes that point away from all data, so that no image is assigned to them.

Source: Govindarajan et al., ICLR 2023 (arXiv 2405.10939), section 5.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from evaltk.prototypes.duplicates import DuplicateSets

Kind = Literal["void", "unused", "used", "no sets", "weights alone"]
VOID_COSINE = -0.99  # "exactly -1" in the paper, to two decimals


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Verdict on one set of duplicates, with its evidence.

    Attributes:
        kind: ``void`` (unused, and opposite to the data), ``unused`` (but not opposite), ``used``, ``no sets`` (no two
            prototypes are duplicates) or ``weights alone`` (no data).
        words: the verdict with its evidence, one sentence.
        owner: the set's leader, -1 without a set. size: its number of prototypes. share: of all, in [0, 1].
        images: number assigned to its members; -1 if unknown.
        cosine: of its mean direction with the data mean, or (weights alone) with the mean of all other prototypes.
        tightness: norm of the mean of its unit prototypes, in [0, 1].
    """

    kind: Kind
    words: str
    owner: int
    size: int
    share: float
    images: int
    cosine: float
    tightness: float


def find_void(
    unit: np.ndarray,
    sets: DuplicateSets,
    counts: np.ndarray,
    data_mean: np.ndarray,
    *,
    threshold: float = VOID_COSINE,
) -> Verdict:
    """The void set among the sets of two prototypes or more; if there is none, the verdict on the largest set.

    The void set is the largest set without assigned images whose mean direction has a cosine of at most `threshold`
    with the data mean.

    Args:
        unit: unit prototypes [K, p]. counts: images assigned to each [K], by the method's own score. data_mean: mean of
            y over these images [p].
    """
    owners, sizes, means = _means(unit, sets)
    if not len(owners):
        return _none(len(unit))
    images = np.bincount(sets.owner, weights=counts, minlength=len(unit))[owners].astype(np.int64)
    cosines = _cosines(means, data_mean)
    void = np.flatnonzero((images == 0) & (cosines <= threshold))
    at = int(void[0]) if len(void) else 0  # sets are sorted by descending size
    total = int(counts.sum())
    part = f"{_percent(sizes[at], len(unit))} of the prototypes ({sizes[at]:,} of {len(unit):,})"
    toward = f"cosine of their mean direction with the data mean {cosines[at]:.4f}"
    kind: Kind
    if len(void):
        kind = "void"
        words = f"void set: {part} point away from the data ({toward}) and none of {total:,} images is assigned to them"
    elif images[at] == 0:
        kind = "unused"
        words = (
            f"no void set: none of {total:,} images is assigned to the largest set of duplicates, {part}, but it does "
            f"not point away from the data ({toward}; void is {threshold:g} or lower)"
        )
    else:
        kind = "used"
        words = (
            f"no void set: the largest set of duplicates, {part}, is in use: {images[at]:,} of {total:,} images are "
            f"assigned to it ({toward})"
        )
    return _verdict(kind, words, at, owners, sizes, int(images[at]), float(cosines[at]), means, len(unit))


def from_weights(unit: np.ndarray, sets: DuplicateSets) -> Verdict:
    """Verdict on the largest set from unit prototypes [K, p] alone; whether it is void depends on data."""
    owners, sizes, means = _means(unit, sets)
    if not len(owners):
        return _none(len(unit))
    size, sum_of_others = int(sizes[0]), unit.sum(axis=0, dtype=np.float64) - means[0] * sizes[0]
    others = len(unit) - size
    cosine = float(_cosines(means[:1], sum_of_others)[0]) if others else 0.0
    largest = (
        f"the largest set of duplicates is {_percent(size, len(unit))} of the prototypes ({size:,} of {len(unit):,})"
    )
    versus = f"; cosine of its mean direction with the mean of the other {others:,} is {cosine:.4f}" if others else ""
    words = f"{largest}{versus}. From the weights alone; deciding whether the set is void needs image assignments"
    return _verdict("weights alone", words, 0, owners, sizes, -1, cosine, means, len(unit))


def _means(unit: np.ndarray, sets: DuplicateSets) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(owners [S], sizes [S], mean of unit members [S, p]) of the sets of two or more, largest first."""
    count = np.bincount(sets.owner, minlength=len(unit))
    owners = np.flatnonzero(count > 1)
    owners = owners[np.argsort(-count[owners], kind="stable")]
    order = np.argsort(sets.owner, kind="stable")
    starts = np.searchsorted(sets.owner[order], owners)
    means = np.empty((len(owners), unit.shape[1]))
    for n, (owner, start) in enumerate(zip(owners, starts, strict=True)):
        members = order[start : start + count[owner]]
        means[n] = unit[members].mean(axis=0, dtype=np.float64)
    return owners, count[owners], means


def _cosines(means: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Cosine of each row with a direction; 0 where one of them is zero.

    Summed by numpy in an order that is the same everywhere, since the verdict compares them with a threshold.
    """
    toward = np.asarray(direction, dtype=np.float64)
    length = np.sqrt((means * means).sum(axis=1)) * np.sqrt((toward * toward).sum())
    product = (means * toward).sum(axis=1)
    return np.divide(product, length, out=np.zeros_like(product), where=length > 0)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def _none(num: int) -> Verdict:
    words = f"no void set: no two of the {num:,} prototypes are duplicates"
    return Verdict(kind="no sets", words=words, owner=-1, size=1, share=1 / num, images=-1, cosine=0.0, tightness=1.0)


def _verdict(
    kind: Kind,
    words: str,
    at: int,
    owners: np.ndarray,
    sizes: np.ndarray,
    images: int,
    cosine: float,
    means: np.ndarray,
    num: int,
) -> Verdict:
    return Verdict(
        kind=kind,
        words=words,
        owner=int(owners[at]),
        size=int(sizes[at]),
        share=float(sizes[at]) / num,
        images=images,
        cosine=cosine,
        tightness=float(np.linalg.norm(means[at])),
    )
