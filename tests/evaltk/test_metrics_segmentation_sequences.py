"""Sequences of several objects: who is scored, on which frames, and the official table."""

from __future__ import annotations

import numpy as np
import pytest

from evaltk.errors import DataError
from evaltk.metrics import segmentation

COLUMNS = ["J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"]


def ids_of(*frames: list[int]) -> np.ndarray:
    """Frames of one row [T, 1, W] of object ids."""
    return np.array(frames, dtype=np.uint8)[:, None]


def test_a_sequence_of_several_objects() -> None:
    truth = ids_of([1, 1, 3, 255], [1, 3, 3, 255], [9, 1, 3, 3], [2, 2, 2, 2])
    result = ids_of([9, 9, 9, 9], [1, 1, 3, 0], [0, 1, 3, 2], [9, 9, 9, 9])  # the ends are not looked at
    found = segmentation.evaluate_sequence(truth, result, sequence="cows")
    assert [one.name for one in found] == ["cows_1", "cows_2", "cows_3"]
    assert found[0].region.tolist() == [0.5, 1.0]
    assert found[1].region.tolist() == [1.0, 0.0]  # a gap in the numbering: empty is right, one pixel is not
    assert found[2].region.tolist() == [0.5, 0.5]
    for one in found:
        gt, pred = truth[1:-1] == one.object_id, result[1:-1] == one.object_id
        np.testing.assert_array_equal(one.boundary, segmentation.boundary_similarity(gt, pred))
    whole = segmentation.evaluate_sequence(truth, np.where(truth == 255, 0, truth) % 4, drop_ends=False)
    assert [len(one.region) for one in whole] == [4, 4, 4]


def test_missing_ids_are_empty_masks() -> None:
    truth = ids_of([1, 2], [1, 2], [1, 2])
    one, two = segmentation.evaluate_sequence(truth, ids_of([0, 0], [1, 0], [0, 0]))
    assert one.region.tolist() == [1.0] and two.region.tolist() == [0.0]


def test_the_official_columns() -> None:
    truth = ids_of([1, 2], [1, 2], [1, 2], [1, 2])
    perfect = segmentation.evaluate_sequence(truth, truth, sequence="a")
    assert segmentation.summarise(perfect) == dict(zip(COLUMNS, [1, 1, 1, 0, 1, 1, 0], strict=True))
    scores = [
        segmentation.ObjectScores(
            sequence="b", object_id=1, region=np.array([0.9, 0.1]), boundary=np.array([0.4, 0.6])
        ),
        segmentation.ObjectScores(sequence="c", object_id=1, region=np.array([0.2]), boundary=np.array([1.0])),
    ]
    found = segmentation.summarise(scores)
    assert list(found) == COLUMNS and list(scores[0].columns()) == COLUMNS[1:]
    assert found["J-Mean"] == pytest.approx(0.35) and found["F-Mean"] == pytest.approx(0.75)  # objects, not frames
    assert found["J&F-Mean"] == pytest.approx(0.55)
    assert found["J-Recall"] == pytest.approx(0.25) and found["J-Decay"] == pytest.approx(0.4)
    with pytest.raises(DataError, match="at least one object"):
        segmentation.summarise([])


@pytest.mark.parametrize(
    ("truth", "result", "says"),
    [
        (np.zeros((4, 3, 3, 3), np.uint8), np.zeros((4, 3, 3, 3), np.uint8), "not RGB"),
        (np.ones((4, 3, 3), np.uint8), np.ones((3, 3, 3), np.uint8), r"\[4, 3, 3\] uint8 and \[3, 3, 3\]"),
        (np.ones((4, 3, 3), np.uint8), np.ones((4, 3, 3)), "float64"),
        (np.ones((2, 3, 3), np.uint8), np.ones((2, 3, 3), np.uint8), "2 frames"),
        (np.full((4, 3, 3), 255, np.uint8), np.zeros((4, 3, 3), np.uint8), "object in the first annotation"),
        (
            ids_of([1], [1], [1], [1]),
            ids_of([0], [0], [2], [0]),
            "ids 0 to 1.*got id 2; where: sequence x, result frame 2",
        ),
        (ids_of([1], [1], [1], [1]), ids_of([0], [255], [0], [0]), "got id 255"),
        (ids_of([1], [1], [1]), -ids_of([0], [1], [0]).astype(np.int64), "got id -1"),
    ],
)
def test_sequences_that_are_refused(truth: np.ndarray, result: np.ndarray, says: str) -> None:
    with pytest.raises(DataError, match=says):
        segmentation.evaluate_sequence(truth, result, sequence="x")
