"""Intervals, paired comparisons and rank correlation of scores, by numpy and scipy; fractions in [0, 1].

Accuracies have `wilson_interval`; all else `bootstrap_interval` over the items drawn at random (images, queries,
sequences); a handful of splits `t_interval`. Two checkpoints on the same items: `mcnemar_exact` for accuracies,
`paired_bootstrap` for all else, `holm` over the comparisons of a table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from evaltk.errors import DataError, SettingsError, nearest

Statistic = Literal["mean", "ratio"] | Callable[[np.ndarray], np.ndarray]
BLOCK_BYTES = 1 << 26  # memory of the resamples held at a time; it changes no number
GROUPS = 256  # of items left out together where leaving out one by one would take N^2 time
_SUMS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {  # of column sums [..., C] of so many items
    "mean": lambda sums, n: sums / n,
    "ratio": lambda sums, n: sums[..., 0] / sums[..., 1],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A statistic, its interval, and the two-sided p-value that it is 0; each float64, [] (``float()`` takes it) or [K]."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """Rank correlation rho in [-1, 1], its two-sided p-value, and whether that comes from all orders (`exact`)."""

    rho: float
    p_value: float
    exact: bool


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high) in [0, 1] for a proportion: the score interval, without continuity correction.

    Raises: SettingsError: not 0 <= successes <= n, n < 1, or a confidence outside (0, 1).
    Source: Wilson, JASA 22 (1927).
    """
    _check(confidence)
    if n < 1 or not 0 <= successes <= n:
        raise SettingsError(wanted="0 <= successes <= n and n >= 1", got=f"{successes} of {n}", do="count again")
    z = float(stats.norm.isf((1 - confidence) / 2))
    share, spread = successes / n, z * z / n
    half = math.sqrt(spread * (share * (1 - share) + spread / 4))
    low, high = (share + spread / 2 - half) / (1 + spread), (share + spread / 2 + half) / (1 + spread)
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


