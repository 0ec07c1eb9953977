"""Scores of image retrieval as the revisited Oxford and Paris benchmarks define them: mAP and mP@k.

Each query has easy and hard positives and junk. What a difficulty ignores is taken out of the ranking first; average
precision is then the area under the precision-recall curve by trapezoids, which is not scikit-learn's. With 0-based
ranks r_0 < r_1 < ... of the positives found among n:
AP = sum_j (j / r_j + (j + 1) / (r_j + 1)) / (2 n), the first term 1 where r_j = 0.
Source: Radenovic et al. 2018 (arXiv 1803.11285), section 3; revisitop python/evaluate.py:3-111 and
python/example_evaluate.py:56-83 at be39832.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from evaltk import cores
from evaltk.errors import DataError

LONG = 1_000_000  # ranks from which threads over queries pay; numpy lets go of the interpreter's lock in its passes
KS = (1, 5, 10)
# {difficulty: (what is positive, what is ignored)}
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

    Queries without a positive of a difficulty are left out of its means; where none has one, the means are NaN.

    Args:
        ranks: integer [Q, N], each row the database's indices from the best match on; N may be less than the database
            (what is not ranked is not found).
        gnd: Q mappings with the keys easy, hard and junk, lists of database indices that do not overlap.
        num_database: images in the database; unless given, the least that N and gnd allow.

    Raises: DataError: an index outside the database, one twice in a ranking, overlapping or missing lists.
    """
    return {
        difficulty: {f"m{name}": _mean(values) for name, values in scores.items()}
        for difficulty, scores in per_query(ranks, gnd, num_database=num_database).items()
    }


def per_query(
    ranks: Any, gnd: Sequence[Mapping[str, Any]], *, num_database: int | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """{difficulty: {"ap", "p@1", "p@5", "p@10"}}, each [Q] float64 in [0, 1], NaN where a query has no positive.

    P@k is taken at min(k, rank of the last positive found); where none is found, AP and P@k are 0.
    Arguments and errors are those of `evaluate`.
    """
    ranks = np.asarray(ranks)
    if ranks.ndim != 2 or ranks.dtype.kind not in "iu" or len(ranks) != len(gnd) or not ranks.size:
        turned = ranks.ndim == 2 and ranks.shape[1] == len(gnd)
        raise DataError(
            wanted=f"integer ranks [queries, ranked], {len(gnd)} queries as in the ground truth",
            got=f"{list(ranks.shape)} {ranks.dtype}",
            where="ranks",
            do="transpose them (the original has [database, queries])" if turned else "give one ranking a query",
        )
    truth = checked_truth(gnd, num_database)
    least = max(ranks.shape[1], *(int(lists[label].max(initial=-1)) + 1 for lists in truth for label in LABELS))
    size = least if num_database is None else num_database
    found = {d: {name: np.full(len(gnd), np.nan) for name in ("ap", *(f"p@{k}" for k in KS))} for d in DIFFICULTIES}
    queries = range(len(gnd))
    with ThreadPoolExecutor(cores.usable() if ranks.size > LONG else 1) as pool:
        places = list(pool.map(lambda query: _positions(ranks[query], truth[query], size, query), queries))
    for query, (lists, at) in enumerate(zip(truth, places, strict=True)):
        for difficulty, (positive, ignored) in DIFFICULTIES.items():
            if num_positives := sum(len(lists[label]) for label in positive):
                clean = _clean_ranks([at[label] for label in positive], [at[label] for label in ignored])
                found[difficulty]["ap"][query] = average_precision(clean, num_positives)
                for k in KS:
                    found[difficulty][f"p@{k}"][query] = _precision(clean, k)
    return found


def average_precision(ranks: np.ndarray, num_positives: int) -> float:
    """Trapezoid AP in [0, 1] from the ascending 0-based ranks [R] of the positives found, R <= num_positives >= 1."""
    ranks = np.asarray(ranks, dtype=np.int64)
    found = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, found / np.maximum(ranks, 1))
    return float(np.sum(before + (found + 1) / (ranks + 1)) / (2 * num_positives))


def checked_truth(
    gnd: Sequence[Mapping[str, Any]], num_database: int | None = None, *, source: object = "gnd"
) -> list[dict[str, np.ndarray]]:
    """The lists easy, hard and junk of each query as int64 [n].

    Raises: DataError: a key missing, not indices, outside the database, or twice in one query's lists.
    """
    found = []
    for query, entry in enumerate(gnd):
        where = f"{source}, query {query}"
        if not isinstance(entry, Mapping) or (missing := [label for label in LABELS if label not in entry]):
            got = f"no {', '.join(missing)}" if isinstance(entry, Mapping) else type(entry).__name__
            raise DataError(wanted="the lists easy, hard and junk of a query", got=got, where=where)
        lists = {label: _indices(entry[label], f"{where}, {label}") for label in LABELS}
        every = np.concatenate(list(lists.values()))
        if len(every) and (every.min() < 0 or (num_database is not None and every.max() >= num_database)):
            wanted = "indices into the database" + (f" of {num_database}" if num_database is not None else "")
            raise DataError(wanted=wanted, got=str(every.min() if every.min() < 0 else every.max()), where=where)
        values, counts = np.unique(every, return_counts=True)
        if len(values) < len(every):
            raise DataError(
                wanted="each image once among easy, hard and junk",
                got=f"image {values[counts > 1][0]} twice",
                where=where,
            )
        found.append(lists)
    return found


def _indices(values: Any, where: str) -> np.ndarray:
    try:
        found = np.asarray(values)
    except ValueError:  # a ragged list
        found = np.empty((0, 0))
    if found.ndim == 1 and not len(found):
        return np.empty(0, dtype=np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise DataError(wanted="a list of database indices", got=repr(values)[:60], where=where)
    return found.astype(np.int64)


def _positions(row: np.ndarray, lists: Mapping[str, np.ndarray], size: int, query: int) -> dict[str, np.ndarray]:
    """{label: ascending positions in the ranking `row` [N] of the images so labelled}, after the row's own checks."""
    where = f"ranks, query {query}"
    if row.min() < 0 or row.max() >= size:
        raise DataError(
            wanted=f"indices into a database of {size}",
            got=str(row.min() if row.min() < 0 else row.max()),
            where=where,
            do="give num_database where the rankings are not complete",
        )
    # Random access is the cost of a long ranking: one byte an image stays in the cache, one place an image does not.
    row = row.astype(np.intp, copy=False)
    seen = np.zeros(size, dtype=np.bool_)
    for label in LABELS:
        seen[lists[label]] = True
    at = np.flatnonzero(seen.take(row))
    seen[:] = False
    seen[row] = True
    if np.count_nonzero(seen) < len(row):
        values, counts = np.unique(row, return_counts=True)
        raise DataError(wanted="each image once in a ranking", got=f"image {values[counts > 1][0]} twice", where=where)
    return {label: at[np.isin(row[at], lists[label])] for label in LABELS}


def _clean_ranks(positive: list[np.ndarray], ignored: list[np.ndarray]) -> np.ndarray:
    """Ascending 0-based ranks of the positives once the ignored images are taken out of the ranking."""
    ranks = np.sort(np.concatenate(positive))
    return ranks - np.searchsorted(np.sort(np.concatenate(ignored)), ranks)


def _precision(ranks: np.ndarray, k: int) -> float:
    if not len(ranks):
        return 0.0
    depth = min(k, int(ranks[-1]) + 1)
    return float(np.count_nonzero(ranks < depth)) / depth


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
