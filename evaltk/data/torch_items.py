"""Items of PyTorch datasets: images in any of their customary forms as 8-bit RGB, labels as integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from evaltk.data import decoding
from evaltk.errors import DataError, some

WANTED = "an image: PIL, uint8 array [H, W, 3], or tensor [3, H, W], uint8 or float in [0, 1]"
IMAGE_KEYS, LABEL_KEYS = ("image", "img"), ("label", "labels")  # of items that are dicts


def read(source: Any, index: int, where: str) -> tuple[Image.Image, int, bool]:
    """(RGB image, label, whether its pixels were rounded to 8 bits). Raises: DataError."""
    place = f"{where}, image {index}"
    try:
        item = source[index]
    except Exception as error:  # a dataset of the user's may raise anything
        raise DataError(
            wanted="an image and its label",
            got=f"{type(error).__name__}: {error}",
            where=place,
            do="fix the dataset, or leave the image out with torch.utils.data.Subset",
        ) from error
    image, label = _pair(item, place)
    rgb, rounded = _rgb(image, place)
    return rgb, _label(label, place), rounded


def _pair(item: Any, place: str) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        found = [[key for key in keys if key in item] for keys in (IMAGE_KEYS, LABEL_KEYS)]
        if all(len(keys) == 1 for keys in found):
            return item[found[0][0]], item[found[1][0]]
        got = f"a dict of {some(sorted(map(str, item)))}"
    elif isinstance(item, Sequence) and not isinstance(item, str) and len(item) >= 2:
        return item[0], item[1]
    else:
        got = _described(item)
    raise DataError(
        wanted="(image, label), or a dict of one image and one label",
        got=got,
        where=place,
        do="wrap the dataset in one whose __getitem__ returns (image, label)",
    )


def _rgb(image: Any, place: str) -> tuple[Image.Image, bool]:
    """The image as 8-bit RGB, and whether its values had to be rounded."""
    if isinstance(image, Image.Image):
        try:
            return decoding.as_rgb(image, "as-reference"), False
        except ValueError as error:
            raise _wrong(str(error), place, "scale it to 8 bits in the dataset") from error
    rounded = False
    if isinstance(image, torch.Tensor):
        pixels = image.detach().cpu()
        if pixels.ndim == 3 and pixels.shape[0] in (1, 3):
            pixels = pixels.permute(1, 2, 0)
        elif pixels.ndim != 2:
            raise _wrong(_described(image), place, "return the image before it is batched or permuted")
        if pixels.is_floating_point():
            pixels, rounded = _eight_bits(pixels.double(), place)
        array = pixels.numpy()
    else:
        array = image
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        raise _wrong(_described(image), place, "convert it: torchvision.transforms.functional.to_pil_image")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3) or not array.size:
        raise _wrong(_described(image), place, "convert it to RGB")
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))), rounded


def _eight_bits(pixels: torch.Tensor, place: str) -> tuple[torch.Tensor, bool]:
    low, high = (float(v) for v in pixels.aminmax()) if pixels.numel() else (0.0, 0.0)
    if not (low >= 0.0 and high <= 1.0):
        do = "leave Normalize out of the dataset's transform: evaltk normalises as each net needs"
        raise _wrong(f"values from {low:.3g} to {high:.3g}", place, do)
    levels = pixels * 255
    whole = levels.round()
    return whole.to(torch.uint8), bool((levels - whole).abs().max() > 1e-3) if pixels.numel() else False


def _label(label: Any, place: str) -> int:
    value = label
    if isinstance(label, torch.Tensor | np.ndarray) and label.ndim == 0:
        value = label.item()
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise DataError(
            wanted="an integer label >= 0",
            got=_described(label),
            where=place,
            do="wrap the dataset in one that returns (image, class id)",
        )
    return int(value)


def _described(value: Any) -> str:
    if isinstance(value, torch.Tensor | np.ndarray):
        kind = "a tensor" if isinstance(value, torch.Tensor) else "an array"
        return f"{kind} {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, bool | int | float | str):
        return repr(value)[:40]
    return f"a {type(value).__name__}"


def _wrong(got: str, place: str, do: str) -> DataError:
    return DataError(wanted=WANTED, got=got, where=place, do=do)
