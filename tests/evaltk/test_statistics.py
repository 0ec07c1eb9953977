"""Intervals and tests against scipy, statsmodels' printed values, plain loops, and simulated truth."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evaltk.errors import DataError, SettingsError
from evaltk.metrics import statistics
from evaltk.metrics.statistics import (
    bootstrap_interval,
    holm,
    mcnemar_exact,
    paired_bootstrap,
    spearman_permutation,
    wilson_interval,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def median(sample: np.ndarray) -> np.ndarray:
    return np.median(sample, axis=1)


def ratio(sample: np.ndarray) -> np.ndarray:
    return sample[..., 0].sum(axis=1) / sample[..., 1].sum(axis=1)


def expanded(n: int, confidence: float = 0.95) -> float:
    """The confidence at which a plain percentile interval has the tails of the expanded one."""
    z = math.sqrt(n / (n - 1)) * stats.t.isf((1 - confidence) / 2, n - 1)
    return float(1 - 2 * stats.norm.sf(z))


# --- Wilson


@pytest.mark.parametrize("n", [1, 2, 10, 1000, 50_000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_wilson_equals_scipy(n: int, confidence: float) -> None:
    for k in {0, 1, n // 3, n // 2, n - 1, n}:
        oracle = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
        assert wilson_interval(k, n, confidence) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(case: tuple[int, int]) -> None:
    k, n = case
    low, high = wilson_interval(k, n)
    assert 0 <= low <= k / n <= high <= 1
    mirrored = wilson_interval(n - k, n)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)


def test_wilson_covers_by_the_exact_binomial() -> None:
    """Its coverage of p, averaged over p: no simulation is needed, the binomial's weights tell."""
    n, shares = 100, np.linspace(0.02, 0.98, 97)
    ends = np.array([wilson_interval(k, n) for k in range(n + 1)])
    held = (ends[:, :1] <= shares) & (shares <= ends[:, 1:])
    coverage = (held * stats.binom.pmf(np.arange(n + 1)[:, None], n, shares)).sum(axis=0)
    assert abs(coverage.mean() - 0.95) < 0.005
    assert coverage.min() > 0.91


# --- bootstrap


@pytest.mark.parametrize(("method", "scipys"), [("bca", "BCa"), ("percentile", "percentile")])
@pytest.mark.parametrize("statistic", ["mean", median])
def test_bootstrap_equals_scipy(method: statistics.Method, scipys: str, statistic: statistics.Statistic) -> None:
    """Both draw at random: the ends agree to a few per cent of the interval's width."""
    x = rng(1).beta(0.7, 3, 60)
    ours = bootstrap_interval(x, statistic, rng=rng(2), method=method, resamples=20_000)
    of = np.mean if statistic == "mean" else np.median
    oracle = stats.bootstrap(
        (x,), of, n_resamples=20_000, method=scipys, rng=rng(3), confidence_level=expanded(60)
    ).confidence_interval
    width = oracle.high - oracle.low
    assert ours.value == pytest.approx(of(x))
    assert float(ours.low) == pytest.approx(oracle.low, abs=0.05 * width)
    assert float(ours.high) == pytest.approx(oracle.high, abs=0.05 * width)


def test_percentile_interval_is_a_plain_loop_on_the_same_draws() -> None:
    x = rng(1).random(15)
    ours = bootstrap_interval(x, rng=rng(2), method="percentile", resamples=400)
    index, means = rng(2).integers(15, size=(400, 15)), []
    for row in index:
        means.append(sum(x[i] for i in row) / 15)
    tail = (1 - expanded(15)) / 2
    assert (float(ours.low), float(ours.high)) == pytest.approx(tuple(np.quantile(means, [tail, 1 - tail])), abs=1e-12)


