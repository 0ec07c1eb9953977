"""What the page says of classes, against plain counts."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from result_files import knn, write

from evaltk.cli import main
from evaltk.errors import StorageError
from reports import classes
from reports.page import confused


def test_tables_are_counts_of_the_predictions() -> None:
    draw = np.random.default_rng(0)
    target = draw.integers(0, 4, 200)
    found = np.where(draw.random(200) < 0.6, target, draw.integers(0, 4, 200))
    (worst, pairs), left = confused.tables([(Path("a.json"), knn())], lambda path: _arrays(target, found), refused)
    accuracy = {f"class {c}": float((found[target == c] == c).mean()) for c in range(4)}
    assert [name for name, _ in worst.rows] == sorted(accuracy, key=lambda name: accuracy[name])
    assert [row[0].value for _, row in worst.rows] == sorted(accuracy.values())
    counts = Counter(zip(target.tolist(), found.tolist(), strict=True))
    wrong = sorted((n for (t, p), n in counts.items() if t != p), reverse=True)[: confused.ROWS]
    assert [row[0].value for _, row in pairs.rows] == wrong and left == 0


def test_what_is_right_has_no_table_and_many_are_counted() -> None:
    right = np.arange(10)
    assert confused.tables([(Path("a.json"), knn())], lambda path: _arrays(right, right), refused) == ([], 0)
    many = [(Path(f"{n}.json"), knn()) for n in range(confused.CLASSIFIERS + 3)]
    made, left = confused.tables(many, lambda path: _arrays(right, right[::-1]), refused)
    assert len(made) == 2 * confused.CLASSIFIERS and left == 3
    assert confused.tables(many, lambda path: {}, refused) == ([], 0)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (np.arange(9), r"predictions \[9\] of type int64"),
        (np.arange(10.0), r"predictions \[10\] of type float64"),
        (np.arange(10).astype(str), "of type <U2"),
        (np.arange(10)[None], r"predictions \[1, 10\]"),
        (np.arange(-1, 9), "predictions from -1 to 8"),
        (np.arange(10) << 40, "predictions from 0 to 9895604649984"),
    ],
)
def test_arrays_that_are_no_predictions_are_told(found: np.ndarray, says: str) -> None:
    told: list[StorageError] = []
    results = [(Path("a.json"), knn()), (Path("b.json"), knn())]
    arrays = {Path("a.json"): _arrays(np.arange(10), found), Path("b.json"): _arrays(np.arange(10), np.arange(10) % 9)}
    made, _ = confused.tables(results, arrays.__getitem__, told.append)
    assert len(made) == 2 and len(told) == 1 and re.search(says, str(told[0]))
    with pytest.raises(StorageError, match="true classes"):
        classes.of_result(knn(), _arrays(np.zeros(0, np.int64), np.zeros(0, np.int64)))


def refused(error: StorageError) -> None:
    raise error


def _arrays(target: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    return {"target": target, "k20_t0.07": found}


@pytest.mark.parametrize(
    ("value", "rows", "bins"),
    [(np.nan, slice(None), 0), (np.nan, slice(3), 7), (np.inf, slice(1), 9), (-1.0, slice(1), 9)],
)
def test_confidences_that_are_none_are_left_out_with_a_note(
    value: float, rows: slice, bins: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The classes are shown all the same, on the page and by `evaltk classes`."""
    confidence = np.full(10, 0.5)
    confidence[rows] = value
    target, found = np.arange(10), np.arange(10)[::-1]
    arrays = _arrays(target, found) | {"k20_t0.07_confidence": confidence}
    told: list[StorageError] = []
    (judged,) = classes.of_result(knn(), arrays, complain=told.append)
    assert (judged.confidence is not None) == bool(bins) and len(classes.tables(judged, 3)) == 2 + bool(bins)
    assert not bins or judged.reliability().count.sum() == bins
    assert len(told) == 1 and f"none for {10 - bins} of 10 (NaN, or outside of 0 to 1)" in str(told[0])
    write(tmp_path / "runs", [(knn(), arrays)])
    out = tmp_path / "page.html"
    assert main(["report", "--runs", str(tmp_path / "runs"), "--out", str(out)]) == 0
    assert f"none for {10 - bins} of 10" in out.read_text() and "Least accurate" in out.read_text()
    assert main(["classes", "--runs", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr()
    assert "Least accurate" in said.out and said.err.count(f"none for {10 - bins} of 10") == 2  # each command once
