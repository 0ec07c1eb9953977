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
    assert found.kind == "void" and found.about is not None and found.sets == (found.about,)
    assert (found.about.size, found.about.images) == (10, 0)
    assert found.about.cosine == pytest.approx(-1, abs=1e-4)
    assert found.about.share == pytest.approx(10 / 15)
    assert found.words == (
        "void set: 66.7 % of the prototypes (10 of 15) are duplicates, none of 11 images is assigned to them, and they "
        "point away from the data (cosine -1.0000 with the data mean; 0.0 % of random directions and 0.0 % of other "
        "prototypes have a lower one; void is -0.9 or lower, the paper reports -1)"
    )


def test_used_set_is_not_void() -> None:
    unit = planted()
    counts = np.array([5, 3, 1, 0, 2, *[0] * 9, 1])
    found = void.find_void(unit, duplicate_sets(unit, 0.9), counts, DATA_MEAN)
    assert found.kind == "used"
    assert found.words.startswith("no void set: the largest set of duplicates, 66.7 % ")
    assert "1 of 12 images are assigned to it (cosine -1.0000" in found.words


@pytest.mark.parametrize(
    ("cosine", "kind", "said"),
    [
        (-0.974, "void", "they point away from the data (cosine -0.97"),
        (-0.899, "unused", "and it points partly away from the data (cosine -0.89"),
        (-0.5, "unused", "and it points partly away from the data (cosine -0.5000"),
        (0.0, "unused", "and it points across the data (cosine 0.0000"),
        (0.5, "unused", "and it points towards the data (cosine 0.5000"),
    ],
)
def test_words_say_what_the_evidence_says(cosine: float, kind: str, said: str) -> None:
    """One set of 40 identical prototypes that no image is assigned to, at a given cosine with the data mean."""
    dim = 8
    direction = np.zeros(dim)
    direction[:2] = cosine, np.sqrt(1 - cosine**2)
    unit = np.concatenate([np.eye(dim)[2:], np.tile(direction, (40, 1))])
    counts = np.r_[np.full(6, 10), np.zeros(40)]
    found = void.find_void(unit, duplicate_sets(unit, 0.95), counts, np.eye(dim)[0])
    assert found.kind == kind and said in found.words
    assert "none of 60 images is assigned to" in found.words and "87.0 % of the prototypes (40 of 46)" in found.words
    assert "does not point" not in found.words and "no void set" not in found.words
    if kind == "unused":
        assert "not called void since its cosine is above -0.9:" in found.words


def test_a_void_set_of_less_than_one_percent_is_said_to_be_small() -> None:
    rng = np.random.default_rng(0)
    mean = np.eye(64)[0]
    others = rng.standard_normal((398, 64))
    unit = np.concatenate([others / np.linalg.norm(others, axis=1, keepdims=True), [-mean, -mean]])
    found = void.find_void(unit, duplicate_sets(unit, 0.9), np.r_[np.ones(398), 0, 0], mean)
    assert found.kind == "unused" and found.sets == ()
    assert "not called void since it is smaller than 1 % of the prototypes" in found.words
    assert found.listed() == "no set of duplicates holds 1 % of the prototypes or more"
    kept = void.find_void(unit, duplicate_sets(unit, 0.9), np.r_[np.ones(398), 0, 0], mean, share=2 / 400)
    assert kept.kind == "void"


def test_percentiles_are_those_of_counting() -> None:
    """Against a million random directions, and against the other prototypes one by one."""
    rng = np.random.default_rng(1)
    drawn = rng.standard_normal((1_000_000, 6))
    cosine = drawn[:, 0] / np.linalg.norm(drawn, axis=1)
    for at in (-0.9, -0.4, 0.0, 0.7):
        assert void.random_percentile(at, 6) == pytest.approx((cosine < at).mean(), abs=2e-3)
    others = rng.standard_normal((30, 6))
    unit = np.concatenate([np.tile([0.6, 0.8, 0, 0, 0, 0], (5, 1)), others / np.linalg.norm(others, axis=1)[:, None]])
    found = void.find_void(unit, duplicate_sets(unit, 0.99), np.zeros(35), np.eye(6)[0])
    assert found.about is not None
    assert found.about.prototype_percentile == np.mean([u[0] < 0.6 for u in unit[5:]])


def test_a_void_set_is_found_behind_a_larger_used_one() -> None:
    unit = np.concatenate([planted(3), np.tile(np.eye(4)[:1], (8, 1))])
    counts = np.r_[np.zeros(8), np.ones(8)]
    found = void.find_void(unit, duplicate_sets(unit, 0.9), counts, DATA_MEAN)
    assert found.kind == "void" and found.about is not None and found.about.size == 3
    assert [(s.size, s.images) for s in found.sets] == [(9, 8), (3, 0)]
    assert found.listed() == (
        "sets of at least 1 % of the prototypes, by size: 9 (8 images, cosine 0.60), 3 (unused, cosine -1.00)"
    )


def test_several_void_sets_are_added_up() -> None:
    """Leaders may split one cloud: here two directions of cosines -0.95 and -0.96 with the mean."""
    mean = np.eye(4)[0]
    sides = [np.array([c, s * np.sqrt(1 - c * c), 0, 0]) for c, s in ((-0.95, 1), (-0.96, -1))]
    unit = np.concatenate([np.eye(4)[1:], np.tile(sides[0], (6, 1)), np.tile(sides[1], (5, 1))])
    found = void.find_void(unit, duplicate_sets(unit, 0.9), np.r_[np.full(3, 4), np.zeros(11)], mean)
    assert found.kind == "void" and [e.size for e in found.void] == [6, 5]
    assert found.words.startswith("void set: 42.9 % of the prototypes (6 of 14)")
    assert found.words.endswith("; 2 such sets, 78.6 % of the prototypes in all")


def test_all_different() -> None:
    unit = np.eye(4)
    found = void.find_void(unit, duplicate_sets(unit, 0.9), np.ones(4), DATA_MEAN)
    assert (found.kind, found.about, found.sets) == ("no sets", None, ())
    assert void.from_weights(unit, duplicate_sets(unit, 0.9)).kind == "no sets"


def test_weights_alone_say_that_they_are_alone() -> None:
    unit = planted()
    found = void.from_weights(unit, duplicate_sets(unit, 0.9))
    assert found.about is not None
    assert (found.kind, found.about.images, found.about.size) == ("weights alone", -1, 10)
    assert "From the weights alone" in found.words and "needs image assignments" in found.words
    rest = unit[:5].sum(axis=0)
    mean = unit[5:].mean(axis=0)
    assert found.about.cosine == pytest.approx(rest @ mean / np.linalg.norm(rest) / np.linalg.norm(mean))


def test_cosines_do_not_hang_on_the_rows_beside_them() -> None:
    """To the bit: the verdict compares them with a threshold."""
    rng = np.random.default_rng(0)
    means, direction = rng.standard_normal((37, 256)), rng.standard_normal(256)
    together = void._cosines(means, direction)
    assert together.tolist() == [float(void._cosines(row[None], direction)[0]) for row in means]
    lengths = np.linalg.norm(means, axis=1) * np.linalg.norm(direction)
    np.testing.assert_allclose(together, means @ direction / lengths, atol=1e-14)  # sums in two orders
    assert void._cosines(np.zeros((1, 3)), np.ones(3)).tolist() == [0.0]
