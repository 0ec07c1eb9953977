"""What the page says of classes, against plain counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from result_files import knn

from reports.page import confused


def test_tables_are_counts_of_the_predictions() -> None:
    draw = np.random.default_rng(0)
    target = draw.integers(0, 4, 200)
    found = np.where(draw.random(200) < 0.6, target, draw.integers(0, 4, 200))
    (worst, pairs), left = confused.tables([(Path("a.json"), knn())], lambda path: _arrays(target, found))
    accuracy = {f"class {c}": float((found[target == c] == c).mean()) for c in range(4)}
    assert [name for name, _ in worst.rows] == sorted(accuracy, key=lambda name: accuracy[name])
    assert [row[0].value for _, row in worst.rows] == sorted(accuracy.values())
    counts = Counter(zip(target.tolist(), found.tolist(), strict=True))
    wrong = sorted((n for (t, p), n in counts.items() if t != p), reverse=True)[: confused.ROWS]
    assert [row[0].value for _, row in pairs.rows] == wrong and left == 0


def test_what_is_right_has_no_table_and_many_are_counted() -> None:
    right = np.arange(10)
    assert confused.tables([(Path("a.json"), knn())], lambda path: _arrays(right, right)) == ([], 0)
    many = [(Path(f"{n}.json"), knn()) for n in range(confused.CLASSIFIERS + 3)]
    made, left = confused.tables(many, lambda path: _arrays(right, right[::-1]))
    assert len(made) == 2 * confused.CLASSIFIERS and left == 3
    assert confused.tables(many, lambda path: {}) == ([], 0)


def _arrays(target: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    return {"target": target, "k20_t0.07": found}
