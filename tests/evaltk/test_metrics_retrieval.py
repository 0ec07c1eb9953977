"""Revisited mAP and mP@k against the original's figures, exact fractions from the formula, and properties."""

from __future__ import annotations

import gzip
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaltk.errors import DataError
from evaltk.metrics import retrieval

GOLDEN = Path(__file__).parents[1] / "golden" / "retrieval_map_cases.json.gz"
CASES = json.loads(gzip.decompress(GOLDEN.read_bytes()))
POSITIVE = {"easy": {"easy"}, "medium": {"easy", "hard"}, "hard": {"hard"}}
IGNORED = {"easy": {"junk", "hard"}, "medium": {"junk"}, "hard": {"junk", "easy"}}


def slow(ranking: list[int], entry: dict[str, list[int]], difficulty: str) -> dict[str, float] | None:
    """AP and P@k of one query by walking down the list and summing trapezoids of exact fractions."""
    ok = {i for label in POSITIVE[difficulty] for i in entry[label]}
    junk = {i for label in IGNORED[difficulty] for i in entry[label]}
    if not ok:
        return None
    area, hits, hit_ranks = Fraction(0), 0, []
    for rank, image in enumerate(image for image in ranking if image not in junk):
        if image in ok:
            before = Fraction(hits, rank) if rank else Fraction(1)
            hits += 1
            hit_ranks.append(rank)
            area += (before + Fraction(hits, rank + 1)) / 2 * Fraction(1, len(ok))
    found = {"ap": float(area)}
    for k in (1, 5, 10):
        depth = min(k, hit_ranks[-1] + 1) if hit_ranks else k
        found[f"p@{k}"] = sum(rank < depth for rank in hit_ranks) / depth
    return found


