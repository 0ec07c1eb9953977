"""Preprocessing for evaluation, in Pillow as in the reference: resize, centre crop, normalise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from evaltk.errors import SettingsError
from evaltk.types import EvalView, Interpolation, PixelView

if TYPE_CHECKING:
    import torch

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
View = Literal["eval", "msn", "ssl"]
OF_VIEW: dict[str, Interpolation] = {"msn": "bilinear", "ssl": "bicubic"}  # whatever the family's own
SMALL = 96  # nets for images smaller than this (CIFAR's, digits') are evaluated without a crop margin


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """Resize the shorter side to `resize` (the longer is truncated), crop the centre, scale to [0, 1], normalise.

    With `square`, both sides are resized to `resize`.
    """

    resize: int
    crop: int
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    square: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.resize:
            raise SettingsError(
                wanted="1 <= crop <= resize",
                got=f"crop {self.crop}, resize {self.resize}",
                where="--crop, --resize",
                do="choose a crop no larger than the resize",
            )
        if self.interpolation not in FILTERS:
            raise SettingsError(
                wanted="bicubic or bilinear", got=self.interpolation, where="--interpolation", do="use one of these"
            )
        if not (min(self.std) > 0 and all(map(math.isfinite, (*self.mean, *self.std)))):
            got = f"mean {self.mean}, std {self.std}"
            raise SettingsError(wanted="numbers, std > 0", got=got, where="--mean, --std", do="give three numbers each")

    def text(self) -> str:
        """All that pixels depend on, in one line; part of the cache key."""
        mean, std = (" ".join(f"{float(v)!r}" for v in values) for values in (self.mean, self.std))
        both = "both sides to " if self.square else ""
        sizes = f"resize {both}{self.resize} {self.interpolation} (Pillow), centre crop {self.crop}"
        return f"{sizes}, RGB/255, mean {mean}, std {std}"

    def recorded(self) -> PixelView:
        """The same as fields, for results."""
        return PixelView(
            text=self.text(),
            resize=self.resize,
            crop=self.crop,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
        )

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The cropped image, uint8 [crop, crop, 3]; normalising is left to the device."""
        width, height = image.size
        if self.square:
            size = (self.resize, self.resize)
        elif width <= height:
            size = (self.resize, int(self.resize * height / width))
        else:
            size = (int(self.resize * width / height), self.resize)
        if size != image.size:
            image = image.resize(size, FILTERS[self.interpolation])
        left, top = round((image.size[0] - self.crop) / 2.0), round((image.size[1] - self.crop) / 2.0)
        return np.asarray(image.crop((left, top, left + self.crop, top + self.crop)))

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [B, crop, crop, 3] -> float32 [B, 3, crop, crop], the same bits as ToTensor and Normalize give."""
        import torch

        from evaltk.sending import sent

        x = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        mean, std = sent([self.mean, self.std], x.device).view(2, 1, 3, 1, 1)
        return x.sub_(mean).div_(std)


def view(
    name: View,
    img_size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    *,
    resize: int | None = None,
    crop: int | None = None,
    interpolation: Literal["bicubic", "bilinear"] | None = None,
    family: EvalView | None = None,
) -> Transform:
    """The transform a protocol asks for by name, for a net of `img_size` px.

    Args:
        name: ``eval`` (256 -> 224, bicubic, where the net's family does not say otherwise), ``msn`` (the same,
            bilinear) or ``ssl`` (224 -> 224, bicubic); other image sizes in proportion. Nets for images below 96 px see
            the whole image: resized to their size, no margin.
        resize, crop, interpolation: what the user sets instead.
        family: how the net's family evaluates.
    """
    family = family or EvalView()
    if crop is None:
        usual = family.crop or img_size
        crop = usual if resize is None else min(resize, usual)
    margin = name != "ssl" and (img_size >= SMALL or family.crop is not None)
    return Transform(
        resize=resize if resize is not None else (int(crop * family.margin + 1e-6) if margin else crop),
        crop=crop,
        interpolation=interpolation or OF_VIEW.get(name) or family.interpolation,
        mean=mean,
        std=std,
        square=family.square,
    )