def t_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high) of the mean of values [N], N >= 2, by Student's t: for a few splits or seeds, too few to resample.

    Raises: DataError: fewer than two values, or not finite. SettingsError: a confidence outside (0, 1).
    """
    _check(confidence)
    x = _items(values, dims=(1,))
    half = float(stats.t.isf((1 - confidence) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return float(x.mean()) - half, float(x.mean()) + half


def bootstrap_interval(
    values: np.ndarray,
    statistic: Statistic = "mean",
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 10_000,
    method: Literal["bca", "percentile"] = "bca",
) -> Estimate:
    """The statistic of N items and its interval over resamples of whole items.

    Args:
        values: [N] or [N, M], an item a row, N >= 2.
        statistic: ``mean`` (of each column); ``ratio``, the sum of column 0 over that of column 1, M = 2, for items of
            unequal size such as sequences with several objects; or a function of samples [B, N] or [B, N, M], giving
            [B] or [B, K].
        method: ``bca`` (bias-corrected, accelerated) or ``percentile``, which misses to one side where scores are skew,
            as average precisions are. Both widen the tails as Student's t does, for resamples of a small sample vary
            less than samples.

    Where all resamples agree the interval has no width: an accuracy of 1 needs `wilson_interval`.

    Raises: DataError: too few items, not finite, a statistic undefined on a resample. SettingsError: a bad setting.
    Source: Efron, JASA 82 (1987): BCa. Hesterberg, The American Statistician 69 (2015): the expanded tails.
    """
    items = _items(values, dims=(1, 2))
    if not isinstance(statistic, str):
        return _bootstrap(items, None, statistic, rng, confidence, resamples, method)
    return _bootstrap(items, _named(statistic, items), None, rng, confidence, resamples, method)


def paired_bootstrap(
    a: np.ndarray,
    b: np.ndarray,
    statistic: Statistic = "mean",
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 10_000,
    method: Literal["bca", "percentile"] = "bca",
) -> Estimate:
    """statistic(a) - statistic(b), where row i of both is the same item; items are resampled together.

    The p-value turns the interval about: p < 0.05 just where the 95 % interval leaves 0 out. It does not fall much
    below 2 / resamples.

    Args, Raises, Source: as for `bootstrap_interval`; and a DataError where the shapes of a and b differ.
    """
    first, second = _items(a, dims=(1, 2)), _items(b, dims=(1, 2))
    if first.shape != second.shape:
        got = f"{list(first.shape)} and {list(second.shape)}"
        raise DataError(wanted="the same items in both", got=got, do="compare results on one data set")
    if isinstance(statistic, str):
        of, wide = _named(statistic, first), first.reshape(len(first), -1).shape[1]
        if statistic == "mean":  # one column in place of two: fewer distinct rows, and the same number
            return _bootstrap(first - second, of, None, rng, confidence, resamples, method)
        both = np.concatenate([first, second], axis=1)
        sums = lambda s, n: of(s[..., :wide], n) - of(s[..., wide:], n)  # noqa: E731
        return _bootstrap(both, sums, None, rng, confidence, resamples, method)
    function = statistic
    pairs = np.stack([first, second], axis=1)
    difference = lambda sample: function(sample[:, :, 0]) - function(sample[:, :, 1])  # noqa: E731
    return _bootstrap(pairs, None, difference, rng, confidence, resamples, method)


def mcnemar_exact(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """Two-sided p-value that two classifiers are right equally often, from bool [N] each, on the same items.

    Only items that just one of them gets right count; 1 where there is none.

    Raises: DataError: not two bool vectors of one length.
    Source: McNemar, Psychometrika 12 (1947), with the exact binomial for chi-square.
    """
    a, b = np.asarray(correct_a), np.asarray(correct_b)
    if a.dtype != bool or b.dtype != bool or a.ndim != 1 or a.shape != b.shape:
        got = f"{a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}"
        raise DataError(wanted="two bool vectors of one length", got=got, do="compare predictions with labels first")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return min(1.0, 2 * float(stats.binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjusted p-values [K], in the order given: rejecting all <= alpha errs anywhere with a chance of alpha at most.

    Raises: DataError: not a vector of numbers in [0, 1].
    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):  # nan fails both
        raise DataError(wanted="a vector of p-values in [0, 1]", got=f"{p.tolist()}"[:80], do="leave out what has none")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def spearman_permutation(
    x: np.ndarray, y: np.ndarray, *, rng: np.random.Generator, permutations: int = 9_999
) -> Correlation:
    """Spearman's rho of x [N] and y [N] (ties share their mean rank) and its permutation p-value.

    All N! orders are tried where they are no more than `permutations`; else so many at random, the one seen added.

    Raises: DataError: lengths differ, fewer than two, not finite, or one of them constant.
    """
    first, second = _items(x, dims=(1,)), _items(y, dims=(1,))
    if first.shape != second.shape or np.ptp(first) == 0 or np.ptp(second) == 0:
        got = f"{len(first)} and {len(second)} values, {len(np.unique(first))} and {len(np.unique(second))} distinct"
        raise DataError(wanted="two vectors of one length that both vary", got=got, do="correlate what varies")
    u, v = (r / np.linalg.norm(r) for r in (stats.rankdata(first) - (len(first) + 1) / 2, stats.rankdata(second) - (len(second) + 1) / 2))
    n, rho = len(u), float(u @ v)
    exact = n <= 12 and math.factorial(n) <= permutations
    if exact:
        orders: Iterator[np.ndarray] = iter([u[np.array(list(itertools.permutations(range(n))))]])
    else:
        orders = (rng.permuted(np.tile(u, (size, 1)), axis=1) for size in _blocks(permutations, 16 * n))
    extreme = sum(int((np.abs(order @ v) >= abs(rho) - 1e-12).sum()) for order in orders)
    p = extreme / math.factorial(n) if exact else (1 + extreme) / (1 + permutations)
    return Correlation(rho=min(1.0, max(-1.0, rho)), p_value=p, exact=exact)
