"""Intervals and tests against scipy, statsmodels' printed values, plain loops, and simulated truth."""

from __future__ import annotations

import inspect
import itertools
import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from evaltk.errors import DataError, SettingsError
from evaltk.metrics import statistics
from evaltk.metrics.statistics import (
    Correlation,
    bootstrap_interval,
    holm,
    mcnemar_exact,
    paired_bootstrap,
    spearman_permutation,
)
from evaltk.metrics.sums import weighted

ONES = np.ones(9)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def median(sample: np.ndarray) -> np.ndarray:
    return np.median(sample, axis=1)


def ratio(sample: np.ndarray) -> np.ndarray:
    return sample[..., 0].sum(axis=1) / sample[..., 1].sum(axis=1)


def ends(found: statistics.Estimate) -> tuple[float, float]:
    return float(found.low), float(found.high)


def expanded(n: int, confidence: float = 0.95) -> float:
    """The confidence at which a plain percentile interval has the tails of the expanded one."""
    z = math.sqrt(n / (n - 1)) * stats.t.isf((1 - confidence) / 2, n - 1)
    return float(1 - 2 * stats.norm.sf(z))


@pytest.mark.parametrize("n", [1, 2, 10, 1000, 50_000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_wilson_equals_scipy(n: int, confidence: float) -> None:
    for k in {0, 1, n // 3, n // 2, n - 1, n}:
        oracle = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
        low, high = statistics.wilson_interval(k, n, confidence)
        assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=1e-12)
        assert (1 - high, 1 - low) == pytest.approx(statistics.wilson_interval(n - k, n, confidence), abs=1e-12)


def test_wilson_covers_by_the_exact_binomial() -> None:
    """Its coverage of p, averaged over p: no simulation is needed, the binomial's weights tell."""
    n, shares = 100, np.linspace(0.02, 0.98, 97)
    found = np.array([statistics.wilson_interval(k, n) for k in range(n + 1)])
    held = (found[:, :1] <= shares) & (shares <= found[:, 1:])
    coverage = (held * stats.binom.pmf(np.arange(n + 1)[:, None], n, shares)).sum(axis=0)
    assert abs(coverage.mean() - 0.95) < 0.005
    assert coverage.min() > 0.91


@pytest.mark.parametrize("method", ["BCa", "percentile"])
@pytest.mark.parametrize("statistic", ["mean", median])
def test_bootstrap_equals_scipy(method: str, statistic: statistics.Statistic) -> None:
    """Both draw at random: the ends agree to a few per cent of the interval's width."""
    x = rng(1).beta(0.7, 3, 60)
    ours = bootstrap_interval(x, statistic, rng=rng(2), method=method.lower(), resamples=20_000)  # type: ignore[arg-type]
    of = np.mean if statistic == "mean" else np.median
    draws = {"rng" if "rng" in inspect.signature(stats.bootstrap).parameters else "random_state": rng(3)}  # until 1.15
    oracle = stats.bootstrap((x,), of, n_resamples=20_000, method=method, confidence_level=expanded(60), **draws)
    low, high = oracle.confidence_interval
    assert float(ours.value) == pytest.approx(of(x))
    assert ends(ours) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_both_methods_are_plain_loops_on_the_same_draws() -> None:
    """Bias and acceleration from loops (Efron 1987, eq. 2.3 and 6.6), at the levels they give."""
    x = rng(4).beta(0.5, 4, 25)
    means = [sum(x[i] for i in row) / 25 for row in rng(5).integers(25, size=(2000, 25))]
    bias = stats.norm.ppf(np.mean(np.array(means) < x.mean()))
    left = np.array([np.delete(x, i).mean() for i in range(25)])
    d = left.mean() - left
    a = (d**3).sum() / (6 * (d**2).sum() ** 1.5)
    z = stats.norm.isf((1 - expanded(25)) / 2)
    levels = [stats.norm.cdf(bias + (bias + s) / (1 - a * (bias + s))) for s in (-z, z)]
    bca = bootstrap_interval(x, rng=rng(5), resamples=2000)
    assert ends(bca) == pytest.approx(tuple(np.quantile(means, levels)), abs=1e-9)
    columns = bootstrap_interval(np.stack([x * x, x], axis=1), rng=rng(5), resamples=2000)
    assert (columns.low[1], columns.high[1]) == pytest.approx(ends(bca), abs=1e-9)
    plain = bootstrap_interval(x, rng=rng(5), resamples=2000, method="percentile")
    assert ends(plain) == pytest.approx(tuple(np.quantile(means, stats.norm.cdf([-z, z]))), abs=1e-12)


@pytest.mark.parametrize(("a", "b", "n"), [(4, 2, 30), (0.5, 3, 30), (0.5, 3, 70), (50, 50, 70)])
def test_coverage(a: float, b: float, n: int) -> None:
    """Means of beta laws: like J of objects, like average precisions of hard queries, nearly normal.

    1,000 datasets, one a column: three standard errors are 2 %.
    """
    found, truth = bootstrap_interval(rng(n).beta(a, b, (n, 1000)), rng=rng(1), resamples=1000), a / (a + b)
    held = (found.low <= truth) & (truth <= found.high)
    assert 0.93 <= held.mean() <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("a", "b", "n"), [(4, 2, 30), (0.5, 3, 70), (50, 50, 70)])
def test_coverage_with_more_sets(a: float, b: float, n: int) -> None:
    """The same on 8,000 sets, where three standard errors are 0.7 %: between 94 and 96 %."""
    held = []
    for seed in range(8):
        found = bootstrap_interval(rng(100 * n + seed).beta(a, b, (n, 1000)), rng=rng(seed), resamples=2000)
        held.append((found.low <= a / (a + b)) & (a / (a + b) <= found.high))
    assert 0.94 <= np.mean(held) <= 0.96


@pytest.mark.parametrize("statistic", ["mean", median])
def test_memory_is_bounded_and_changes_no_number(
    monkeypatch: pytest.MonkeyPatch, statistic: statistics.Statistic
) -> None:
    x = rng().random(500)
    whole = bootstrap_interval(x, statistic, rng=rng(1), resamples=4000)
    monkeypatch.setattr(statistics, "BLOCK_BYTES", 1 << 18)
    tracemalloc.start()
    blocks = bootstrap_interval(x, statistic, rng=rng(1), resamples=4000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (blocks.low, blocks.high) == (whole.low, whole.high)
    assert peak < 4_000_000  # all at once would be 32 MB


def test_right_or_wrong_is_drawn_by_counts_with_the_same_law() -> None:
    """The quick way for few distinct values against the binomial it should follow."""
    x = rng().random(2000) < 0.7
    found = bootstrap_interval(x, rng=rng(1), method="percentile", resamples=50_000)
    tail = (1 - expanded(2000)) / 2
    low, high = stats.binom.ppf([tail, 1 - tail], 2000, x.mean()) / 2000
    assert ends(found) == pytest.approx((low, high), abs=1.1 / 2000)


def test_ratio_of_sums_over_sequences() -> None:
    """Sequences with unequal numbers of objects: as wide as the delta method says."""
    count = rng().integers(1, 6, 200)
    total = count * rng(1).beta(4, 2, 200)
    found = bootstrap_interval(np.stack([total, count], axis=1), ratio, rng=rng(2))
    value = total.sum() / count.sum()
    error = np.std(total - value * count, ddof=1) / (np.sqrt(200) * count.mean())
    assert float(found.value) == pytest.approx(value)
    assert float(found.high - found.low) == pytest.approx(2 * 1.972 * error, rel=0.05)


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.04, 0.06, 0.1])
def test_p_value_is_the_interval_turned_about(shift: float) -> None:
    b = rng(3).random((40, 50))
    found = paired_bootstrap(b + rng(4).normal(shift, 0.2, b.shape), b, rng=rng(5), resamples=3000)
    clear = np.abs(found.p_value - 0.05) > 0.002  # nearer than that, quantiles between two draws decide
    outside = (found.low > 0) | (found.high < 0)
    np.testing.assert_array_equal(outside[clear], found.p_value[clear] < 0.05)


