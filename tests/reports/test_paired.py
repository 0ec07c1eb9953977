"""Bold and paired tests: from predictions on the same items alone, by scipy's tests and Holm's correction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from result_files import BF16, knn, made, predicted, write
from scipy import stats

from evaltk import results
from evaltk.errors import SettingsError, StorageError
from evaltk.types import Result, Score
from reports import layouts, paired
from reports.paired import Sample
from reports.table import Table
from reports.tables.build import build_tables

KNN, COMPARE = layouts.load("knn"), layouts.load("compare")
N = 400


def right(share: float, seed: int = 0) -> np.ndarray:
    """[N] bool, exactly so many of them right."""
    found = np.arange(N) < round(share * N)
    return np.random.default_rng(seed).permutation(found)


def table_of(folder: Path, pairs: list[tuple[Result, dict]]) -> Table:
    found = write(folder, pairs)
    complaints: list[StorageError] = []
    (table,) = build_tables(KNN, [r for _, r in found], predictions=paired.beside(found, complaints.append))
    return table


def bold(table: Table) -> dict[str, list[str]]:
    """{column: labels of its bold cells}."""
    return {title: [label for label, cells in table.rows if cells[c].bold] for c, title in enumerate(table.columns)}


def flipped(base: np.ndarray, lost: int, won: int) -> np.ndarray:
    """As `base`, but so many of the right ones wrong, and so many of the wrong ones right."""
    other = base.copy()
    other[np.flatnonzero(base)[:lost]] = False
    other[np.flatnonzero(~base)[:won]] = True
    return other


def test_best_and_what_cannot_be_told_from_it(tmp_path: Path) -> None:
    base = right(0.8)
    table = table_of(
        tmp_path,
        [predicted("best", base), predicted("near", flipped(base, 12, 5)), predicted("far", flipped(base, 60, 5))],
    )
    assert bold(table) == {"k=20": [], "best k": ["best", "near"]}  # the sweep's points are not tested beside it
    assert "bold: best, or not significantly different (p > 0.05, Holm)" in table.legend


def test_holms_correction_goes_over_the_whole_table(tmp_path: Path) -> None:
    """12 lost, 2 won: p = 0.013, below 0.05 alone, but not among four."""
    base = right(0.8)
    near = flipped(base, 12, 2)
    assert stats.binomtest(2, 14).pvalue == pytest.approx(0.01293, abs=1e-5)
    two = table_of(tmp_path / "two", [predicted("best", base), predicted("near", near)])
    assert bold(two)["best k"] == ["best"]
    more = [predicted(f"near {i}", near) for i in range(4)]
    five = table_of(tmp_path / "five", [predicted("best", base), *more])
    assert bold(five)["best k"] == ["best", *(f"near {i}" for i in range(4))]


def test_a_sweep_alone_is_tested(tmp_path: Path) -> None:
    found = write(tmp_path, [predicted("best", right(0.8)), predicted("far", flipped(right(0.8), 60, 5))])
    bare = replace(KNN, extra=())
    read = paired.beside(found, lambda error: None)
    (table,) = build_tables(bare, [r for _, r in found], predictions=read)
    assert bold(table) == {"k=20": ["best"]}


def test_without_predictions_nothing_is_claimed(tmp_path: Path) -> None:
    base = right(0.8)
    lost, _ = predicted("lost", flipped(base, 60, 0))
    table = table_of(tmp_path, [predicted("best", base), (lost, {})])
    assert not any(bold(table).values())
    assert any("no significance test in best k: predictions of lost missing" in note for note in table.footnotes)


def test_other_items_are_never_compared(tmp_path: Path) -> None:
    base = right(0.8)
    other = predicted("other", flipped(base, 60, 0), target=np.arange(N))
    table = table_of(tmp_path, [predicted("best", base), other])
    assert not any(bold(table).values())


def test_predictions_that_do_not_give_the_score_count_as_missing(tmp_path: Path) -> None:
    result, arrays = predicted("best", right(0.8))
    table = table_of(tmp_path, [(result, {**arrays, "k20_t0.07": arrays["target"]}), predicted("b", right(0.5))])
    assert not any(bold(table).values())


def test_damaged_predictions_are_missing_and_told(tmp_path: Path) -> None:
    found = write(tmp_path, [predicted("a", right(0.8)), predicted("b", right(0.5))])
    results.predictions_path(found[0][0]).write_bytes(b"PK\3\4 cut")
    said: list[StorageError] = []
    (table,) = build_tables(KNN, [r for _, r in found], predictions=paired.beside(found, said.append))
    assert not any(bold(table).values()) and "predictions of a result" in str(said[0])


def test_one_row_has_no_best_and_without_predictions_nothing_is_said(tmp_path: Path) -> None:
    assert not any(bold(table_of(tmp_path, [predicted("a", right(0.8))])).values())
    (table,) = build_tables(KNN, [knn("a"), knn("b")])
    assert not any(bold(table).values()) and not any("bold" in note for note in (*table.footnotes, *table.legend))


def test_too_many_rows_are_not_tested(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paired, "MOST", 2)
    table = table_of(tmp_path, [predicted(name, right(0.8)) for name in "abc"])
    assert not any(bold(table).values())
    assert "no significance test in columns with more than 2 checkpoints" in table.footnotes


def test_an_interval_comes_from_the_items_where_the_score_has_none(tmp_path: Path) -> None:
    scores = [
        Score(dataset="digits", split="val", metric="top1_best_k", value=0.8, n=N, at={"k": 20, "temperature": 0.07})
    ]
    bare = made("bare", "knn", "digits", scores)
    _, arrays = predicted("bare", right(0.8))
    (cells,) = [cells for _, cells in table_of(tmp_path / "with", [(bare, arrays)]).rows]
    oracle = stats.binomtest(320, N).proportion_ci(method="wilson")
    assert cells[-1].interval == pytest.approx((oracle.low, oracle.high))
    table = table_of(tmp_path / "without", [(bare, {})])
    assert table.rows[0][1][-1].interval is None
    assert "no interval for bare: no predictions file" in table.footnotes


def scored(name: str, per_query: np.ndarray) -> tuple[Result, dict]:
    known = per_query[~np.isnan(per_query)]
    scores = [Score(dataset="rparis6k", split="queries", metric="hard_mAP", value=float(known.mean()), n=len(known))]
    arrays = {"hard_ap": per_query, "query": np.array([f"q{i}" for i in range(len(per_query))])}
    return made(name, "retrieval", "rparis6k", scores), arrays


def test_retrieval_by_query(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    a = rng.beta(2, 3, 70)
    a[[3, 9]] = np.nan  # queries without a positive of this difficulty
    near, far = a + rng.normal(-0.001, 0.03, 70), a + rng.normal(-0.05, 0.03, 70)
    found = write(tmp_path, [scored("best", a), scored("near", near), scored("far", far)])
    read = paired.beside(found, lambda error: None)
    (table,) = build_tables(layouts.load("retrieval"), [r for _, r in found], predictions=read)
    assert bold(table)["H mAP"] == ["best", "near"]
    samples = {
        str(r.checkpoint["name"]): paired.sample(
            layouts.protocols()["retrieval"].items_of("hard_mAP"), r.scores[0], r, read
        )
        for _, r in found
    }
    difference = paired.difference(samples["best"], samples["far"])
    kept = ~np.isnan(a)
    t = stats.ttest_rel(a[kept], far[kept])
    low, high = t.confidence_interval()
    assert difference is not None and difference.n == 68 and difference.test == "bootstrap"
    assert difference.value == pytest.approx((a - far)[kept].mean())
    assert (difference.low, difference.high) == pytest.approx((low, high), abs=0.15 * (high - low))
    other = paired.sample(
        layouts.protocols()["retrieval"].items_of("hard_mAP"), found[0][1].scores[0], found[0][1], read
    )
    assert other is not None
    assert paired.difference(Sample(values=np.nan_to_num(a), same=other.same), other) is None


def test_one_item_has_no_interval_and_that_is_said(tmp_path: Path) -> None:
    found = write(tmp_path, [scored("alone", np.array([0.5]))])
    read = paired.beside(found, lambda error: None)
    (table,) = build_tables(layouts.load("retrieval"), [r for _, r in found], predictions=read)
    assert all(cell.interval is None for _, row in table.rows for cell in row)
    assert "no interval for alone: too few items" in table.footnotes


def test_video_objects_are_resampled_by_sequence(tmp_path: Path) -> None:
    """Objects of one sequence rise and fall together: 40 copies of 5 sequences are five items, not two hundred."""
    sequences = np.repeat([f"s{i}" for i in range(5)], 40)
    base = np.repeat([0.5, 0.6, 0.7, 0.4, 0.8], 40)
    shift = np.repeat([-0.10, 0.05, -0.08, 0.06, -0.02], 40)

    def of(name: str, values: np.ndarray) -> tuple[Result, dict]:
        scores = [Score(dataset="davis2017", split="val", metric="J", value=float(values.mean()), n=200)]
        arrays = {"J": values, "sequence": sequences, "object": np.arange(200).astype(str)}
        return made(name, "vos", "davis2017", scores), arrays

    found = write(tmp_path, [of("a", base), of("b", base + shift)])
    read = paired.beside(found, lambda error: None)
    (table,) = build_tables(layouts.load("vos"), [r for _, r in found], predictions=read)
    assert bold(table)["J"] == ["a", "b"]
    assert stats.ttest_rel(base, base + shift).pvalue < 1e-3  # what objects as items would have said


def test_compare(tmp_path: Path) -> None:
    base = right(0.8)
    other = flipped(base, 30, 8)
    found = write(tmp_path, [predicted("a", base), predicted("b", other)])
    read = paired.beside(found, lambda error: None)
    (table,) = build_tables(COMPARE, [r for _, r in found], predictions=read, pair=("a", "b"))
    ((label, (one, two, apart, p, adjusted, items)),) = table.rows
    assert label == "knn digits: best k" and table.columns[:3] == ("a", "b", "difference")
    assert (one.value, two.value, apart.value) == (pytest.approx(0.8), pytest.approx(0.745), pytest.approx(0.055))
    assert p.value == pytest.approx(stats.binomtest(8, 38).pvalue) and p.note == "McNemar"
    assert adjusted.value == pytest.approx(p.value) and items.value == N and apart.bold
    error = (base.astype(float) - other).std(ddof=1) / np.sqrt(N)
    assert apart.interval == pytest.approx((0.055 - 1.96 * error, 0.055 + 1.96 * error), abs=0.003)
    (back,) = build_tables(COMPARE, [r for _, r in found], predictions=read, pair=("b", "a"))
    assert back.rows[0][1][2].value == pytest.approx(-0.055)


def test_compare_without_items_and_apart(tmp_path: Path) -> None:
    pairs = [predicted("a", right(0.8)), predicted("b", right(0.7))]
    found = write(tmp_path, [(result, {}) for result, _ in pairs])
    (table,) = build_tables(COMPARE, [r for _, r in found], predictions=paired.beside(found, lambda e: None))
    assert table.rows[0][1][2].value == pytest.approx(0.1) and table.rows[0][1][3].value is None
    assert any("no test where" in note for note in table.footnotes)
    apart = [
        knn("a"),
        knn("b", preprocessing=BF16),
        predicted("a", right(0.8))[0],
        predicted("b", right(0.8))[0],
    ]
    (table,) = build_tables(COMPARE, apart)
    assert "not compared (different settings or data): knn on imagenet" in table.footnotes
    with pytest.raises(SettingsError, match="not comparable: knn on imagenet"):
        build_tables(COMPARE, apart[:2])
    (table,) = build_tables(COMPARE, [knn("a"), knn("a", settings={"k": [20]}), knn("b")])
    assert "several results, first one used: a, knn on imagenet" in table.footnotes


@pytest.mark.parametrize(
    ("names", "pair", "says"),
    [
        ("a", (), "wanted two checkpoints to compare; got 1: a"),
        ("abc", (), r"got 3: a, b, c.*--models A B"),
        ("abc", ("a", "x"), "wanted a checkpoint among the results; got 'x'"),
        ("", (), "got 0"),
        ("ab", ("a", "a"), "got 1: a"),
    ],
)
def test_compare_wants_two(names: str, pair: tuple[str, ...], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        build_tables(COMPARE, [knn(name) for name in names], pair=pair)


def test_values_that_are_right_or_wrong_have_the_exact_test() -> None:
    a, b = right(0.8), flipped(right(0.8), 12, 2)
    found = paired.difference(*(Sample(values=x.astype(float), same=()) for x in (a, b)))
    assert found is not None and found.test == "McNemar"
    assert found.p_value == pytest.approx(stats.binomtest(2, 14).pvalue)
