"""Image retrieval metrics of the revisited Oxford and Paris benchmarks: mAP and mP@k.

Each query has easy and hard positives and junk. Images that a difficulty ignores are first removed from the ranking.
Average precision is the area under the precision-recall curve by the trapezoidal rule (unlike scikit-learn's). With
0-based ranks r_0 < r_1 < ... of the retrieved ones of n positives:
AP = sum_j (j / r_j + (j + 1) / (r_j + 1)) / (2 n), the first term 1 where r_j = 0.
Source: Radenovic et al. 2018 (arXiv 1803.11285), section 3; revisitop python/evaluate.py:3-111 and
python/example_evaluate.py:56-83 at be39832.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from evaltk import machine
from evaltk.errors import DataError

LONG = 1_000_000  # number of ranks above which threads over queries pay off; numpy releases the GIL
KS = (1, 5, 10)
# {difficulty: (positive labels, ignored labels)}
DIFFICULTIES = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
LABELS = ("easy", "hard", "junk")


def evaluate(
    ranks: Any, gnd: Sequence[Mapping[str, Any]], *, num_database: int | None = None
) -> dict[str, dict[str, float]]:
    """{"easy" | "medium" | "hard": {"map", "mp@1", "mp@5", "mp@10"}}, fractions in [0, 1].

    Queries without positives of a difficulty are excluded from its means; if no query has any, the means are NaN.

    Args:
        ranks: integer [Q, N], each row database indices, best match first; N may be smaller than the database (images
            that are not ranked count as not retrieved).
        gnd: Q mappings with the keys easy, hard and junk: disjoint lists of database indices.
        num_database: images in the database; default: the smallest number consistent with N and gnd.

    Raises: DataError: an index outside the database, a duplicate in a ranking, overlapping or missing lists.

    >>> gnd = [{"easy": [0], "hard": [2], "junk": [1]}]
    >>> evaluate([[1, 0, 3, 2]], gnd)["medium"]  # without the junk: 0, 3, 2
    {'map': 0.7916666666666666, 'mp@1': 1.0, 'mp@5': 0.6666666666666666, 'mp@10': 0.6666666666666666}
    """
    return {
        difficulty: {f"m{name}": _mean(values) for name, values in scores.items()}
        for difficulty, scores in per_query(ranks, gnd, num_database=num_database).items()
    }


def per_query(
    ranks: Any, gnd: Sequence[Mapping[str, Any]], *, num_database: int | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """{difficulty: {"ap", "p@1", "p@5", "p@10"}}, each [Q] float64 in [0, 1], NaN where a query has no positive.

    P@k is computed at min(k, rank of the last retrieved positive); if none is retrieved, AP and P@k are 0.
    Arguments and errors are those of `evaluate`.

    >>> per_query([[1, 0, 3, 2]], [{"easy": [0], "hard": [2], "junk": [1]}])["hard"]["ap"]
    array([0.25])
    """
    ranks = np.asarray(ranks)
    if ranks.ndim != 2 or ranks.dtype.kind not in "iu" or len(ranks) != len(gnd) or not ranks.size:
        transposed = ranks.ndim == 2 and ranks.shape[1] == len(gnd)
        raise DataError(
            wanted=f"integer ranks [queries, ranked], {len(gnd)} queries as in the ground truth",
            got=f"{list(ranks.shape)} {ranks.dtype}",
            where="ranks",
            do="transpose them (the original has [database, queries])" if transposed else "give one ranking per query",
        )
    truth = checked_truth(gnd, num_database)
    least = max(ranks.shape[1], *(int(lists[label].max(initial=-1)) + 1 for lists in truth for label in LABELS))
    size = least if num_database is None else num_database
    scores = {d: {name: np.full(len(gnd), np.nan) for name in ("ap", *(f"p@{k}" for k in KS))} for d in DIFFICULTIES}
    queries = range(len(gnd))
    with ThreadPoolExecutor(machine.usable_cores() if ranks.size > LONG else 1) as pool:
        places = list(pool.map(lambda query: _positions(ranks[query], truth[query], size, query), queries))
    for query, (lists, at) in enumerate(zip(truth, places, strict=True)):
        for difficulty, (positive, ignored) in DIFFICULTIES.items():
            if num_positives := sum(len(lists[label]) for label in positive):
                clean = _clean_ranks([at[label] for label in positive], [at[label] for label in ignored])
                scores[difficulty]["ap"][query] = average_precision(clean, num_positives)
                for k in KS:
                    scores[difficulty][f"p@{k}"][query] = _precision(clean, k)
    return scores


def average_precision(ranks: np.ndarray, num_positives: int) -> float:
    """Trapezoidal AP in [0, 1] from ascending 0-based ranks [R] of the retrieved positives, R <= num_positives >= 1.

    >>> average_precision(np.array([0, 2]), num_positives=2)  # ((1 + 1) + (1/2 + 2/3)) / 4
    0.7916666666666666
    """
    ranks = np.asarray(ranks, dtype=np.int64)
    retrieved = np.arange(len(ranks))  # positives before each one
    before = np.where(ranks == 0, 1.0, retrieved / np.maximum(ranks, 1))
    return float(np.sum(before + (retrieved + 1) / (ranks + 1)) / (2 * num_positives))


def checked_truth(
    gnd: Sequence[Mapping[str, Any]], num_database: int | None = None, *, source: object = "gnd"
) -> list[dict[str, np.ndarray]]:
    """The validated lists easy, hard and junk of each query as int64 [n].

    Raises: DataError: a missing key, values that are not indices, outside the database, or twice in a query's lists.

    >>> checked_truth([{"easy": [4], "hard": [], "junk": [0]}])[0]["easy"]
    array([4])
    """
    truth = []
    for query, entry in enumerate(gnd):
        where = f"{source}, query {query}"
        if not isinstance(entry, Mapping) or (missing := [label for label in LABELS if label not in entry]):
            got = f"no {', '.join(missing)}" if isinstance(entry, Mapping) else type(entry).__name__
            do = "give every query all three, empty where it has none"
            raise DataError(wanted="the lists easy, hard and junk of a query", got=got, where=where, do=do)
        lists = {label: _indices(entry[label], f"{where}, {label}") for label in LABELS}
        every = np.concatenate(list(lists.values()))
        if len(every) and (every.min() < 0 or (num_database is not None and every.max() >= num_database)):
            wanted = "indices into the database" + (f" of {num_database}" if num_database is not None else "")
            got = str(every.min() if every.min() < 0 else every.max())
            raise DataError(wanted=wanted, got=got, where=where, do="use the ground truth of this database")
        values, counts = np.unique(every, return_counts=True)
        if len(values) < len(every):
            raise DataError(
                wanted="each image at most once among easy, hard and junk",
                got=f"image {values[counts > 1][0]} twice",
                where=where,
                do="keep it in one of the lists",
            )
        truth.append(lists)
    return truth


def _indices(values: Any, where: str) -> np.ndarray:
    try:
        indices = np.asarray(values)
    except ValueError:  # a ragged list
        indices = np.empty((0, 0))
    if indices.ndim == 1 and not len(indices):
        return np.empty(0, dtype=np.int64)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        do = "use integers from 0"
        raise DataError(wanted="a list of database indices", got=repr(values)[:60], where=where, do=do)
    return indices.astype(np.int64)


def _positions(row: np.ndarray, lists: Mapping[str, np.ndarray], size: int, query: int) -> dict[str, np.ndarray]:
    """{label: ascending positions in the ranking `row` [N] of the images with that label}; validates the row."""
    where = f"ranks, query {query}"
    if row.min() < 0 or row.max() >= size:
        raise DataError(
            wanted=f"indices into a database of {size}",
            got=str(row.min() if row.min() < 0 else row.max()),
            where=where,
            do="pass num_database if the rankings are incomplete",
        )
    # A long ranking is bound by random access: one byte per image fits the cache, one index per image does not.
    row = row.astype(np.intp, copy=False)
    seen = np.zeros(size, dtype=np.bool_)
    for label in LABELS:
        seen[lists[label]] = True
    at = np.flatnonzero(seen.take(row))
    seen[:] = False
    seen[row] = True
    if np.count_nonzero(seen) < len(row):
        values, counts = np.unique(row, return_counts=True)
        got = f"image {values[counts > 1][0]} twice"
        do = "rank each image once"
        raise DataError(wanted="each image at most once in a ranking", got=got, where=where, do=do)
    return {label: at[np.isin(row[at], lists[label])] for label in LABELS}


def _clean_ranks(positive: list[np.ndarray], ignored: list[np.ndarray]) -> np.ndarray:
    """Ascending 0-based ranks of the positives after removing the ignored images from the ranking."""
    ranks = np.sort(np.concatenate(positive))
    return ranks - np.searchsorted(np.sort(np.concatenate(ignored)), ranks)


def _precision(ranks: np.ndarray, k: int) -> float:
    if not len(ranks):
        return 0.0
    depth = min(k, int(ranks[-1]) + 1)
    return float(np.count_nonzero(ranks < depth)) / depth


def _mean(values: np.ndarray) -> float:
    numbers = values[~np.isnan(values)]
    return float(numbers.mean()) if len(numbers) else float("nan")