def test_no_difference_is_found_as_often_as_said() -> None:
    item = rng(6).beta(0.5, 3, (70, 1000))
    a, b = (item + rng(s).normal(0, 0.05, item.shape) for s in (7, 8))
    p = paired_bootstrap(a, b, rng=rng(9), resamples=1000).p_value
    assert 0.03 <= (p < 0.05).mean() <= 0.07
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_paired_p_is_near_the_t_test_and_functions_may_be_paired() -> None:
    a, b = rng(1).normal(0.05, 0.2, 60), np.zeros(60)
    found, other = paired_bootstrap(a, b, rng=rng(2)), paired_bootstrap(b, a, rng=rng(2))
    p = float(found.p_value)
    assert p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=0.2)
    assert float(other.p_value) == pytest.approx(p, rel=1e-6)
    assert float(other.low) == pytest.approx(-float(found.high))
    mean = paired_bootstrap(a, b, lambda s: s.mean(axis=1), rng=rng(2))
    assert float(mean.p_value) == pytest.approx(p, rel=1e-6)
    columns = np.stack([rng(3).random(60), np.full(60, 2.0)], axis=1)
    same = paired_bootstrap(columns, columns, ratio, rng=rng(2))
    assert (float(same.value), float(same.p_value)) == (0, 1)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),  # statsmodels 0.15.0: mcnemar(table, exact=True).pvalue
    [(8, 21, 0.0241195447742939), (121, 59, 4.4344492637551645e-06), (5, 5, 1.0), (0, 1, 1.0), (0, 9, 0.00390625)],
)
def test_mcnemar_equals_statsmodels_and_scipy(only_a: int, only_b: int, p: float) -> None:
    a = np.array([True] * only_a + [False] * only_b + [True] * 30 + [False] * 7)
    b = np.array([False] * only_a + [True] * only_b + [True] * 30 + [False] * 7)
    order = rng().permutation(len(a))
    assert mcnemar_exact(a[order], b[order]) == pytest.approx(p, rel=1e-12)
    assert mcnemar_exact(b, a) == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue, rel=1e-12)
    assert mcnemar_exact(a, a) == 1.0


