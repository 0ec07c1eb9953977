"""Corruptions of images made on the fly: fourteen of the fifteen of ImageNet-C, by severity 1 to 5.

Kinds and severities are those of Hendrycks and Dietterich, ICLR 2019 (arXiv 1903.12261), written anew for images of any
size: lengths in pixels, which are theirs at 224 px, grow with the shorter side. Pixels are not theirs bit for bit, so
results are for comparing nets with each other. Frost is left out, as it is made of photographs.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from PIL import Image

from evaltk.data.images import Split
from evaltk.data.transforms import FILTERS
from evaltk.seeding import derive

VERSION = 1  # rises when pixels change
SEVERITIES = (1, 2, 3, 4, 5)
REFERENCE = 224  # side in pixels that lengths are stated for
Corrupt = Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]  # x [H, W, 3] in [0, 1], setting, stream


def _gaussian_noise(x: np.ndarray, std: float, rng: np.random.Generator) -> np.ndarray:
    return x + rng.normal(scale=std, size=x.shape)


def _shot_noise(x: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    return rng.poisson(x * photons) / photons


def _impulse_noise(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    draw = rng.random(x.shape)
    return np.where(draw < share / 2, 0.0, np.where(draw < share, 1.0, x))


def _defocus_blur(x: np.ndarray, setting: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    from scipy import ndimage

    radius, soft = setting[0] * _scale(x), setting[1]
    reach = max(1, math.ceil(radius))
    along = np.arange(-reach, reach + 1)
    disk = (along[:, None] ** 2 + along**2 <= radius**2).astype(np.float64)
    kernel = ndimage.gaussian_filter(np.pad(disk, 2), soft)
    return ndimage.convolve(x, (kernel / kernel.sum())[..., None], mode="mirror")


def _glass_blur(x: np.ndarray, setting: tuple[float, int, int], rng: np.random.Generator) -> np.ndarray:
    from scipy import ndimage

    sigma, far, times = setting[0] * _scale(x), max(1, round(setting[1] * _scale(x))), setting[2]
    height, width = x.shape[:2]
    place = np.arange(height * width).reshape(height, width).tolist()
    for _ in range(times):
        steps = rng.integers(-far, far + 1, size=(height, width, 2)).tolist()
        for row in range(height - 1 - far, far - 1, -1):
            for column in range(width - 1 - far, far - 1, -1):
                down, right = steps[row][column]
                there = place[row + down]
                place[row][column], there[column + right] = there[column + right], place[row][column]
    blurred = ndimage.gaussian_filter(x, (sigma, sigma, 0))
    shuffled = blurred.reshape(-1, 3)[np.asarray(place).reshape(-1)].reshape(x.shape)
    return ndimage.gaussian_filter(shuffled, (sigma, sigma, 0))


def _motion(x: np.ndarray, radius: float, sigma: float, degrees: float) -> np.ndarray:
    """A one-sided Gaussian trail of x [H, W, C] along an angle; edges are repeated."""
    reach = max(1, round(2 * radius))
    weights = np.exp(-(np.arange(reach + 1) ** 2) / (2 * max(sigma, 1e-3) ** 2))
    down, right = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    total = np.zeros_like(x)
    for i, weight in enumerate(weights / weights.sum()):
        top, left = reach + round(i * down), reach + round(i * right)
        total += weight * padded[top : top + x.shape[0], left : left + x.shape[1]]
    return total


def _motion_blur(x: np.ndarray, setting: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    radius, sigma = (value * _scale(x) for value in setting)
    return _motion(x, radius, sigma, rng.uniform(-45, 45))


def _zoomed(x: np.ndarray, factor: float) -> np.ndarray:
    """The middle of x [H, W, C], enlarged by `factor` to the size of x, bilinearly."""
    from scipy import ndimage

    height, width = x.shape[:2]
    rows, columns = ((np.arange(n) - (n - 1) / 2) / factor + (n - 1) / 2 for n in (height, width))
    at = np.meshgrid(rows, columns, indexing="ij")
    return np.stack([ndimage.map_coordinates(x[..., c], at, order=1) for c in range(x.shape[2])], axis=2)


def _zoom_blur(x: np.ndarray, setting: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    most, step = setting
    factors = np.arange(1, most + 1e-9, step)
    return (x + sum(_zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


def _snow(x: np.ndarray, setting: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    mean, std, zoom, least, radius, sigma, kept = setting
    layer = _zoomed(rng.normal(mean, std, size=(*x.shape[:2], 1)), zoom)
    layer = np.where(layer < least, 0, layer.clip(0, 1))
    layer = _motion(layer, radius * _scale(x), sigma * _scale(x), rng.uniform(-135, -45))
    gray = (x @ (0.299, 0.587, 0.114))[..., None]
    lighter = kept * x + (1 - kept) * np.maximum(x, gray * 1.5 + 0.5)
    turned = layer[::-1, ::-1]
    return lighter + layer + turned


def _fog(x: np.ndarray, setting: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    strength, decay = setting
    most = float(x.max())
    side = 2 ** math.ceil(math.log2(max(x.shape[:2])))
    foggy = x + strength * _plasma(side, decay, rng)[: x.shape[0], : x.shape[1], None]
    return foggy * most / (most + strength)


def _plasma(side: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """A height map [side, side] in [0, 1] that wraps round, by the diamond-square method; side: a power of two."""
    heights, step, wobble = np.zeros((side, side)), side, 100.0
    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        around = corners + np.roll(corners, -1, 0)
        heights[half::step, half::step] = _jittered(around + np.roll(around, -1, 1), wobble, rng)
        middles = heights[half::step, half::step]
        above, beside = middles + np.roll(middles, 1, 0), middles + np.roll(middles, 1, 1)
        heights[::step, half::step] = _jittered(above + corners + np.roll(corners, -1, 1), wobble, rng)
        heights[half::step, ::step] = _jittered(beside + corners + np.roll(corners, -1, 0), wobble, rng)
        step, wobble = half, wobble / decay
    heights -= heights.min()
    return heights / max(float(heights.max()), np.finfo(np.float64).tiny)


def _jittered(total: np.ndarray, wobble: float, rng: np.random.Generator) -> np.ndarray:
    return total / 4 + wobble * rng.uniform(-wobble, wobble, size=total.shape)


def _brightness(x: np.ndarray, more: float, rng: np.random.Generator) -> np.ndarray:
    """The value of hue, saturation and value raised, the other two kept."""
    value = x.max(axis=2, keepdims=True)
    raised = np.minimum(value + more, 1)
    return np.where(value > 0, x * raised / np.maximum(value, 1e-12), raised)


def _contrast(x: np.ndarray, kept: float, rng: np.random.Generator) -> np.ndarray:
    mean = x.mean(axis=(0, 1), keepdims=True)
    return (x - mean) * kept + mean


def _elastic(x: np.ndarray, setting: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """A random affine map of three points, then a smooth random displacement."""
    from scipy import ndimage

    far, sigma, shift = (value * _scale(x) for value in setting)
    height, width = x.shape[:2]
    centre, part = np.array([height, width]) // 2, min(height, width) // 3
    signs = np.array([[1, 1], [1, -1], [-1, -1]])
    points = (centre + part * signs).astype(np.float64)
    moved = points + rng.uniform(-shift, shift, size=points.shape)
    back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), points)  # from the new places to the old ones
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    fields = (
        far * ndimage.gaussian_filter(rng.uniform(-1, 1, size=(height, width)), sigma, mode="reflect", truncate=3)
        for _ in range(2)
    )
    at = np.stack([rows, columns, np.ones_like(rows)], axis=-1).astype(np.float64)
    at[..., :2] += np.stack(list(fields), axis=-1)
    source = np.moveaxis(at @ back, -1, 0)
    return np.stack([ndimage.map_coordinates(x[..., c], source, order=1, mode="reflect") for c in range(3)], axis=2)


def _pixelate(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    image = _image(x)
    small = (max(1, int(image.width * share)), max(1, int(image.height * share)))
    return _values(image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST))


def _jpeg(x: np.ndarray, quality: int, rng: np.random.Generator) -> np.ndarray:
    buffer = io.BytesIO()
    _image(x).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer, formats=("JPEG",)) as image:
        return _values(image.convert("RGB"))


# Name -> how, and its setting at severities 1 to 5 (imagenet_c/corruptions.py of hendrycks/robustness).
KINDS: dict[str, tuple[Corrupt, tuple[Any, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (_shot_noise, (60, 25, 12, 5, 3)),
    "impulse_noise": (_impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": (_defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    "glass_blur": (_glass_blur, ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))),
    "motion_blur": (_motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom_blur": (_zoom_blur, ((1.1, 0.01), (1.15, 0.01), (1.2, 0.02), (1.24, 0.02), (1.3, 0.03))),
    "snow": (
        _snow,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "fog": (_fog, ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": (
        _elastic,
        ((488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88), (29.28, 2.44, 4.88)),
    ),
    "pixelate": (_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": (_jpeg, (25, 18, 15, 10, 7)),
}


def corrupted(image: Image.Image, name: str, severity: int, rng: np.random.Generator) -> Image.Image:
    """An RGB image of any size, corrupted. Raises: KeyError: no such corruption; IndexError: no such severity."""
    how, settings = KINDS[name]
    return _image(how(_values(image), settings[severity - 1], rng))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Corrupted(Split):
    """A split whose images are corrupted as they are opened, each by a stream of its own.

    `resize` and `interpolation` are those of the net's preprocessing: the shorter side is resized first, as the images
    of ImageNet-C were, so that a corruption is as strong for large images as for small ones. `square`: both sides are.
    """

    source: Split
    corruption: str
    severity: int
    seed: int
    resize: int
    interpolation: str
    square: bool = False

    def taken(self, rows: np.ndarray, *, name: str, fingerprint: str) -> Self:
        """The images at `rows` [n] int64, each with the stream of its name; without one, of its number in the part."""
        part = Split.taken(self, rows, name=name, fingerprint=fingerprint)
        return replace(part, source=self.source.taken(rows, name=name, fingerprint=fingerprint))

    def image_id(self, index: int) -> str:
        """That of the source."""
        return self.source.image_id(index)

    def open(self, index: int) -> Image.Image:
        """The image, its shorter side resized, corrupted. Raises: DataError: it cannot be decoded."""
        image = self.source.open(index)
        width, height = image.size
        short = min(width, height)
        size = (int(self.resize * width / short), int(self.resize * height / short))
        size = (self.resize, self.resize) if self.square else size
        if size != image.size:
            image = image.resize(size, FILTERS[self.interpolation])
        stream = derive(self.seed, "corruption", VERSION, self.corruption, self.severity, self.image_id(index))
        return corrupted(image, self.corruption, self.severity, np.random.default_rng(stream))


def _scale(x: np.ndarray) -> float:
    return min(x.shape[:2]) / REFERENCE


def _values(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=np.float64) / 255


def _image(x: np.ndarray) -> Image.Image:
    return Image.fromarray((x.clip(0, 1) * 255).astype(np.uint8))
