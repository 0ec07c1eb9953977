"""Images and label maps as nets get them: random crops to learn from, whole images to report on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from evaltk.data.dense import VOID, DenseSplit
from evaltk.data.transforms import FILTERS, Transform
from evaltk.seeding import derive

SCALES = (0.5, 2.0)
TRIES, MOST = 10, 0.75  # crops tried until no class has more than this share (mmsegmentation, RandomCrop)


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """How images of a split become tensors for one net.

    Attributes:
        side: of crops, and shorter side of whole images, a multiple of `patch`. scaled: whether crops are of random
            scale. transform: the net's, for its mean, std and filter.
    """

    side: int
    patch: int
    scaled: bool
    transform: Transform
    seed: int

    def crop(self, split: DenseSplit, index: int, step: int, place: int) -> tuple[np.ndarray, np.ndarray]:
        """A random crop of a training image: (pixels uint8 [side, side, 3], classes uint8 [side, side]).

        The shorter side is resized to `side` times a random scale, both sides are padded to `side` at the right and
        bottom (label void), and half of the crops are mirrored. Drawn from (seed, step, place in the batch) alone.
        """
        rng = np.random.default_rng(derive(self.seed, "segmentation", "crop", step, place))
        pixels, labels = split.pair(index)
        scale = rng.uniform(*SCALES) if self.scaled else 1.0
        pixels, labels = self._resized(pixels, labels, max(1, round(self.side * scale)))
        height, width = labels.shape
        for _ in range(TRIES):
            top, left = (int(rng.integers(0, max(0, size - self.side) + 1)) for size in (height, width))
            part = labels[top : top + self.side, left : left + self.side]
            _, counts = np.unique(part[part != VOID], return_counts=True)
            if len(counts) > 1 and counts.max() < MOST * counts.sum():
                break
        image = pixels[top : top + self.side, left : left + self.side]
        missing = (self.side - part.shape[0], self.side - part.shape[1])
        if max(missing):
            pad = ((0, missing[0]), (0, missing[1]))
            gray = np.rint(np.multiply(self.transform.mean, 255)).astype(np.uint8)  # zero once it is normalised
            part, inside = np.pad(part, pad, constant_values=VOID), np.pad(np.ones(part.shape, bool), pad)
            image = np.where(inside[..., None], np.pad(image, (*pad, (0, 0))), gray)
        if rng.random() < 0.5:
            image, part = image[:, ::-1], part[:, ::-1]
        return np.ascontiguousarray(image), np.ascontiguousarray(part)

    def whole(self, pixels: np.ndarray) -> torch.Tensor:
        """A whole image [1, 3, h, w], normalised: shorter side about `side`, both sides whole patches, nothing cut."""
        image = Image.fromarray(pixels)
        scale = self.side / min(image.size)
        width, height = (max(1, round(size * scale / self.patch)) * self.patch for size in image.size)
        resized = np.asarray(image.resize((width, height), FILTERS[self.transform.interpolation]))
        return self.transform.normalise(torch.from_numpy(resized[None].copy()))

    def _resized(self, pixels: np.ndarray, labels: np.ndarray, short: int) -> tuple[np.ndarray, np.ndarray]:
        height, width = labels.shape
        factor = short / min(height, width)
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        image = Image.fromarray(pixels).resize(size, FILTERS[self.transform.interpolation])
        return np.asarray(image), np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
