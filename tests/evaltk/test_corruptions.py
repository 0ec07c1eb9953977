"""Corruptions made on the fly: each by a formula or property of its own, growing with severity, the same every time."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import pytest
from PIL import Image

from evaltk.data import corruptions, images
from evaltk.data.corruptions import KINDS, Corrupted, corrupted


def picture(height: int = 48, width: int = 64) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    waves = [127 + 90 * np.sin(x / 5 + i) * np.cos(y / (6 + i)) for i in range(3)]
    return Image.fromarray(np.stack(waves, axis=2).astype(np.uint8))


def change(name: str, severity: int, image: Image.Image) -> np.ndarray:
    return np.asarray(corrupted(image, name, severity, np.random.default_rng(0)), dtype=np.float64)


@pytest.mark.parametrize("name", KINDS)
def test_each_keeps_the_size_and_is_the_same_again(name: str) -> None:
    for size in ((48, 64), (9, 7)):
        image = picture(*size)
        once, again = (change(name, 3, image) for _ in range(2))
        assert once.shape == (*size, 3) and np.array_equal(once, again)


@pytest.mark.parametrize("name", sorted({*KINDS} - {"snow", "elastic_transform", "brightness", "glass_blur"}))
def test_more_severe_is_farther_from_the_image(name: str) -> None:
    """Snow saturates, elastic distortion and glass mix two lengths; brightness is checked by its formula."""
    image = picture(112, 112)
    gaps = [np.abs(change(name, s, image) - np.asarray(image)).mean() for s in (1, 3, 5)]
    assert 0 < gaps[0] < gaps[2] and gaps == sorted(gaps)


def test_noise_has_its_spread() -> None:
    gray = Image.new("RGB", (200, 200), (128, 128, 128))
    assert change("gaussian_noise", 1, gray).std() / 255 == pytest.approx(0.08, rel=0.02)
    assert change("shot_noise", 1, gray).std() / 255 == pytest.approx(np.sqrt(0.5 / 60), rel=0.03)
    hit = change("impulse_noise", 5, gray)
    assert [(hit == end).mean() for end in (0, 255)] == pytest.approx([0.135, 0.135], abs=0.005)


def test_formulas() -> None:
    image = picture()
    x = np.asarray(image, dtype=np.float64) / 255
    mean = x.mean((0, 1))
    np.testing.assert_allclose(change("contrast", 2, image) / 255, (x - mean) * 0.3 + mean, atol=1.01 / 255)
    lifted = change("brightness", 3, image) / 255
    for row, column in ((0, 0), (20, 33), (47, 63)):
        h, s, v = colorsys.rgb_to_hsv(*x[row, column])
        np.testing.assert_allclose(lifted[row, column], colorsys.hsv_to_rgb(h, s, min(1, v + 0.3)), atol=1.01 / 255)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=10)
    np.testing.assert_array_equal(change("jpeg_compression", 4, image), np.asarray(Image.open(buffer)))
    blocks = change("pixelate", 2, image)
    np.testing.assert_array_equal(blocks[::2, ::2], blocks[1::2, 1::2])  # half the size: blocks of 2 x 2
    assert np.abs(blocks[0, 0] - 255 * x[:2, :2].mean((0, 1))).max() <= 1


def test_blurs_keep_the_mean_and_black_stays_black_but_for_fog() -> None:
    image = picture(112, 112)
    for name in ("defocus_blur", "glass_blur", "motion_blur"):
        assert abs(change(name, 3, image).mean() - np.asarray(image).mean()) < 3
    black = Image.new("RGB", (32, 32))
    assert not change("defocus_blur", 5, black).any() and not change("contrast", 5, black).any()
    assert not change("fog", 5, black).any()  # fog is at most as bright as the image


def test_a_split_is_resized_first_and_each_image_has_a_stream_of_its_own() -> None:
    pixels = np.full((2, 20, 30, 3), 100, np.uint8)
    source = images.from_arrays("x", "test", pixels, np.array([0, 1]), ["a", "b"])
    common = {"dataset": "x", "name": "n", "classes": source.classes, "labels": source.labels, "fingerprint": "f"}
    split = Corrupted(
        **common,  # type: ignore[arg-type]
        source=source,
        corruption="gaussian_noise",
        severity=1,
        seed=0,
        resize=10,
        interpolation="bicubic",
    )
    first, second = (np.asarray(split.open(i)) for i in range(2))
    assert first.shape == (10, 15, 3) and not np.array_equal(first, second)
    assert np.array_equal(first, np.asarray(split.open(0)))
    assert corruptions.SEVERITIES == (1, 2, 3, 4, 5) and all(len(settings) == 5 for _, settings in KINDS.values())


def test_a_part_of_a_split_is_corrupted_too() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    source = images.from_arrays("x", "test", pixels, np.array([0, 1, 1]), ["a", "b"])
    common = {"dataset": "x", "name": "n", "classes": source.classes, "labels": source.labels, "fingerprint": "f"}
    how = {"corruption": "contrast", "severity": 2, "seed": 0, "resize": 20, "interpolation": "bicubic"}
    split = Corrupted(**common, **how, source=source)  # type: ignore[arg-type]
    part = split.taken(np.array([2, 0]), name="part", fingerprint="g")
    assert (len(part), part.name, part.fingerprint, part.labels.tolist()) == (2, "part", "g", [1, 0])
    for row, index in enumerate((2, 0)):
        assert np.array_equal(np.asarray(part.open(row)), np.asarray(split.open(index)))
