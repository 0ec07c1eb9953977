"""One checkpoint's view of the images shown: the pixels it is given, its attention and its patch tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from evaltk.bench import Bench
from evaltk.data.images import Split
from evaltk.data.transforms import FILTERS, Transform
from evaltk.errors import DataError
from evaltk.models import attention

LONGEST = 8  # an image's longer side over its shorter one, where it is shown whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a checkpoint makes of images.

    Attributes:
        name: of the checkpoint. words: what it is.
        pixels: of each image as the net gets it, uint8 [H, W, 3]. maps: its attention [heads, h, w] float32; () where
            there is none. patches: its patch tokens after the final norm [h, w, D]; () for a net with a single one.
        missing: {picture: why there is none}.
    """

    name: str
    words: str
    pixels: tuple[np.ndarray, ...]
    maps: tuple[np.ndarray, ...] = ()
    patches: tuple[np.ndarray, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """The whole image, its shorter side resized as the centre crop of `of` would be, cut to whole patches."""

    of: Transform
    patch: int

    def pixels(self, image) -> np.ndarray:  # type: ignore[no-untyped-def]
        """uint8 [H, W, 3]."""
        width, height = image.size
        scale = self.of.crop / min(width, height)
        size = tuple(max(self.of.crop, round(side * scale)) for side in (width, height))
        if size != image.size:
            image = image.resize(size, FILTERS[self.of.interpolation])
        cut = tuple(max(1, side // self.patch) * self.patch for side in size) if self.patch else size
        return np.asarray(image.crop((0, 0, min(cut[0], size[0]), min(cut[1], size[1]))))

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [B, H, W, 3] -> float32 [B, 3, H, W]."""
        return self.of.normalise(pixels)


def look(bench: Bench, split: Split, *, name: str, block: int | None = None, whole: bool = False) -> Seen:
    """Pass the images of a split through a net, one by one.

    Args:
        block: whose attention (1 is the first; None: the last). whole: whole images instead of the net's centre crop.

    Raises: SettingsError: no such block, a size that the net cannot take. DataError: an unreadable image, or a whole
        one that is too long.
    """
    backbone, arch = bench.backbone, bench.backbone.arch
    transform = bench.transform()
    view = Whole(of=transform, patch=arch.patch_size) if whole else transform
    attending = bool(attention.layers(backbone))
    pixels, maps, patches = [], [], []
    for index in range(len(split)):
        opened = split.open(index)
        if whole:
            _check_shape(opened.size, split.image_id(index))
        image = view.pixels(opened)
        x = view.normalise(torch.from_numpy(np.array(image)[None]))
        tokens = backbone.tokens(x)[-1]
        h, w = tokens.grid
        pixels.append(_covered(image, h, w, arch.patch_size))
        patches.append(tokens.patches[0].reshape(h, w, -1).cpu().numpy())
        if attending:
            maps.append(attention.class_attention(backbone, x, block=block)[0].cpu().numpy())
    missing = {}
    if not attending:
        missing["attention"] = f"no attention maps: {_kind(bench)} has no class token that attends to patches"
    if max(p.shape[0] * p.shape[1] for p in patches) < 4:
        missing["patches"] = f"no pictures of patches: {_kind(bench)} makes fewer than four of these images"
        maps, patches = [], []
        missing.setdefault("attention", missing["patches"])
    return Seen(
        name=name,
        words=_words(bench, pixels[0].shape, patches[0].shape[:2] if patches else (1, 1)),
        pixels=tuple(pixels),
        maps=tuple(maps),
        patches=tuple(patches),
        missing=missing,
    )


def _check_shape(size: tuple[int, int], name: str) -> None:
    """A strip, whose shorter side becomes the crop's, would be more patches than attention has memory for."""
    if max(size) > LONGEST * min(size):
        wanted = f"images at most {LONGEST} times as long as wide, for --whole"
        got = f"{size[0]} x {size[1]} px"
        raise DataError(wanted=wanted, got=got, where=name, do="leave --whole out: it is cropped then")


def _covered(image: np.ndarray, h: int, w: int, patch: int) -> np.ndarray:
    """The part of an image that its patches cover."""
    return image[: min(len(image), h * patch), : min(image.shape[1], w * patch)] if patch else image


def _kind(bench: Bench) -> str:
    arch = bench.backbone.arch
    return f"{arch.name} ({arch.kind}, class feature: {arch.pool})"


def _words(bench: Bench, shape: tuple[int, ...], grid: tuple[int, ...]) -> str:
    c = bench.checkpoint
    heads = f", {c.arch.num_heads} heads" if c.arch.num_heads else ""
    branch = f", {c.branch}" if c.branch else ""
    size = f"{shape[1]} x {shape[0]} px, {grid[1]} x {grid[0]} patches"
    return f"{c.arch.name}{heads} ({c.family}{branch}); first image as the net gets it: {size}"
