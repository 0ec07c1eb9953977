"""Prototypes of two checkpoints matched by the images assigned to them; K and dimension may differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from evaltk.errors import DataError
from evaltk.metrics.clustering import agreement

LARGEST = 2**24  # pairs of used prototypes for which the best matching is computed


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """A one-to-one matching of prototypes that images are assigned to.

    Attributes:
        pairs: [P, 3] int64, (prototype of A, prototype of B, images that both have), the most images first.
        share: of the images, that are assigned to matched prototypes, in [0, 1].
        chance: the same for images of B in random order, mean over `DRAWS` draws: what sizes alone give.
        nmi: mutual information of the two assignments over the mean of their entropies, in [0, 1].
        best: whether the matching has the largest possible share; else it takes the largest pairs first.
    """

    pairs: np.ndarray
    share: float
    chance: float
    nmi: float
    best: bool


DRAWS = 5


def match(a: np.ndarray, b: np.ndarray, *, seed: int = 0) -> Matching:
    """Match the prototypes that the same images [N] are assigned to in A and in B.

    Raises: DataError: not the same number of images.
    """
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        got = f"{a.shape} and {b.shape}"
        raise DataError(wanted="assignments of the same images", got=got, do="compare them on one dataset")
    pairs, best = _pairs(a, b)
    rng = np.random.default_rng(seed)
    draws = [_pairs(a, rng.permutation(b))[0][:, 2].sum() / len(a) for _ in range(DRAWS)]
    return Matching(
        pairs=pairs,
        share=float(pairs[:, 2].sum() / len(a)),
        chance=float(np.mean(draws)),
        nmi=agreement(a, b, int(a.max()) + 1).nmi,
        best=best,
    )


def _pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, bool]:
    """(matched pairs with an image in common, whether their sum is the largest)."""
    names_a, in_a = np.unique(a, return_inverse=True)
    names_b, in_b = np.unique(b, return_inverse=True)
    code, count = np.unique(in_a * np.int64(len(names_b)) + in_b, return_counts=True)
    row, column = code // len(names_b), code % len(names_b)
    best = len(names_a) * len(names_b) <= LARGEST
    if best:
        table = np.zeros((len(names_a), len(names_b)), dtype=np.int64)
        table[row, column] = count
        first, second = linear_sum_assignment(table, maximize=True)
        shared = table[first, second]
    else:
        first, second, shared = _greedy(row, column, count)
    kept = shared > 0
    made = np.stack([names_a[first[kept]], names_b[second[kept]], shared[kept]], axis=1).astype(np.int64)
    return made[np.lexsort((made[:, 1], made[:, 0], -made[:, 2]))], best


def _greedy(row: np.ndarray, column: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    taken_a, taken_b, kept = set(), set(), []
    for at in np.argsort(-count, kind="stable").tolist():
        if row[at] not in taken_a and column[at] not in taken_b:
            taken_a.add(row[at])
            taken_b.add(column[at])
            kept.append(at)
    return row[kept], column[kept], count[kept]
