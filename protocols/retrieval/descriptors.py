"""One descriptor per image for retrieval: images of individual sizes, several scales, class token or pooled patches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from evaltk.data.galleries import Photographs
from evaltk.data.transforms import Transform
from evaltk.errors import DataError
from evaltk.features.extraction import Extraction, extract
from evaltk.models.backbone import Backbone
from evaltk.types import Tokens

SHARD = 256  # images that an interrupted run loses at most, per process
SMALLEST = 1e-6  # GeM takes powers of positive values only; dino/eval_copy_detection.py


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail(Transform):
    """Longest side at most `resize`, aspect kept, never enlarged, no crop; by Lanczos with Pillow's box reduction."""

    def text(self) -> str:
        """All that pixels depend on, in one line."""
        return f"thumbnail {self.resize} Lanczos (Pillow), RGB/255, mean {self.mean}, std {self.std}"

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The reduced image, uint8 [h, w, 3]."""
        small = image.copy()
        small.thumbnail((self.resize, self.resize), Image.Resampling.LANCZOS)
        return np.asarray(small)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling:
    """How a descriptor is made from tokens after the final norm.

    Attributes:
        kind: ``cls``, ``gem`` (generalised mean of patches) or ``cls+gem`` (concatenated). power: of the mean.
        scales: factors by which the image is resized (bilinear, no antialias); descriptors are averaged unnormalised.
    """

    kind: Literal["cls", "gem", "cls+gem"] = "cls"
    power: float = 4.0
    scales: tuple[float, ...] = (1.0,)

    def text(self) -> str:
        """The pooling in one word, part of the cache key."""
        pooled = f"{self.kind}{self.power:g}" if "gem" in self.kind else self.kind
        return f"{pooled}/scales {' '.join(f'{s:.6g}' for s in self.scales)}"


def describe(
    backbone: Backbone,
    split: Photographs,
    transform: Thumbnail,
    pooling: Pooling,
    *,
    cache: Path,
    how: Extraction,
    together: bool,
) -> np.ndarray:
    """Descriptors [N, D] float32, not normalised, in the order of the split's images; from the cache where they are.

    Images pass one at a time, for their sizes differ. Arguments and errors beside these are those of
    `extract`.

    Raises: DataError: an image is smaller than a patch at some scale.
    """
    how, net = replace(how, batch_size=1, shard=SHARD), DescriptorNet(backbone)
    return extract(net, split, transform, (pooling,), cache=cache, how=how, together=together)[pooling].x


class DescriptorNet:
    """A `FeatureNet` over a backbone: its features are descriptors, averaged over the scales of a `Pooling`."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone, self.arch, self.device = backbone, backbone.arch, backbone.device
        self.digest, self.precision, self.position = backbone.digest, backbone.precision, backbone.position

    def features(self, images: torch.Tensor, poolings: tuple[Pooling, ...]) -> list[torch.Tensor]:
        """[B, D] for each pooling, from images [B, 3, H, W], normalised. Source: dino/utils.py:815-829."""
        return [self._average(images, pooling) for pooling in poolings]

    def _average(self, images: torch.Tensor, pooling: Pooling) -> torch.Tensor:
        parts = []
        for scale in pooling.scales:
            scaled = images
            if scale != 1:
                scaled = F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
            if min(scaled.shape[-2:]) < self.arch.patch_size:
                raise DataError(
                    wanted=f"images of at least one patch ({self.arch.patch_size} px)",
                    got=f"{scaled.shape[-1]} x {scaled.shape[-2]} at scale {scale:.3g}",
                    where="retrieval",
                    do="--retrieval.imsize larger, --retrieval.scales 1, or leave the image out",
                )
            (tokens,) = self.backbone.tokens(scaled)
            parts.append(pooled(tokens, pooling))
        return torch.stack(parts).sum(dim=0) / len(parts)


def pooled(tokens: Tokens, pooling: Pooling) -> torch.Tensor:
    """[B, D] (or [B, 2 D] for ``cls+gem``) of tokens, not normalised. GeM: mean(max(x, 1e-6)^p)^(1/p) over patches."""
    parts = [tokens.cls] if "cls" in pooling.kind else []
    if "gem" in pooling.kind:
        powers = tokens.patches.clamp(min=SMALLEST).pow(pooling.power)
        parts.append(powers.mean(dim=1).pow(1 / pooling.power))
    return torch.cat(parts, dim=1)
