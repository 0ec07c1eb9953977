"""J, F and their statistics against the original's figures, loops over pixels, hand-sized cases and properties."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from evaltk.errors import DataError, SettingsError
from evaltk.metrics import segmentation

GOLDEN = Path(__file__).parents[1] / "golden"
EXPECTED = json.loads((GOLDEN / "davis_jf_expected.json").read_text())


def slow_boundary(mask: np.ndarray) -> list[tuple[int, int]]:
    """Boundary pixels (y, x): another value to the right, below or both, where there is such a neighbour."""
    found = []
    for y, x in np.ndindex(mask.shape):
        near = [(i, j) for i, j in ((y, x + 1), (y + 1, x), (y + 1, x + 1)) if i < mask.shape[0] and j < mask.shape[1]]
        if any(mask[i, j] != mask[y, x] for i, j in near):
            found.append((y, x))
    return found


def slow_scores(gt: np.ndarray, pred: np.ndarray, radius: float) -> tuple[float, float]:
    """(J, F) of one frame by looping over pixels and pairs of boundary pixels."""
    pairs = [(bool(g), bool(p)) for g, p in zip(gt.ravel(), pred.ravel(), strict=True)]
    union = sum(g or p for g, p in pairs)
    region = sum(g and p for g, p in pairs) / union if union else 1.0
    truth, result = slow_boundary(gt), slow_boundary(pred)
    if not truth or not result:
        return region, 1.0 if not truth and not result else 0.0

    def met(these: list[tuple[int, int]], those: list[tuple[int, int]]) -> float:
        return sum(any(math.dist(a, b) <= radius + 1e-9 for b in those) for a in these) / len(these)

    precision, recall = met(result, truth), met(truth, result)
    return region, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def rectangle(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = (100, 160)) -> np.ndarray:
    """A filled rectangle, bool [1, H, W]; its lower and right ends are not in it."""
    mask = np.zeros((1, *size), dtype=np.bool_)
    mask[0, top:bottom, left:right] = True
    return mask


SIZES = st.tuples(st.integers(1, 14), st.integers(1, 17))
MASKS = SIZES.flatmap(lambda size: st.tuples(*[arrays(np.bool_, (2, *size))] * 2))
# Blocks as well as salt and pepper: boxes at the borders and far from each other.
BOXES = st.tuples(*[st.integers(0, 30)] * 8)


@pytest.mark.parametrize("sequence", sorted(EXPECTED))
def test_the_originals_figures(sequence: str) -> None:
    names = [path.name for path in sorted((GOLDEN / "davis_masks" / "osvos" / sequence).glob("*.png"))]
    at = [EXPECTED[sequence]["frames"].index(name) for name in names]
    truth, result = (
        np.stack([np.array(Image.open(GOLDEN / "davis_masks" / method / sequence / name)) for name in names])
        for method in ("osvos", "rvos")
    )
    result = np.where(result <= truth[0].max(), result, 0)
    found = segmentation.evaluate_sequence(truth, result, sequence=sequence, drop_ends=False)
    assert [str(one.object_id) for one in found] == list(EXPECTED[sequence]["objects"])
    for one in found:
        expected = EXPECTED[sequence]["objects"][str(one.object_id)]
        np.testing.assert_allclose(one.region, np.array(expected["J"])[at], atol=1e-6, rtol=0)
        np.testing.assert_allclose(one.boundary, np.array(expected["F"])[at], atol=1e-6, rtol=0)


@pytest.mark.parametrize("sequence", sorted(EXPECTED))
def test_the_originals_statistics(sequence: str) -> None:
    for expected in EXPECTED[sequence]["objects"].values():
        for metric in ("J", "F"):
            found = segmentation.frame_statistics(expected[metric])
            np.testing.assert_allclose(found, expected[f"{metric}_stats"], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("shift", "region", "boundary"), [(1, 0.951220, 1.0), (2, 0.904762, 1.0), (3, 0.860465, 0.42), (6, 0.739130, 0.39)]
)
def test_a_rectangle_that_moves_down(shift: int, region: float, boundary: float) -> None:
    gt, pred = rectangle(20, 30, 60, 90), rectangle(20 + shift, 30, 60 + shift, 90)
    assert segmentation.boundary_map(gt).sum() == segmentation.boundary_map(pred).sum() == 200
    assert segmentation.region_similarity(gt, pred)[0] == pytest.approx(region, abs=5e-7)
    assert segmentation.boundary_similarity(gt, pred)[0] == pytest.approx(boundary, abs=5e-7)


def test_the_border_of_the_image_is_no_boundary() -> None:
    assert segmentation.boundary_map(rectangle(0, 0, 40, 50)).sum() == 89
    assert segmentation.boundary_map(rectangle(60, 110, 100, 160)).sum() == 91
    assert not segmentation.boundary_map(np.ones((3, 4, 5), dtype=np.bool_)).any()
    corner = np.zeros((4, 5), dtype=np.bool_)
    corner[-1, -1] = True
    found = segmentation.boundary_map(corner)
    assert found.dtype == np.bool_ and np.argwhere(found).tolist() == [[2, 3], [2, 4], [3, 3]]


@pytest.mark.parametrize(
    ("size", "radius"), [((480, 854), 8), ((480, 910), 9), ((100, 160), 2), ((300, 400), 4), ((1, 1), 1)]
)
def test_tolerance(size: tuple[int, int], radius: int) -> None:
    assert segmentation.tolerance(*size) == radius
    assert segmentation.tolerance(*size, bound=3) == 3
    assert segmentation.tolerance(*size, bound=0) == 0


@pytest.mark.parametrize("bound", [-0.1, 1.5, math.nan, math.inf])
def test_tolerances_that_are_refused(bound: float) -> None:
    with pytest.raises(SettingsError, match="bound"):
        segmentation.boundary_similarity(rectangle(1, 1, 2, 2), rectangle(1, 1, 2, 2), bound=bound)


@settings(max_examples=80, deadline=None)
@given(MASKS, st.sampled_from([0, 0.008, 0.1, 0.3, 1, 2, 3, 5, 20, 10**6]))
def test_loops_over_pixels(masks: tuple[np.ndarray, np.ndarray], bound: float) -> None:
    gt, pred = masks
    radius = math.ceil(bound * math.hypot(*gt.shape[1:])) if bound < 1 else bound
    expected = np.array([slow_scores(g, p, radius) for g, p in zip(gt, pred, strict=True)])
    np.testing.assert_allclose(segmentation.region_similarity(gt, pred), expected[:, 0], atol=1e-12)
    np.testing.assert_allclose(segmentation.boundary_similarity(gt, pred, bound=bound), expected[:, 1], atol=1e-12)
    assert np.argwhere(segmentation.boundary_map(gt[0])).tolist() == [list(at) for at in slow_boundary(gt[0])]


@settings(max_examples=40, deadline=None)
@given(BOXES, st.integers(0, 9))
def test_loops_over_the_pixels_of_boxes(ends: tuple[int, ...], radius: int) -> None:
    gt, pred = (rectangle(*ends[i : i + 2], *ends[i + 2 : i + 4], size=(29, 27)) for i in (0, 4))
    expected = slow_scores(gt[0], pred[0], radius)
    bound = radius or 0.0
    assert segmentation.region_similarity(gt, pred)[0] == pytest.approx(expected[0], abs=1e-12)
    assert segmentation.boundary_similarity(gt, pred, bound=bound)[0] == pytest.approx(expected[1], abs=1e-12)


@pytest.mark.parametrize("radius", range(1, 14))
def test_the_disk_holds_squared_distances_up_to_radius_squared(radius: int) -> None:
    gt = rectangle(20, 20, 21, 21, size=(41, 41))  # a single pixel, seen from others
    for dy, dx in [(0, radius), (radius, 0), (radius - 1, radius - 1), (-radius, 1), (3, -4), (-5, 12), (6, 8)]:
        pred = rectangle(20 + dy, 20 + dx, 21 + dy, 21 + dx, size=(41, 41))
        found = segmentation.boundary_similarity(gt, pred, bound=radius)[0]
        assert found == pytest.approx(slow_scores(gt[0], pred[0], radius)[1], abs=1e-12)


def test_empty_masks() -> None:
    none, some, all_of_it = rectangle(0, 0, 0, 0), rectangle(20, 30, 60, 90), rectangle(0, 0, 100, 160)
    cases = [(none, none, 1, 1), (none, some, 0, 0), (some, none, 0, 0), (none, all_of_it, 0, 1)]
    for gt, pred, region, boundary in cases:  # a full frame has no boundary: F does not see that it is wrong
        assert segmentation.region_similarity(gt, pred).tolist() == [region]
        assert segmentation.boundary_similarity(gt, pred).tolist() == [boundary]
    assert segmentation.boundary_similarity(none[:0], none[:0]).shape == (0,)


@settings(max_examples=30, deadline=None)
@given(MASKS)
def test_perfect_symmetric_and_alike_when_mirrored(masks: tuple[np.ndarray, np.ndarray]) -> None:
    gt, pred = masks
    for score in (segmentation.region_similarity, segmentation.boundary_similarity):
        assert segmentation.frame_statistics(score(gt, gt)) == (1.0, 1.0, 0.0)
        found = score(gt, pred)
        assert found.dtype == np.float64 and ((found >= 0) & (found <= 1)).all()
        np.testing.assert_allclose(score(pred, gt), found, atol=1e-15)
        turned = score(gt.transpose(0, 2, 1), pred.transpose(0, 2, 1))
        np.testing.assert_allclose(turned, found, atol=1e-15)
        np.testing.assert_array_equal(score(gt[::-1], pred[::-1]), found[::-1])
        np.testing.assert_array_equal(score(gt.astype(np.uint8), torch.from_numpy(pred)), found)


def test_statistics_by_hand() -> None:
    mean, recall, decay = segmentation.frame_statistics(np.arange(10) / 10)
    assert (mean, recall, decay) == pytest.approx((0.45, 0.40, -0.70), abs=1e-12)
    assert segmentation.frame_statistics([0.5]) == (0.5, 0.0, 0.0)  # recall is strict
    long = np.concatenate([np.ones(250), np.zeros(751)])
    assert segmentation.frame_statistics(long)[2] == pytest.approx(250 / 251)


BORDERS = {
    **{1: [0, 0, 0, 0, 0], 10: [0, 2, 5, 7, 9], 66: [0, 16, 33, 49, 65], 104: [0, 26, 52, 77, 103]},
    **{257: [0, 64, 128, 192, 256], 1001: [0, 250, 500, 750, 1000]},
}


@pytest.mark.parametrize(("num_frames", "borders"), BORDERS.items())
def test_quarter_borders(num_frames: int, borders: list[int]) -> None:
    found = segmentation.quarter_borders(num_frames)
    assert found.dtype == np.int64 and found.tolist() == borders


def test_statistics_of_frames_without_a_value() -> None:
    mean, recall, decay = segmentation.frame_statistics([1.0, math.nan, 0.6, 0.2, math.nan])
    assert (mean, recall, decay) == pytest.approx((0.6, 2 / 5, 0.8))
    mean, recall, decay = segmentation.frame_statistics([math.nan, math.nan])
    assert math.isnan(mean) and math.isnan(decay) and recall == 0
    for bad in ([], [[0.5]], 0.5):
        with pytest.raises(DataError, match="one value per frame"):
            segmentation.frame_statistics(bad)


@pytest.mark.parametrize(
    ("gt", "pred", "says"),
    [
        (np.zeros((3, 4), np.bool_), np.zeros((3, 4), np.bool_), r"\[T, H, W\]; got \[3, 4\]; where: gt"),
        (
            np.zeros((1, 3, 4), np.bool_),
            np.zeros((1, 4, 3), np.bool_),
            r"\[1, 4, 3\] beside gt \[1, 3, 4\]; where: pred",
        ),
        (np.full((1, 3, 4), 2, np.uint8), np.zeros((1, 3, 4), np.bool_), r"integers 0 and 1; got uint8 \[2\]"),
        (np.zeros((1, 3, 4), np.bool_), np.zeros((1, 3, 4), np.float32), r"got float32 \[0.0\]; where: pred"),
    ],
)
def test_masks_that_are_refused(gt: np.ndarray, pred: np.ndarray, says: str) -> None:
    for score in (segmentation.region_similarity, segmentation.boundary_similarity):
        with pytest.raises(DataError, match=says):
            score(gt, pred)