def test_bca_of_a_mean_by_the_book() -> None:
    """Bias and acceleration from loops (Efron 1987, eq. 2.3 and 6.6), at the levels they give."""
    x = rng(4).beta(0.5, 4, 25)
    means = x[rng(5).integers(25, size=(2000, 25))].mean(axis=1)
    bias = stats.norm.ppf(np.mean(means < x.mean()))
    left = np.array([np.delete(x, i).mean() for i in range(25)])
    d = left.mean() - left
    a = (d**3).sum() / (6 * (d**2).sum() ** 1.5)
    z = stats.norm.isf((1 - expanded(25)) / 2)
    levels = [stats.norm.cdf(bias + (bias + s) / (1 - a * (bias + s))) for s in (-z, z)]
    ours = bootstrap_interval(x, rng=rng(5), resamples=2000)
    assert (float(ours.low), float(ours.high)) == pytest.approx(tuple(np.quantile(means, levels)), abs=1e-9)


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda r, s: r.normal(0.5, 0.1, s), 0.5),
        (lambda r, s: r.beta(4, 2, s), 2 / 3),  # like J and F of objects
        (lambda r, s: r.beta(0.5, 3, s), 1 / 7),  # like average precisions of hard queries
    ],
)
@pytest.mark.parametrize("n", [30, 70])
def test_coverage(draw: Callable[..., np.ndarray], truth: float, n: int) -> None:
    """1,000 data sets, one a column: three standard errors are 2 %. The docstring's figures are of 6,000."""
    found = bootstrap_interval(draw(rng(n), (n, 1000)), rng=rng(1), resamples=1000)
    held = (found.low <= truth) & (truth <= found.high)
    assert 0.93 <= held.mean() <= 0.97


def test_columns_share_the_draws() -> None:
    x = rng().random((40, 3))
    both = bootstrap_interval(x, rng=rng(1), resamples=500)
    assert both.value.shape == both.low.shape == both.high.shape == both.p_value.shape == (3,)
    for column in range(3):
        one = bootstrap_interval(x[:, column], rng=rng(1), resamples=500)
        assert (both.low[column], both.high[column]) == pytest.approx((one.low, one.high), abs=1e-12)


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
    assert (float(found.low), float(found.high)) == pytest.approx((low, high), abs=1.1 / 2000)


def test_ratio_of_sums_over_sequences() -> None:
    """Sequences with unequal numbers of objects: as wide as the delta method says."""
    count = rng().integers(1, 6, 200)
    total = count * rng(1).beta(4, 2, 200)
    found = bootstrap_interval(np.stack([total, count], axis=1), ratio, rng=rng(2))
    value = total.sum() / count.sum()
    error = np.std(total - value * count, ddof=1) / (np.sqrt(200) * count.mean())
    assert float(found.value) == pytest.approx(value)
    assert float(found.high - found.low) == pytest.approx(2 * 1.972 * error, rel=0.05)


def test_undefined_resamples_are_not_averaged_away() -> None:
    x = np.array([[1.0, 1.0]] + [[0.0, 0.0]] * 9)
    with pytest.raises(DataError, match="undefined of"):
        bootstrap_interval(x, ratio, rng=rng())


# --- paired


def test_paired_difference_and_its_two_signs() -> None:
    a, b = rng().random(50), rng(1).random(50)
    one, other = (paired_bootstrap(*pair, rng=rng(2), resamples=2000) for pair in ((a, b), (b, a)))
    assert float(one.value) == pytest.approx(a.mean() - b.mean())
    assert float(one.p_value) == pytest.approx(float(other.p_value), rel=1e-6)
    assert (float(one.low), float(one.high)) == pytest.approx((-float(other.high), -float(other.low)), abs=1e-9)


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
    p = float(paired_bootstrap(a, b, rng=rng(2)).p_value)
    assert p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=0.2)
    mean = paired_bootstrap(a, b, lambda s: s.mean(axis=1), rng=rng(2))
    assert float(mean.p_value) == pytest.approx(p, rel=1e-6)
    columns = np.stack([rng(3).random(60), np.full(60, 2.0)], axis=1)
    same = paired_bootstrap(columns, columns, ratio, rng=rng(2))
    assert (float(same.value), float(same.p_value)) == (0, 1)


# --- McNemar, Holm, Spearman


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


def test_mcnemar_of_equals_is_one() -> None:
    a = rng().random(20) < 0.5
    assert mcnemar_exact(a, a) == 1.0


@pytest.mark.parametrize(
    ("p", "adjusted"),  # statsmodels 0.15.0: multipletests(p, method="holm")
    [
        ([0.01, 0.04, 0.03, 0.005, 0.04, 0.2, 1.0, 0.012], [0.07, 0.16, 0.15, 0.04, 0.16, 0.4, 1.0, 0.072]),
        ([0.0004, 0.0009, 0.032, 0.032, 0.6], [0.002, 0.0036, 0.096, 0.096, 0.6]),
        ([], []),
        ([0.7], [0.7]),
    ],
)
def test_holm_equals_statsmodels(p: list[float], adjusted: list[float]) -> None:
    np.testing.assert_allclose(holm(np.array(p)), adjusted, atol=1e-15)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=50)
