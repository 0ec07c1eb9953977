"""Preprocessing by a function, PIL image -> tensor [3, H, W], as torchvision's and timm's transforms are.

One that resizes, crops the centre and normalises as `Transform` does is read as such; that it is, is tried on images.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from evaltk.data.transforms import Transform
from evaltk.errors import DataError, SettingsError
from evaltk.types import PixelView

SIZES = ((300, 200), (200, 300))  # of the images that a function is tried on, so that it must crop
CLOSE = 1e-5  # two ways to the same pixels, after normalising
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OwnTransform:
    """A function as preprocessing, for images that are evaluated as they are. crop: side of what it gives, pixels."""

    function: Callable[[Image.Image], Any]
    crop: int

    def text(self) -> str:
        """What the function calls itself, on one line; it does not identify what it does."""
        return "the user's own: " + " ".join(ADDRESS.sub("", repr(self.function)).split())

    def recorded(self) -> PixelView:
        """The same as fields, for results."""
        return PixelView(text=self.text(), crop=self.crop)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """float32 [3, crop, crop]. Raises: DataError: the function fails, or gives something else."""
        try:
            found = self.function(image)
        except Exception as error:  # the user's own code may raise anything
            got = f"{type(error).__name__}: {error}"
            raise DataError(wanted="a transform that takes any image", got=got, where="transform") from error
        if not (isinstance(found, torch.Tensor) and found.shape == (3, self.crop, self.crop)):
            got = f"{_shape(found)} from the transform, not [3, {self.crop}, {self.crop}]"
            raise DataError(wanted=f"[3, {self.crop}, {self.crop}]", got=got, where="transform")
        return found.detach().float().cpu().numpy()

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, 3, crop, crop] as it is: the function has normalised it."""
        return pixels


def read(function: Callable[[Image.Image], Any]) -> Transform | OwnTransform:
    """The preprocessing a function stands for.

    Raises: SettingsError: its output is not a float tensor [3, H, H] of one size for all images, or it is random.
    """
    images = noise()
    found = [_tried(function, image) for image in images]
    if not all(torch.equal(a, _tried(function, image)) for a, image in zip(found, images, strict=True)):
        do = "use the transform of validation, without random crops and flips"
        raise SettingsError(wanted="a transform without random steps", got="a random one", where="transform", do=do)
    if len({tuple(one.shape) for one in found}) > 1 or found[0].shape[1] != found[0].shape[2]:
        got, do = " and ".join(str(list(one.shape)) for one in found), "add a CenterCrop after the Resize"
        raise SettingsError(wanted="square images of one size", got=got, where="transform", do=do)
    known = _known(function)
    if known is not None and all(
        mine.shape == theirs.shape and float((mine - theirs).abs().max()) <= CLOSE
        for image, theirs in zip(images, found, strict=True)
        for mine in [known.normalise(torch.from_numpy(known.pixels(image).copy())[None])[0]]
    ):
        return known
    return OwnTransform(function=function, crop=found[0].shape[1])


def noise() -> tuple[Image.Image, ...]:
    """Images to try a function out on, one wide and one tall, the same every time."""
    rng = np.random.default_rng(0)
    return tuple(Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in SIZES)


def _tried(function: Callable[[Image.Image], Any], image: Image.Image) -> torch.Tensor:
    try:
        found = function(image)
    except Exception as error:  # the user's own code may raise anything
        got = f"{type(error).__name__}: {str(error)[:160]}"
        wanted, do = "a transform: PIL image -> tensor [3, H, W]", "pass transform=dict(crop=, mean=, std=)"
        raise SettingsError(wanted=wanted, got=got, where="transform", do=do) from error
    if not isinstance(found, torch.Tensor) or found.ndim != 3 or len(found) != 3 or not found.is_floating_point():
        wanted, do = "a float tensor [3, H, W] per image", "end the transform with ToTensor and Normalize"
        raise SettingsError(wanted=wanted, got=_shape(found), where="transform", do=do)
    return found.detach().float().cpu()


def _shape(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__


def _known(function: Any) -> Transform | None:
    """What torchvision's preset or composition says of itself, None where it is no resize, crop and normalise."""
    steps = getattr(function, "transforms", None)
    if steps is None:
        fields = ("resize_size", "crop_size", "interpolation", "mean", "std")
        said = [getattr(function, name, None) for name in fields]
    else:
        named = {type(step).__name__: step for step in steps}
        resize, crop = named.get("Resize"), named.get("CenterCrop")
        normalise = named.get("Normalize")
        said = [
            getattr(resize, "size", None),
            getattr(crop, "size", None),
            getattr(resize, "interpolation", None),
            getattr(normalise, "mean", None),
            getattr(normalise, "std", None),
        ]
    try:
        size, side = (_side(value) for value in said[:2])
        mean, std = (_triple(value) for value in said[3:])
        filter_ = str(getattr(said[2], "value", said[2]))
        return Transform(resize=size, crop=side, interpolation=filter_, mean=mean, std=std)  # type: ignore[arg-type]
    except (TypeError, ValueError, SettingsError):
        return None


def _triple(value: Any) -> tuple[float, ...]:
    """Numbers, those of a float32 tensor as they were written. Raises: TypeError, ValueError: none."""
    if isinstance(value, torch.Tensor):
        return tuple(float(f"{v:.7g}") for v in value.flatten().tolist())
    return tuple(float(v) for v in value)


def _side(value: Any) -> int:
    """A side in pixels. Raises: TypeError, ValueError: sides that differ, or none."""
    (side,) = {int(v) for v in (value if isinstance(value, list | tuple) else (value,))}
    return side
