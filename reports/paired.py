"""Two checkpoints on the same items: how far apart they are, and whether that could be chance; bold by these tests.

Values item by item lie in the predictions files beside results; a layout's `items` say in which arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaltk import results
from evaltk.errors import DataError, StorageError
from evaltk.types import Result, Score
from reports.layouts import Items

Arrays = Mapping[str, np.ndarray]
# What a table calls to see a result's values item by item: {} where they are not there.
Predictions = Callable[[Result, Sequence[str]], Arrays]
ALPHA = 0.05
MOST = 50  # rows of a column above which nothing is tested: what is best among so many is no finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One score's values by item.

    Attributes:
        values: [N] float64 in [0, 1], or bool where they are right or wrong; within groups: [G, 2], sum and number.
        same: digests of what two samples must share for their items to be the same.
    """

    values: np.ndarray
    same: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first minus the second, as a fraction: interval of 95 %, p-value, the test's name, number of items."""

    value: float
    low: float
    high: float
    p_value: float
    test: str
    n: int


def beside(found: Sequence[tuple[Path, Result]], complain: Callable[[StorageError], object]) -> Predictions:
    """The predictions beside result files; damaged ones count as missing, after a complaint."""
    paths = {id(result): path for path, result in found}
    last: dict[Path, dict[str, np.ndarray]] = {}  # of the result asked for last: its columns ask one after the other

    def read(result: Result, names: Sequence[str]) -> Arrays:
        path = paths.get(id(result))
        if path is None:
            return {}
        if path not in last:
            last.clear()
            last[path] = {}
        if missing := [name for name in names if name not in last[path]]:
            try:
                last[path] |= results.read_predictions(path, missing)
            except StorageError as error:
                complain(error)
        return last[path]

    return read


def sample(spec: Items | None, score: Score, result: Result, predictions: Predictions | None) -> Sample | None:
    """The values behind a score; None where they were not kept, or are not those of the score."""
    if spec is None or predictions is None:
        return None
    try:
        name = (spec.predicted or spec.values).format(**{**score.at, "metric": score.metric})
    except KeyError:  # the score does not say at which settings it holds
        return None
    beside_it = [*spec.same, *([spec.target] if spec.predicted else []), *([spec.within] if spec.within else [])]
    arrays = predictions(result, [name, *beside_it])
    if any(key not in arrays for key in (name, *beside_it)):
        return None
    if any(arrays[key].ndim != 1 or len(arrays[key]) != len(arrays[name]) for key in (name, *beside_it)):
        return None
    kinds = {arrays[key].dtype.kind.replace("u", "i") for key in ([name, spec.target] if spec.predicted else [name])}
    if len(kinds) > 1 or not kinds <= {*("iUS" if spec.predicted else "ifb")}:
        return None
    values = arrays[name] == arrays[spec.target] if spec.predicted else arrays[name].astype(np.float64)
    same = tuple(_digest(arrays[key]) for key in beside_it)
    if spec.within:
        values = _grouped(values, arrays[spec.within])
    return Sample(values=values, same=same) if _agrees(values, score) else None


def difference(a: Sample | None, b: Sample | None) -> Difference | None:
    """How two samples of the same items differ; None where one is missing, or their items are not the same.

    McNemar's exact test where items are right or wrong, else the paired bootstrap, which gives the interval of both.
    """
    if a is None or b is None or not _same_items(a, b):
        return None
    from evaltk.metrics import statistics

    x, y = a.values, b.values
    if x.ndim == 1 and x.dtype != bool:
        x, y = x[~np.isnan(x)], y[~np.isnan(y)]
    rng = np.random.default_rng(0)
    try:
        if x.ndim == 2:
            found = statistics.paired_bootstrap(x, y, _share, rng=rng)
        else:
            found = statistics.paired_bootstrap(x.astype(float), y.astype(float), rng=rng)
    except DataError:  # one item
        return None
    exact = x.ndim == 1 and all(np.isin(part, (0, 1)).all() for part in (x, y))  # right or wrong
    p = statistics.mcnemar_exact(x == 1, y == 1) if exact else float(found.p_value)
    return Difference(
        value=float(found.value),
        low=float(found.low),
        high=float(found.high),
        p_value=p,
        test="McNemar" if exact else "bootstrap",
        n=len(x),
    )


