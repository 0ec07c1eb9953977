"""Principal components as colours and corresponding patches, against scikit-learn and slow versions of the formulas."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from evaltk.errors import DataError
from evaltk.metrics.patches import coloured, components, mutual_matches


@pytest.mark.parametrize("shape", [(40, 6), (5, 12)])
def test_components_are_sklearns(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=shape) * np.arange(1, shape[1] + 1)
    ours, theirs = components(x, 3), PCA(3).fit(x)
    signs = np.sign((ours.axes * theirs.components_).sum(axis=1))
    np.testing.assert_allclose(ours.axes * signs[:, None], theirs.components_, atol=1e-8)
    np.testing.assert_allclose(ours.share, theirs.explained_variance_ratio_)
    np.testing.assert_allclose(ours.project(x) * signs, theirs.transform(x), atol=1e-7)
    assert (np.take_along_axis(ours.axes, np.abs(ours.axes).argmax(1)[:, None], 1) > 0).all()


def test_one_patch_and_equal_patches_have_no_variance() -> None:
    for x in (np.ones((1, 4)), np.full((7, 3), 2.0)):
        found = components(x, 3)
        assert not found.share.any() and np.isfinite(found.project(x)).all()
    with pytest.raises(DataError, match="finite features"):
        components(np.full((2, 2), np.nan), 1)


def test_the_foreground_is_what_lies_in_the_middle() -> None:
    rng = np.random.default_rng(1)
    images, masks = [], []
    for y in (2, 3):
        mask = np.zeros((8, 8), bool)
        mask[y : y + 3, 3:6] = True
        images.append(np.where(mask[..., None], 5.0, -5.0) * np.ones(6) + rng.normal(size=(8, 8, 6)))
        masks.append(mask)
    for sign in (1, -1):  # whichever side the component has it on
        found = coloured([sign * x for x in images])
        for one, mask in zip(found, masks, strict=True):
            np.testing.assert_array_equal(one.foreground, mask)
            assert not one.foreground_rgb[~mask].any() and one.foreground_rgb[mask].any()
    # The same colours in all images: the first channel is the first component of all patches.
    rows = np.concatenate([x.reshape(-1, 6) for x in images])
    slow = PCA(1).fit_transform(rows)[:, 0]
    red = np.concatenate([one.rgb[..., 0].ravel() for one in coloured(images)]).astype(float)
    assert abs(np.corrcoef(slow, red)[0, 1]) > 0.99


def test_colours_of_a_single_patch() -> None:
    (one,) = coloured([np.ones((1, 1, 4))])
    assert one.rgb.tolist() == [[[128, 128, 128]]]
    with pytest.raises(DataError, match="one image or more"):
        coloured([])


def test_mutual_matches_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(30, 5)), rng.normal(size=(20, 5))

    def cosine(i: int, j: int) -> float:
        return float(a[i] @ b[j] / np.sqrt((a[i] ** 2).sum() * (b[j] ** 2).sum()))

    slow = [
        (cosine(i, j), i, j)
        for i in range(30)
        for j in range(20)
        if all(cosine(i, j) >= cosine(i, o) for o in range(20)) and all(cosine(i, j) >= cosine(o, j) for o in range(30))
    ]
    slow.sort(reverse=True)
    pairs, similarity = mutual_matches(a, b, 6)
    assert pairs.tolist() == [[i, j] for _, i, j in slow[:6]]
    np.testing.assert_allclose(similarity, [s for s, _, _ in slow[:6]])