@pytest.mark.parametrize(
    ("p", "adjusted"),  # statsmodels 0.15.0: multipletests(p, method="holm")
    [
        ([0.01, 0.04, 0.03, 0.005, 0.04, 0.2, 1.0, 0.012], [0.07, 0.16, 0.15, 0.04, 0.16, 0.4, 1.0, 0.072]),
        ([0.0004, 0.0009, 0.032, 0.032, 0.6], [0.002, 0.0036, 0.096, 0.096, 0.6]),
        ([], []),
    ],
)
def test_holm_equals_statsmodels(p: list[float], adjusted: list[float]) -> None:
    np.testing.assert_allclose(holm(np.array(p)), adjusted, atol=1e-15)


def test_holm_steps_down_as_its_definition() -> None:
    """Reject in order of size while p_(i) <= alpha / (K - i); adjusted <= alpha must say the same."""
    for p in rng().random((200, 6)) ** 3:
        steps = [value * (6 - i) <= 0.05 for i, value in enumerate(sorted(p))] + [False]
        assert (holm(p) <= 0.05).sum() == steps.index(False)


def test_spearman_equals_scipy_and_all_orders() -> None:
    x, y = np.array([0.1, 0.4, 0.4, 0.7, 0.2, 0.9]), np.array([3.0, 1.0, 4.0, 5.0, 2.0, 5.0])
    found = spearman_permutation(x, y, rng=rng())
    rhos = np.array([stats.spearmanr(order, y).statistic for order in itertools.permutations(x)])
    assert found.exact
    assert found.rho == pytest.approx(rhos[0], abs=1e-12)
    assert found.p_value == np.mean(np.abs(rhos) >= abs(rhos[0]) - 1e-9)


