"""Multi-crop views: parameters drawn per image, and their application by Pillow (the reference).

The parameters of an image's views depend only on the run's seed, the epoch and the image, not on the number of
processes or workers; `views_device` applies the same parameters to batched tensors.
Source: dino main_dino.py:419-464, utils.py:36-68; msn src/data_manager.py:64-112; torchvision's RandomResizedCrop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from evaltk.seeding import derive

ATTEMPTS = 10  # of RandomResizedCrop to find a box within the image
RATIO = (3 / 4, 4 / 3)
DRAWS = 2 * ATTEMPTS + 17  # uniform numbers per view
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
SOLARIZE_THRESHOLD = 128

Range = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """Multi-crop (dino/main_dino.py:419-464). Sizes in pixels, scales as shares of the image's area.

    Attributes:
        where: workers (Pillow, the reference) or device (the same parameters, batched tensors).
        decode: of JPEG files, by workers (Pillow), or where the views are made on the device: by nvJPEG on a GPU.
        blur, solarize: probabilities for the first global, the second global, the locals.
    """

    where: Literal["workers", "device"] = "workers"
    decode: Literal["workers", "device"] = "workers"
    num_global: int = 2
    num_local: int = 10
    global_size: int = 224
    local_size: int = 96
    global_scale: Range = (0.25, 1.0)
    local_scale: Range = (0.05, 0.25)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_prob: float = 0.8
    gray_prob: float = 0.2
    flip_prob: float = 0.5
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)
    blur_radius: Range = (0.1, 2.0)
    solarize: tuple[float, float, float] = (0.0, 0.2, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Params:
    """Augmentation parameters of V views of one image (or of B images: [B, V, ...]).

    box [.., 4]: top, left, height, width in pixels. flip, jitter, gray, blur, solarize: bool [..]. factors [.., 4]:
    brightness, contrast, saturation factors and hue shift. order [.., 4]: of application. radius [..]: of the blur.
    """

    box: Tensor
    flip: Tensor
    jitter: Tensor
    factors: Tensor
    order: Tensor
    gray: Tensor
    blur: Tensor
    radius: Tensor
    solarize: Tensor


def sizes(views: Views) -> list[int]:
    """Side of each view in pixels, globals first."""
    return [views.global_size] * views.num_global + [views.local_size] * views.num_local


def draw(views: Views, seed: int, epoch: int, index: int, width: int, height: int) -> Params:
    """Parameters of all views of image `index` (width x height pixels) in an epoch."""
    return row(draw_all(views, seed, [(epoch, index)], [(width, height)]), 0)


def draw_all(views: Views, seed: int, keys: Sequence[tuple[int, int]], sizes: Sequence[tuple[int, int]]) -> Params:
    """`draw` for B images at once, [B, V, ...], to the same bits; keys: (epoch, index), sizes: (width, height)."""
    count = views.num_global + views.num_local
    streams = (torch.Generator().manual_seed(derive(seed, "views", epoch, index)) for epoch, index in keys)
    u = torch.stack([torch.rand(count, DRAWS, generator=stream, dtype=torch.float64) for stream in streams])
    kind = torch.tensor([min(i, 1) if i < views.num_global else 2 for i in range(count)])
    scales = [views.global_scale if i < views.num_global else views.local_scale for i in range(count)]
    rest = u[..., 2 * ATTEMPTS :]
    strength = torch.tensor(views.jitter, dtype=torch.float64)
    low, high = (1 - strength[:3]).clamp(min=0), 1 + strength[:3]
    factors = torch.cat([low + (high - low) * rest[..., 4:7], strength[3] * (2 * rest[..., 7:8] - 1)], dim=-1)
    start, stop = views.blur_radius
    boxes = [
        [_box(numbers, scale, *size) for numbers, scale in zip(image, scales, strict=True)]
        for image, size in zip(u.tolist(), sizes, strict=True)
    ]
    return Params(
        box=torch.tensor(boxes),
        flip=rest[..., 2] < views.flip_prob,
        jitter=rest[..., 3] < views.jitter_prob,
        factors=factors,
        order=rest[..., 8:12].argsort(dim=-1, stable=True),
        gray=rest[..., 12] < views.gray_prob,
        blur=rest[..., 13] < torch.tensor(views.blur, dtype=torch.float64)[kind],
        radius=start + (stop - start) * rest[..., 14],
        solarize=rest[..., 15] < torch.tensor(views.solarize, dtype=torch.float64)[kind],
    )


def row(params: Params, index: int) -> Params:
    """The parameters of one of B images."""
    return Params(**{name: getattr(params, name)[index] for name in Params.__slots__})


def _box(numbers: Sequence[float], scale: Range, width: int, height: int) -> tuple[int, int, int, int]:
    """(top, left, height, width) as in torchvision's RandomResizedCrop."""
    low, high = scale
    where_top, where_left = numbers[2 * ATTEMPTS], numbers[2 * ATTEMPTS + 1]
    log_low, log_high = math.log(RATIO[0]), math.log(RATIO[1])
    for attempt in range(ATTEMPTS):
        area = width * height * (low + (high - low) * numbers[2 * attempt])
        ratio = math.exp(log_low + (log_high - log_low) * numbers[2 * attempt + 1])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(where_top * (height - h + 1)), int(where_left * (width - w + 1)), h, w
    ratio = width / height  # the largest centred box within the range of ratios
    w, h = width, height
    if ratio < RATIO[0]:
        h = round(w / RATIO[0])
    elif ratio > RATIO[1]:
        w = round(h * RATIO[1])
    return (height - h) // 2, (width - w) // 2, h, w


def render(image: Image.Image, params: Params, views: Views) -> list[np.ndarray]:
    """The views of one RGB image, rendered by Pillow: uint8 [size, size, 3] each, not normalised."""
    return [_render_one(image, params, i, size, views) for i, size in enumerate(sizes(views))]


def _render_one(image: Image.Image, p: Params, i: int, size: int, views: Views) -> np.ndarray:
    top, left, height, width = p.box[i].tolist()
    # Crop before resizing, so that pixels outside the box do not bleed in.
    view = image.crop((left, top, left + width, top + height)).resize((size, size), FILTERS[views.interpolation])
    if p.flip[i]:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if p.jitter[i]:
        adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
        for which in p.order[i].tolist():
            view = adjust[which](view, float(p.factors[i, which]))
    if p.gray[i]:
        view = view.convert("L").convert("RGB")
    if p.blur[i]:
        view = view.filter(ImageFilter.GaussianBlur(radius=float(p.radius[i])))
    if p.solarize[i]:
        view = ImageOps.solarize(view, SOLARIZE_THRESHOLD)
    return np.asarray(view)


def stack(many: list[Params]) -> Params:
    """The parameters of B images, [B, V, ...]."""
    return Params(**{name: torch.stack([getattr(p, name) for p in many]) for name in Params.__slots__})
