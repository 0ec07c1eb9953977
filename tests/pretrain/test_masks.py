"""Block masks: what must hold for each, and counts over many against those of the original."""

from __future__ import annotations

import pytest
import torch

from evaltk.errors import SettingsError
from evaltk.seeding import generator
from pretrain.data import masks


@pytest.mark.parametrize("ratio", [0.0, 0.03, 0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("grid", [(14, 14), (6, 14), (3, 3), (1, 1)])
def test_never_more_than_asked(ratio: float, grid: tuple[int, int]) -> None:
    stream = generator(0, "masks", ratio, grid)
    for _ in range(20):
        mask = masks.block_mask(grid, ratio, generator=stream)
        assert mask.shape == grid
        assert mask.dtype == torch.bool
        assert int(mask.sum()) <= ratio * grid[0] * grid[1]
        assert not (ratio == 0.0 and mask.any())


@pytest.mark.parametrize(
    ("ratio", "grid", "count", "spread"),
    # Mean and standard deviation over 20,000 masks (5,000 for 6 x 14) of ImageFolderMask, bytedance/ibot da316d8.
    [
        (0.1, (14, 14), 17.569, 1.506),
        (0.3, (14, 14), 57.247, 1.228),
        (0.5, (14, 14), 97.530, 0.927),
        (0.3, (6, 14), 24.925, 0.264),
    ],
)
def test_counts_as_the_original(ratio: float, grid: tuple[int, int], count: float, spread: float) -> None:
    stream = generator(1, "masks")
    drawn = torch.stack([masks.block_mask(grid, ratio, generator=stream) for _ in range(600)])
    counts = drawn.flatten(1).sum(1).double()
    assert float(counts.mean()) == pytest.approx(count, abs=5 * spread / 600**0.5)
    assert float(counts.std()) == pytest.approx(spread, rel=0.35)


def test_middle_is_masked_more_often_than_the_corner() -> None:
    stream = generator(2, "masks")
    drawn = torch.stack([masks.block_mask((14, 14), 0.3, generator=stream) for _ in range(600)]).double().mean(0)
    # The original: 0.582 and 0.030.
    assert float(drawn[7, 7]) == pytest.approx(0.582, abs=0.08)
    assert float(drawn[0, 0]) == pytest.approx(0.030, abs=0.025)


def test_half_of_the_crops_stay_unmasked() -> None:
    drawn = masks.sample_masks(800, (14, 14), generator=generator(3, "masks"))
    counts = drawn.flatten(1).sum(1).double()
    assert float((counts == 0).double().mean()) == pytest.approx(0.5, abs=0.09)
    # The original: 57.4 masked patches in a masked crop, at most half of the 196.
    assert float(counts[counts > 0].mean()) == pytest.approx(57.4, abs=5.0)
    assert counts.max() <= 98


def test_ratio_ranges() -> None:
    stream = generator(4, "masks")
    ratios = [masks.sample_ratio(generator=stream) for _ in range(1000)]
    positive = [r for r in ratios if r > 0]
    assert 0.1 <= min(positive) < 0.11
    assert 0.49 < max(positive) <= 0.5
    fixed = masks.Settings(ratios=(0.3,), half_widths=(0.0,))
    assert masks.sample_ratio(generator=stream, settings=fixed) == 0.3


def test_a_single_block_is_a_rectangle_of_allowed_aspect() -> None:
    stream = generator(5, "masks")
    rectangles = 0
    for _ in range(50):
        mask = masks.block_mask((40, 40), 0.106, generator=stream)  # 169.6 patches wanted: the first block takes 169
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        if int(rows * columns) == int(mask.sum()):
            rectangles += 1
            assert 0.3 * 0.9 <= float(rows / columns) <= 1 / (0.3 * 0.9)
    assert rectangles > 5


def test_stream_alone_decides() -> None:
    first = masks.sample_masks(6, (14, 14), generator=generator(7, "masks", 3))
    torch.manual_seed(123)
    again = masks.sample_masks(6, (14, 14), generator=generator(7, "masks", 3))
    other = masks.sample_masks(6, (14, 14), generator=generator(7, "masks", 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_wrong_settings() -> None:
    with pytest.raises(SettingsError, match="half widths"):
        masks.Settings(ratios=(0.1,), half_widths=(0.2,))
    with pytest.raises(SettingsError, match="half widths"):
        masks.Settings(ratios=(0.1, 0.2), half_widths=(0.0,))
    with pytest.raises(SettingsError, match="min_aspect"):
        masks.Settings(min_aspect=0.0)
    with pytest.raises(SettingsError, match="ratio in"):
        masks.block_mask((14, 14), 1.5, generator=generator(0))
    with pytest.raises(SettingsError, match="patch"):
        masks.block_mask((0, 14), 0.5, generator=generator(0))