@st.composite
def galleries(draw: st.DrawFn) -> tuple[np.ndarray, list[dict[str, list[int]]], int]:
    """(ranks [Q, N], gnd, images in the database), N at most the database."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, queries = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    ranked = draw(st.integers(1, size))
    ranks = np.stack([rng.permutation(size)[:ranked] for _ in range(queries)])
    gnd = []
    for _ in range(queries):
        label = rng.choice(4, size=size, p=rng.dirichlet(np.ones(4)))
        gnd.append({name: np.flatnonzero(label == i).tolist() for i, name in enumerate(("easy", "hard", "junk"))})
    return ranks, gnd, size


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["n_database"]))
def test_the_originals_figures(case: dict) -> None:
    ranks = np.array(case["ranks"])
    for num_database in (None, case["n_database"]):
        means = retrieval.evaluate(ranks, case["gnd"], num_database=num_database)
        queries = retrieval.per_query(ranks, case["gnd"], num_database=num_database)
        for difficulty, expected in case["expected"].items():
            assert means[difficulty]["map"] == pytest.approx(expected["map"], abs=1e-6)
            for k, value in expected["mp_at"].items():
                assert means[difficulty][f"mp@{k}"] == pytest.approx(value, abs=1e-6)
            aps = np.array([np.nan if ap is None else ap for ap in expected["aps"]])
            np.testing.assert_allclose(queries[difficulty]["ap"], aps, atol=1e-6, rtol=0)


def test_the_original_cases_hold_queries_without_positives() -> None:
    empty = {d: sum(ap is None for case in CASES for ap in case["expected"][d]["aps"]) for d in POSITIVE}
    assert empty["easy"] and empty["hard"]


@pytest.mark.parametrize(
    ("ranks", "num_positives", "expected"),
    [([0, 2], 2, 0.7916667), ([1, 3, 4], 3, 0.4055556), ([0, 5], 4, 0.3166667), ([0, 1, 2], 3, 1.0), ([], 3, 0.0)],
)
def test_average_precision_by_hand(ranks: list[int], num_positives: int, expected: float) -> None:
    assert retrieval.average_precision(np.array(ranks), num_positives) == pytest.approx(expected, abs=5e-8)
    # The same through the front door: positives that are not in the ranking have indices beyond it.
    unseen = list(range(20, 20 + num_positives - len(ranks)))
    gnd = [{"easy": [*ranks, *unseen], "hard": [], "junk": []}]
    found = retrieval.evaluate(np.arange(20)[None], gnd)
    assert found["easy"]["map"] == found["medium"]["map"] == pytest.approx(expected, abs=5e-8)


def test_precision_at_k_by_hand() -> None:
    gnd = [
        {"easy": [3, 7], "hard": [1], "junk": [0, 5]}
    ]  # without junk the list is 1 2 3 4 6 7, without hard 2 3 4 6 7
    found = retrieval.evaluate([list(range(8))], gnd)
    assert found["easy"]["mp@1"] == 0 and found["easy"]["mp@5"] == pytest.approx(2 / 5)
    assert found["easy"]["mp@10"] == pytest.approx(2 / 5)  # k is cut to the rank of the last positive, 5
    assert found["medium"]["mp@1"] == 1 and found["medium"]["mp@5"] == pytest.approx(2 / 5)
    assert found["medium"]["mp@10"] == pytest.approx(3 / 6)
    assert found["hard"] == {"map": 1.0, "mp@1": 1.0, "mp@5": 1.0, "mp@10": 1.0}


def test_queries_without_positives_are_left_out() -> None:
    gnd = [{"easy": [0], "hard": [], "junk": []}, {"easy": [], "hard": [1], "junk": [0]}]
    ranks = [[0, 1, 2], [2, 0, 1]]
    found, queries = retrieval.evaluate(ranks, gnd), retrieval.per_query(ranks, gnd)
    assert found["easy"]["map"] == 1 and np.isnan(queries["easy"]["ap"][1]) and np.isnan(queries["easy"]["p@5"][1])
    assert found["hard"]["map"] == pytest.approx(0.25) and np.isnan(queries["hard"]["ap"][0])
    none = retrieval.evaluate([[0, 1]], [{"easy": [0], "hard": [], "junk": [1]}])
    assert all(np.isnan(value) for value in none["hard"].values()) and none["easy"]["map"] == 1


def test_a_query_whose_positives_are_not_ranked_scores_zero() -> None:
    found = retrieval.evaluate([[4, 5]], [{"easy": [0], "hard": [1], "junk": [4]}], num_database=6)
    assert all(value == 0 for scores in found.values() for value in scores.values())


@settings(max_examples=80, deadline=None)
@given(galleries())
def test_a_walk_down_the_list(gallery: tuple[np.ndarray, list[dict[str, list[int]]], int]) -> None:
    ranks, gnd, size = gallery
    found, means = (score(ranks, gnd, num_database=size) for score in (retrieval.per_query, retrieval.evaluate))
    for difficulty in POSITIVE:
        expected = [slow(row.tolist(), entry, difficulty) for row, entry in zip(ranks, gnd, strict=True)]
        for name in ("ap", "p@1", "p@5", "p@10"):
            values = np.array([np.nan if one is None else one[name] for one in expected])
            np.testing.assert_allclose(found[difficulty][name], values, atol=1e-12, rtol=0)
            known = values[~np.isnan(values)]
            mean = known.mean() if len(known) else np.nan
            assert means[difficulty][f"m{name}"] == pytest.approx(mean, abs=1e-12, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(galleries(), st.randoms(use_true_random=False))
def test_order_and_names_of_images_do_not_matter(gallery: tuple, rng) -> None:
    ranks, gnd, size = gallery
    before = retrieval.per_query(ranks, gnd, num_database=size)
    rename, order = np.array(rng.sample(range(size), size)), rng.sample(range(len(gnd)), len(gnd))
    lists = [{key: [int(rename[i]) for i in rng.sample(v, len(v))] for key, v in gnd[q].items()} for q in order]
    after = retrieval.per_query(rename[ranks][order], lists, num_database=size)
    for difficulty, scores in before.items():
        for name, values in scores.items():
            np.testing.assert_array_equal(after[difficulty][name], values[order])


@settings(max_examples=30, deadline=None)
@given(galleries(), st.integers(1, 8), st.randoms(use_true_random=False))
def test_junk_anywhere_changes_nothing(gallery: tuple, more: int, rng) -> None:
    ranks, gnd, size = gallery
    rows = []
    for row in ranks.tolist():
        for image in range(size, size + more):
            row.insert(rng.randint(0, len(row)), image)
        rows.append(row)
    junked = [{**entry, "junk": [*entry["junk"], *range(size, size + more)]} for entry in gnd]
    before = retrieval.evaluate(ranks, gnd, num_database=size)
    after = retrieval.evaluate(rows, junked, num_database=size + more)
    assert str(before) == str(after)  # as text, in which NaN equals NaN


@settings(max_examples=25, deadline=None)
@given(galleries())
def test_positives_first_is_perfect_and_all_scores_are_fractions(gallery: tuple) -> None:
    ranks, gnd, size = gallery
    for scores in retrieval.per_query(ranks, gnd, num_database=size).values():
        assert all(((v >= 0) & (v <= 1) | np.isnan(v)).all() for v in scores.values())
    best = [[*e["easy"], *e["hard"], *sorted(set(range(size)) - {*e["easy"], *e["hard"]})] for e in gnd]
    for scores in retrieval.evaluate(best, gnd).values():
        assert all(np.isnan(v) or v == 1 for v in scores.values())


def test_any_integer_array_will_do_and_none_is_changed() -> None:
    case = CASES[0]
    expected = str(retrieval.evaluate(case["ranks"], case["gnd"]))
    gnd = [{key: np.array(value, dtype=np.uint16) for key, value in entry.items()} for entry in case["gnd"]]
    for ranks in (
        np.array(case["ranks"], dtype=np.int32),
        torch.tensor(case["ranks"]),
        np.array(case["ranks"]).T.copy().T,
    ):
        ranks_before = np.asarray(ranks).copy()
        assert str(retrieval.evaluate(ranks, gnd)) == expected
        assert (np.asarray(ranks) == ranks_before).all()


@pytest.mark.parametrize(
    ("ranks", "entry", "size", "says"),
    [
        ([[0, 1, 1]], {}, None, "image 1 twice; where: ranks, query 0"),
        ([[0, 1, 3]], {}, None, "got 3; where: ranks, query 0; do: pass num_database"),
        ([[0, 1, 3]], {}, 3, "database of 3; got 3"),
        ([[0, 1, 2, 3]], {}, 3, "got 3"),
        ([[0, -1, 2]], {}, None, "got -1"),
        ([[0.0, 1.0, 2.0]], {}, None, "float64"),
        ([0, 1, 2], {}, None, r"got \[3\]"),
        ([[]], {}, None, r"got \[1, 0\]"),
        ([[0, 1, 2], [0, 1, 2]], {}, None, "1 queries as in the ground truth"),
        ([[0], [1], [2]], {}, None, "transpose"),
        ([[0, 1, 2]], {"junk": None}, None, "list of database indices; got None; where: gnd, query 0, junk"),
        ([[0, 1, 2]], {"junk": [1.5]}, None, "list of database indices"),
        ([[0, 1, 2]], {"junk": [[1], [2, 3]]}, None, "list of database indices"),
        ([[0, 1, 2]], {"junk": [0]}, None, "image 0 twice"),
        ([[0, 1, 2]], {"easy": [2, 2]}, None, "image 2 twice"),
        ([[0, 1, 2]], {"easy": [7]}, 3, "database of 3; got 7"),
        ([[0, 1, 2]], {"easy": [-7]}, None, "got -7"),
    ],
)
def test_what_is_refused(ranks: list, entry: dict, size: int | None, says: str) -> None:
    gnd = [{"easy": [0], "hard": [], "junk": [], **entry}]
    with pytest.raises(DataError, match=says):
        retrieval.evaluate(ranks, gnd, num_database=size)


def test_missing_lists_are_named() -> None:
    with pytest.raises(DataError, match="got no hard, junk; where: gnd, query 1"):
        retrieval.evaluate([[0], [0]], [{"easy": [0], "hard": [], "junk": []}, {"easy": [0]}])
    with pytest.raises(DataError, match="got list"):
        retrieval.evaluate([[0]], [[0]])  # type: ignore[list-item]


def test_threads_over_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(0)
    ranks = np.stack([numbers.permutation(200) for _ in range(9)]).astype(np.int32)
    gnd = [{"easy": [q, q + 20], "hard": [q + 40, 150], "junk": [q + 60, 180]} for q in range(9)]
    alone = retrieval.per_query(ranks, gnd)
    monkeypatch.setattr(retrieval, "LONG", 0)
    monkeypatch.setattr(retrieval.machine, "usable_cores", lambda: 4)
    together = retrieval.per_query(ranks, gnd)
    for difficulty, scores in alone.items():
        for name, values in scores.items():
            np.testing.assert_array_equal(together[difficulty][name], values)
    ranks[[3, 7], 0] = ranks[[3, 7], 1]
    with pytest.raises(DataError, match="ranks, query 3"):
        retrieval.evaluate(ranks, gnd)
