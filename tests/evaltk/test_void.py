"""Verdicts on the void set, by hand-made prototypes and counts."""

from __future__ import annotations

import numpy as np
import pytest

from evaltk.prototypes import void
from evaltk.prototypes.duplicates import duplicate_sets

DATA_MEAN = np.array([0.3, 0.4, 0.0, 0.0])


def planted(num: int = 10) -> np.ndarray:
    """`num` prototypes opposite to the data mean among 5 others that are all different; unit rows."""
    others = np.concatenate([np.eye(4), [[1, 1, 1, 1]]])
    w = np.concatenate([others, np.tile(-DATA_MEAN, (num, 1)) + 1e-4 * np.arange(num)[:, None]])
    return w / np.linalg.norm(w, axis=1, keepdims=True)


def test_planted_void_is_named() -> None:
    unit = planted()
    counts = np.array([5, 3, 1, 0, 2, *[0] * 10])
    found = void.find_void(unit, duplicate_sets(unit, 0.9), counts, DATA_MEAN)
    assert (found.kind, found.size, found.images) == ("void", 10, 0)
    assert found.cosine == pytest.approx(-1, abs=1e-4)
    assert found.share == pytest.approx(10 / 15)
    assert found.words == (
        "void set: 66.7 % of the prototypes (10 of 15) point away from the data (cosine of their mean direction with "
        "the data mean -1.0000) and none of 11 images is assigned to them"
    )


def test_used_set_is_not_void() -> None:
    unit = planted()
    counts = np.array([5, 3, 1, 0, 2, *[0] * 9, 1])
    found = void.find_void(unit, duplicate_sets(unit, 0.9), counts, DATA_MEAN)
    assert found.kind == "used"
    assert found.words.startswith("no void set: the largest set of duplicates, 66.7 % ")
    assert "1 of 12 images" in found.words


def test_unused_set_that_does_not_point_away_is_not_void() -> None:
    unit = planted()
    found = void.find_void(unit, duplicate_sets(unit, 0.9), np.r_[np.ones(5), np.zeros(10)], np.eye(4)[3])
    assert found.kind == "unused"
    assert found.words.startswith("no void set") and "does not point away" in found.words


def test_a_void_set_is_found_behind_a_larger_used_one() -> None:
    unit = np.concatenate([planted(3), np.tile(np.eye(4)[:1], (8, 1))])
    counts = np.r_[np.zeros(8), np.ones(8)]
    found = void.find_void(unit, duplicate_sets(unit, 0.9), counts, DATA_MEAN)
    assert (found.kind, found.size) == ("void", 3)


def test_all_different() -> None:
    unit = np.eye(4)
    found = void.find_void(unit, duplicate_sets(unit, 0.9), np.ones(4), DATA_MEAN)
    assert (found.kind, found.share, found.owner) == ("no sets", 0.25, -1)
    assert void.from_weights(unit, duplicate_sets(unit, 0.9)).kind == "no sets"


def test_weights_alone_say_that_they_are_alone() -> None:
    unit = planted()
    found = void.from_weights(unit, duplicate_sets(unit, 0.9))
    assert (found.kind, found.images, found.size) == ("weights alone", -1, 10)
    assert "From the weights alone" in found.words and "needs image assignments" in found.words
    rest = unit[:5].sum(axis=0)
    mean = unit[5:].mean(axis=0)
    assert found.cosine == pytest.approx(rest @ mean / np.linalg.norm(rest) / np.linalg.norm(mean))


def test_cosines_do_not_hang_on_the_rows_beside_them() -> None:
    """To the bit: the verdict compares them with a threshold."""
    rng = np.random.default_rng(0)
    means, direction = rng.standard_normal((37, 256)), rng.standard_normal(256)
    together = void._cosines(means, direction)
    assert together.tolist() == [float(void._cosines(row[None], direction)[0]) for row in means]
    lengths = np.linalg.norm(means, axis=1) * np.linalg.norm(direction)
    np.testing.assert_allclose(together, means @ direction / lengths, atol=1e-14)  # sums in two orders
    assert void._cosines(np.zeros((1, 3)), np.ones(3)).tolist() == [0.0]
