"""Sets of duplicate prototypes against the data: unused or used, opposed to the data or not, and how large.

A set is called void if it is unused (no image is assigned to it), opposed (the cosine of its mean direction with the
mean of the data is at most -0.9) and holds at least 1 % of the prototypes. The paper reports a cosine of "exactly -1".

Source: Govindarajan et al., ICLR 2023 (arXiv 2405.10939), section 5.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import betainc

from evaltk.prototypes.defaults import VOID_COSINE, VOID_SHARE
from evaltk.prototypes.duplicates import DuplicateSets

Kind = Literal["void", "unused", "used", "no sets", "weights alone"]
LISTED = 8  # sets that a note lists


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One set of duplicates against the data.

    Attributes:
        owner: its leader. size: number of prototypes. share: of all, in [0, 1].
        images: number assigned to its members; -1 if unknown.
        cosine: of its mean direction with the data mean, or (weights alone) with the mean of all other prototypes.
        random_percentile: share of random directions with a lower cosine, in [0, 1]; exact, not sampled.
        prototype_percentile: share of the other prototypes with a lower cosine, in [0, 1]; NaN if there are none.
        tightness: norm of the mean of its unit prototypes, in [0, 1].
    """

    owner: int
    size: int
    share: float
    images: int
    cosine: float
    random_percentile: float
    prototype_percentile: float
    tightness: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Verdict on one set of duplicates, with its evidence.

    Attributes:
        kind: ``void``, ``unused`` (but not opposed, or too small), ``used``, ``no sets`` (no two prototypes are
            duplicates) or ``weights alone`` (no data).
        words: the verdict with its evidence, one sentence.
        about: the set that the verdict is on; None without a set.
        sets: all sets of at least `VOID_SHARE` of the prototypes, the largest first; empty for weights alone.
        void: those of them that are void; leaders may split one cloud of prototypes into several.
    """

    kind: Kind
    words: str
    about: Evidence | None
    sets: tuple[Evidence, ...] = ()
    void: tuple[Evidence, ...] = ()

    def listed(self, share: float = VOID_SHARE) -> str:
        """All large sets in one sentence, the largest first."""
        if not self.sets:
            return f"no set of duplicates holds {100 * share:g} % of the prototypes or more"
        told = [f"{s.size:,} ({_images(s.images)}, cosine {s.cosine:.2f})" for s in self.sets[:LISTED]]
        more = f" and {len(self.sets) - LISTED} more" if len(self.sets) > LISTED else ""
        return f"sets of at least {100 * share:g} % of the prototypes, by size: {', '.join(told)}{more}"


def find_void(
    unit: np.ndarray,
    sets: DuplicateSets,
    counts: np.ndarray,
    data_mean: np.ndarray,
    *,
    threshold: float = VOID_COSINE,
    share: float = VOID_SHARE,
) -> Verdict:
    """The void set among the sets of two prototypes or more; if there is none, the verdict on the largest set.

    Args:
        unit: unit prototypes [K, p]. counts: images assigned to each [K], by the method's own score. data_mean: mean of
            y over these images [p]. threshold: largest cosine of a void set. share: smallest share of one, in [0, 1].
    """
    owners, sizes, means = _means(unit, sets)
    if not len(owners):
        return _none(len(unit))
    images = np.bincount(sets.owner, weights=counts, minlength=len(unit))[owners].astype(np.int64)
    cosines, own = _cosines(means, data_mean), np.sort(_cosines(unit, data_mean))
    enough = sizes >= share * len(unit)
    void = np.flatnonzero((images == 0) & (cosines <= threshold) & enough)
    at = int(void[0]) if len(void) else 0  # sets are sorted by descending size

    def evidence(n: int) -> Evidence:
        members = np.sort(_cosines(unit[sets.owner == owners[n]], data_mean))
        lower = np.searchsorted(own, cosines[n]) - np.searchsorted(members, cosines[n])
        others = len(unit) - int(sizes[n])
        return Evidence(
            owner=int(owners[n]),
            size=int(sizes[n]),
            share=float(sizes[n]) / len(unit),
            images=int(images[n]),
            cosine=float(cosines[n]),
            random_percentile=random_percentile(float(cosines[n]), unit.shape[1]),
            prototype_percentile=float(lower / others) if others else float("nan"),
            tightness=float(np.linalg.norm(means[n])),
        )

    about = evidence(at)
    kind: Kind = "void" if len(void) else "unused" if about.images == 0 else "used"
    words = _words(kind, about, len(unit), int(counts.sum()), threshold, share)
    if len(void) > 1:
        words += f"; {len(void)} such sets, {_percent(int(sizes[void].sum()), len(unit))} of the prototypes in all"
    large, empty = (tuple(evidence(int(n)) for n in at) for at in (np.flatnonzero(enough), void))
    return Verdict(kind=kind, words=words, about=about, sets=large, void=empty)


def random_percentile(cosine: float, dim: int) -> float:
    """Share of uniformly random directions in `dim` >= 2 dimensions whose cosine with a fixed one is lower.

    (1 + cosine)/2 is distributed as Beta((dim - 1)/2, (dim - 1)/2).
    """
    half = (dim - 1) / 2
    return float(betainc(half, half, min(1.0, max(0.0, (1 + cosine) / 2))))


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
    about = Evidence(
        owner=int(owners[0]),
        size=size,
        share=size / len(unit),
        images=-1,
        cosine=cosine,
        random_percentile=random_percentile(cosine, unit.shape[1]),
        prototype_percentile=float("nan"),
        tightness=float(np.linalg.norm(means[0])),
    )
    return Verdict(kind="weights alone", words=words, about=about)


def _words(kind: Kind, e: Evidence, num: int, total: int, threshold: float, share: float) -> str:
    """One sentence: size, use and direction of a set, each as it is, and which of them makes it void or not."""
    size = f"{_percent(e.size, num)} of the prototypes ({e.size:,} of {num:,})"
    other = "" if np.isnan(e.prototype_percentile) else f" and {100 * e.prototype_percentile:.1f} % of other prototypes"
    rank = f"{100 * e.random_percentile:.1f} % of random directions{other} have a lower one"
    cosine = f"cosine {e.cosine:.4f} with the data mean; {rank}"
    if kind == "void":
        return (
            f"void set: {size} are duplicates, none of {total:,} images is assigned to them, and they point away from "
            f"the data ({cosine}; void is {threshold:g} or lower, the paper reports -1)"
        )
    if kind == "used":
        use = f"{e.images:,} of {total:,} images are assigned to it"
        return f"no void set: the largest set of duplicates, {size}, is in use: {use} ({cosine})"
    missing = []
    if e.cosine > threshold:
        missing.append(f"its cosine is above {threshold:g}")
    if e.size < share * num:
        missing.append(f"it is smaller than {100 * share:g} % of the prototypes")
    return (
        f"unused set, not called void since {' and '.join(missing)}: the largest set of duplicates, {size}; none of "
        f"{total:,} images is assigned to it, and it points {_toward(e.cosine)} ({cosine})"
    )


def _toward(cosine: float) -> str:
    if cosine <= VOID_COSINE:
        return "away from the data"
    if cosine < -0.1:
        return "partly away from the data"
    return "across the data" if cosine <= 0.1 else "towards the data"


def _images(number: int) -> str:
    return "unused" if number == 0 else f"{number:,} image{'s' if number > 1 else ''}"


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
    rows, toward = np.asarray(means, dtype=np.float64), np.asarray(direction, dtype=np.float64)
    length = np.sqrt((rows * rows).sum(axis=1)) * np.sqrt((toward * toward).sum())
    product = (rows * toward).sum(axis=1)
    return np.divide(product, length, out=np.zeros_like(product), where=length > 0)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def _none(num: int) -> Verdict:
    words = f"no void set: no two of the {num:,} prototypes are duplicates"
    return Verdict(kind="no sets", words=words, about=None)