def interval(one: Sample | None) -> tuple[float, float] | None:
    """A 95 % interval from the values alone: Wilson's for right or wrong, else the bootstrap's."""
    if one is None:
        return None
    from evaltk.metrics import statistics

    x = one.values
    if x.dtype == bool:
        return statistics.wilson_interval(int(x.sum()), len(x)) if len(x) else None
    rng = np.random.default_rng(0)
    try:
        kept = x if x.ndim == 2 else x[~np.isnan(x)]
        found = statistics.bootstrap_interval(kept, _share if x.ndim == 2 else "mean", rng=rng)
    except DataError:
        return None
    return float(found.low), float(found.high)


def best(
    columns: Mapping[int, Mapping[int, tuple[float, Sample | None]]],
) -> tuple[set[tuple[int, int]], list[tuple[int, int]]]:
    """Which cells are best or not to be told from it, over columns {number: {row: (value, values by item)}} of a table.

    Every other row of a column is compared with its best; Holm's correction goes over all comparisons of all columns.
    A column of one row has no best; one in which a comparison cannot be made claims none.

    Returns: {(column, row)}, and for the columns without a claim (column, the row that cannot be compared).
    """
    compared: list[tuple[int, int, float]] = []
    tops: dict[int, int] = {}
    silent: list[tuple[int, int]] = []
    for c, column in columns.items():
        if len(column) < 2:
            continue
        top = max(column, key=lambda row: (column[row][0], -row))
        found = {row: p_value(column[top][1], column[row][1]) for row in column if row != top}
        failed = [row for row, p in found.items() if p is None]
        if failed:
            silent.append((c, top if column[top][1] is None else failed[0]))
            continue
        tops[c] = top
        compared += [(c, row, p) for row, p in found.items() if p is not None]
    if not compared:
        return set(), silent
    from evaltk.metrics import statistics  # scipy takes half a second to import, and most tables need no test

    adjusted = statistics.holm(np.array([p for _, _, p in compared]))
    marked = set(tops.items())
    marked |= {(c, row) for (c, row, _), p in zip(compared, adjusted, strict=True) if p > ALPHA}
    return marked, silent


def p_value(a: Sample | None, b: Sample | None) -> float | None:
    """As `difference`, the p-value alone: McNemar's test needs no resampling."""
    if a is not None and b is not None and a.values.dtype == bool and _same_items(a, b):
        from evaltk.metrics import statistics

        return statistics.mcnemar_exact(a.values, b.values)
    found = difference(a, b)
    return None if found is None else found.p_value


def _digest(array: np.ndarray) -> bytes:
    told = f"{array.dtype.kind}{array.shape}".encode()
    return hashlib.blake2b(told + np.ascontiguousarray(array).tobytes(), digest_size=16).digest()


def _same_items(a: Sample, b: Sample) -> bool:
    """Whether both have values of one kind for the very same items."""
    x, y = a.values, b.values
    if a.same != b.same or x.shape != y.shape or x.dtype != y.dtype:
        return False
    return x.dtype == bool or np.array_equal(np.isnan(x), np.isnan(y))


def _share(items: np.ndarray) -> np.ndarray:
    return np.asarray(items[..., 0].sum(axis=1) / items[..., 1].sum(axis=1))


def _grouped(values: np.ndarray, within: np.ndarray) -> np.ndarray:
    names, group = np.unique(within, return_inverse=True)
    sums = np.bincount(group, weights=values.astype(np.float64), minlength=len(names))
    return np.stack([sums, np.bincount(group, minlength=len(names))], axis=1)


def _agrees(values: np.ndarray, score: Score) -> bool:
    """Whether the values give the score: predictions of another run beside a result would test something else."""
    known = values if values.dtype == bool or values.ndim == 2 else values[~np.isnan(values)]
    if not len(known):
        return False
    mean = _share(known[None])[0] if known.ndim == 2 else known.mean()
    return bool(abs(mean - score.value) <= 1e-6)