def test_holm_steps_down_as_its_definition(p: list[float]) -> None:
    """Reject in order of size while p_(i) <= alpha / (K - i); adjusted <= alpha must say the same."""
    adjusted = holm(np.array(p))
    for alpha in (0.01, 0.05, 0.3):
        ranked = sorted(p)
        passed = list(itertools.takewhile(lambda pair: pair[1] * (len(p) - pair[0]) <= alpha, enumerate(ranked)))
        assert (adjusted <= alpha).sum() == len(passed)


def test_spearman_equals_scipy_and_all_orders() -> None:
    x, y = np.array([0.1, 0.4, 0.4, 0.7, 0.2, 0.9]), np.array([3.0, 1.0, 4.0, 5.0, 2.0, 5.0])
    found = spearman_permutation(x, y, rng=rng())
    oracle = stats.permutation_test(
        (x,),
        lambda s: stats.spearmanr(s, y).statistic,
        permutation_type="pairings",
        n_resamples=np.inf,
        vectorized=False,
    )
    assert found.exact
    assert found.rho == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert found.p_value == pytest.approx(oracle.pvalue, abs=1e-12)


def test_spearman_samples_orders_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rng().random(40)
    y = x + rng(1).normal(0, 0.8, 40)
    found = spearman_permutation(x, y, rng=rng(2), permutations=20_000)
    assert not found.exact
    assert found.p_value == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.01)
    monkeypatch.setattr(statistics, "BLOCK_BYTES", 1 << 14)
    assert spearman_permutation(x, y, rng=rng(2), permutations=20_000) == found
    assert spearman_permutation(x, x, rng=rng(2), permutations=99).p_value == 0.01  # never 0


# --- what a user can mend


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: wilson_interval(3, 2), SettingsError),
        (lambda: wilson_interval(0, 0), SettingsError),
        (lambda: wilson_interval(1, 2, 95), SettingsError),
        (lambda: bootstrap_interval(np.ones(9), rng=rng(), confidence=95), SettingsError),
        (lambda: bootstrap_interval(np.ones(9), rng=rng(), resamples=10), SettingsError),
        (lambda: bootstrap_interval(np.ones(9), rng=rng(), method="basic"), SettingsError),  # type: ignore[arg-type]
        (lambda: bootstrap_interval(np.ones(9), "mode", rng=rng()), SettingsError),  # type: ignore[arg-type]
        (lambda: paired_bootstrap(np.ones(9), np.ones(9), "mode", rng=rng()), SettingsError),  # type: ignore[arg-type]
        (lambda: bootstrap_interval(np.ones(1), rng=rng()), DataError),
        (lambda: bootstrap_interval(np.ones((2, 2, 2)), rng=rng()), DataError),
        (lambda: bootstrap_interval(np.array([1.0, np.nan]), rng=rng()), DataError),
        (lambda: paired_bootstrap(np.ones(9), np.ones(8), rng=rng()), DataError),
        (lambda: mcnemar_exact(np.ones(3), np.ones(3)), DataError),
        (lambda: mcnemar_exact(np.ones(3, bool), np.ones(4, bool)), DataError),
        (lambda: holm(np.array([0.1, np.nan])), DataError),
        (lambda: holm(np.array([1.1])), DataError),
        (lambda: spearman_permutation(np.arange(4.0), np.ones(4), rng=rng()), DataError),
        (lambda: spearman_permutation(np.arange(4.0), np.arange(5.0), rng=rng()), DataError),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"wanted .*; got .*; do: "):
        call()


def test_equal_items_have_an_interval_of_no_width() -> None:
    found = bootstrap_interval(np.full(20, 0.3), rng=rng())
    assert (float(found.low), float(found.high)) == pytest.approx((0.3, 0.3), abs=1e-12)
    same = paired_bootstrap(np.full(20, 0.3), np.full(20, 0.3), rng=rng())
    assert float(same.p_value) == 1.0


def test_import_needs_no_torch() -> None:
    code = "import sys, evaltk.metrics.statistics; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