def test_spearman_samples_orders_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rng().random(40)
    y = x + rng(1).normal(0, 0.8, 40)
    found = spearman_permutation(x, y, rng=rng(2), permutations=20_000)
    assert not found.exact
    assert found.p_value == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.01)
    monkeypatch.setattr(statistics, "BLOCK_BYTES", 1 << 14)
    assert spearman_permutation(x, y, rng=rng(2), permutations=20_000) == found
    assert spearman_permutation(x, x, rng=rng(2), permutations=99).p_value == 0.01  # never 0


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (SettingsError, lambda: statistics.wilson_interval(3, 2)),
        (SettingsError, lambda: bootstrap_interval(ONES, rng=rng(), confidence=95)),
        (SettingsError, lambda: bootstrap_interval(ONES, rng=rng(), resamples=10)),
        (SettingsError, lambda: bootstrap_interval(ONES, rng=rng(), method="basic")),  # type: ignore[arg-type]
        (SettingsError, lambda: bootstrap_interval(ONES, "mode", rng=rng())),  # type: ignore[arg-type]
        (SettingsError, lambda: paired_bootstrap(ONES, ONES, "mode", rng=rng())),  # type: ignore[arg-type]
        (DataError, lambda: bootstrap_interval(ONES[:1], rng=rng())),
        (DataError, lambda: bootstrap_interval(np.array([1.0, np.nan]), rng=rng())),
        (DataError, lambda: bootstrap_interval(np.eye(9)[:, :2], ratio, rng=rng())),  # 0 / 0 in some resamples
        (DataError, lambda: paired_bootstrap(ONES, ONES[1:], rng=rng())),
        (DataError, lambda: mcnemar_exact(ONES, ONES)),
        (DataError, lambda: holm(np.array([0.1, np.nan]))),
        (DataError, lambda: spearman_permutation(np.arange(9.0), ONES, rng=rng())),
        (DataError, lambda: spearman_permutation(np.arange(4.0), np.arange(5.0), rng=rng())),
    ],
)
def test_bad_input_is_named(kind: type[Exception], call: Callable[[], object]) -> None:
    with pytest.raises(kind, match=r"wanted .*; got .*; do: "):
        call()


def test_equal_items_have_an_interval_of_no_width() -> None:
    found = bootstrap_interval(np.full(20, 0.3), rng=rng())
    assert ends(found) == pytest.approx((0.3, 0.3), abs=1e-12)


def test_rank_correlation_is_exact_in_every_order_of_the_items() -> None:
    """Sums of whole numbers: the same bits, and the same orders counted as extreme, however the items stand."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 40, 500).astype(float), rng.integers(0, 2, 500).astype(float)
    whole = spearman_permutation(x, y, rng=np.random.default_rng(1), permutations=50)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(500)
        assert spearman_permutation(x[order], y[order], rng=np.random.default_rng(1), permutations=50).rho == whole.rho
    up = np.arange(8.0)
    # Of 8! orders only the one seen and its reverse are as extreme.
    assert spearman_permutation(up, -up, rng=rng, permutations=40_320) == Correlation(
        rho=-1.0, p_value=2 / 40_320, exact=True
    )


def test_resampled_means_of_few_values_are_sums_in_one_order() -> None:
    """The resamples of 0.1, 0.2 and 0.7, in two columns, in blocks of any size: the same bits."""
    counts = np.random.default_rng(0).multinomial(90, [0.2, 0.3, 0.5], size=400)
    values = np.array([[0.1, 1], [0.2, 0], [0.7, 0]])
    found = weighted(counts, values)
    assert found.shape == (400, 2)
    np.testing.assert_array_equal(found, np.concatenate([weighted(part, values) for part in np.split(counts, 100)]))
    np.testing.assert_array_equal(found[:, 0], weighted(counts, values[:, 0]))
    np.testing.assert_allclose(found, counts @ values, rtol=1e-14)  # a matrix product's order is the library's
